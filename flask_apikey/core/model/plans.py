"""Plans, which keys and owners share by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from flask_apikey.core.errors import APIKeyError, InvalidValue
from flask_apikey.core.model.quotas import Quota, checked_quota, parse_quota
from flask_apikey.core.model.rates import Rate, checked_rate, parse_rates
from flask_apikey.core.model.validation import checked_plan

_OWNER, _KEY = "owner", "key"
_PARTS = ("rate", "quota", "per")


class UnknownPlan(APIKeyError):
    """A key or its owner has a plan that ``APIKEY_PLANS`` does not have."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan in ``APIKEY_PLANS``.

    Attributes:
        name: The name.
        rates: The rates, from the shortest window to the longest.
        is_shared: True if all keys of an owner on this plan share its limits.
        quota: The quota; None for none.
    """

    name: str
    rates: tuple[Rate, ...] = ()
    is_shared: bool = False
    quota: Quota | None = None


def checked_plans(value: object) -> Mapping[str, Plan]:
    """Validate ``APIKEY_PLANS``, or raise an InvalidValue that names the plan and the part that is wrong."""
    if not isinstance(value, Mapping):
        raise InvalidValue(
            f"must be a mapping of plans by name, not {type(value).__name__}, such as "
            '{"free": {"rate": "60/minute"}}'
        )
    plans = {}
    for name, parts in value.items():
        if checked_plan(name) != name or name is None:
            raise InvalidValue(f"{name!r:.100} is not the name of a plan: it has white space at an end, or is None")
        try:
            plans[name] = _plan(name, parts)
        except InvalidValue as exc:
            raise InvalidValue(f"plan {name!r}: {exc}") from None
    return plans


def plan_named(plans: Mapping[str, Plan], name: object, fallback: str | None = None) -> Plan:
    """Return a plan by its name; an unknown plan has the fallback in its place.

    Raises:
        UnknownPlan: There is no such plan, and no fallback.
    """
    plan = plans.get(name) if isinstance(name, str) else None
    if plan is None and fallback is not None and isinstance(name, str):
        plan = plans[fallback]
    if plan is None:
        raise UnknownPlan(
            f"the plan {name!r:.120} is not in APIKEY_PLANS: add it, change the plan, or set APIKEY_FALLBACK_PLAN"
        )
    return plan


def _plan(name: str, parts: object) -> Plan:
    if not isinstance(parts, Mapping):
        raise InvalidValue(f'must be a mapping such as {{"rate": "60/minute"}}, not {type(parts).__name__}')
    unknown = [each for each in parts if each not in _PARTS]
    if unknown:
        raise InvalidValue(f"unknown part {unknown[0]!r:.100}; the parts of a plan are {', '.join(_PARTS)}")
    per = parts.get("per", _KEY)
    if per not in (_OWNER, _KEY):
        raise InvalidValue(f"per must be 'owner' or 'key', not {per!r:.100}")
    rate, text = checked_rate(parts.get("rate")), checked_quota(parts.get("quota"))
    quota = None if text is None else parse_quota(text)
    if quota is not None and quota.is_from_creation and per == _OWNER:
        raise InvalidValue(
            f"quota: {text!r} starts with each key, but per is 'owner', whose keys share it: leave out 'from creation'"
        )
    return Plan(name, () if rate is None else parse_rates(rate), is_shared=per == _OWNER, quota=quota)

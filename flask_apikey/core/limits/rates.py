"""The rates that apply to a key."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from flask_apikey.core.limits.buckets import bucket_of_key, bucket_of_plan
from flask_apikey.core.limits.quotas import QuotaStatus
from flask_apikey.core.limits.windows import WindowState
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.plans import Plan
from flask_apikey.core.model.rates import Rate, parse_rates


class AppliedRates(NamedTuple):
    """Rates, and the bucket in which they are counted.

    Attributes:
        rates: The rates; empty for no limit.
        bucket: The bucket.
        is_shared: True if the bucket is that of an owner.
    """

    rates: tuple[Rate, ...]
    bucket: str
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of a key, and what is left of them.

    Attributes:
        plan: Name of the plan that applies; None for none.
        is_shared: True if all keys of the owner on this plan share the windows.
        windows: The windows, from the shortest to the longest; empty if there is no rate.
        quota: The quota; None for none.
    """

    plan: str | None
    is_shared: bool
    windows: tuple[WindowState, ...]
    quota: QuotaStatus | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "plan": self.plan,
            "shared": self.is_shared,
            "windows": [
                {
                    "rate": str(window.rate),
                    "limit": window.rate.amount,
                    "seconds": window.rate.seconds,
                    "remaining": window.remaining,
                    "resets_in": round(window.resets_in, 3),
                }
                for window in self.windows
            ],
            "quota": None if self.quota is None else self.quota.to_dict(),
        }


def applied_rates(record: APIKey, plan: Plan | None, prefix: str) -> AppliedRates:
    """Return the rates of a key: its own, or else those of its plan.

    Args:
        record: The key.
        plan: Its plan.
        prefix: Prefix of the keys of an application.
    """
    if record.rate is not None:
        return AppliedRates(parse_rates(record.rate), *bucket_of_key(record))
    if plan is None:
        return AppliedRates((), *bucket_of_key(record))
    return AppliedRates(plan.rates, *bucket_of_plan(record, plan, prefix))


def cost_above_rates(rates: tuple[Rate, ...], cost: int) -> Rate | None:
    """Return a rate that a request of this cost never passes, or None."""
    return next((rate for rate in rates if cost > rate.amount), None)

"""The rates that apply to a key."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from flask_apikey.core.limits.windows import WindowState
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.plans import Plan
from flask_apikey.core.model.rates import Rate, parse_rates

_DIGEST_LENGTH = 16


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
        windows: The windows, from the shortest to the longest; empty if there is no limit.
    """

    plan: str | None
    is_shared: bool
    windows: tuple[WindowState, ...]

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
        }


def applied_rates(record: APIKey, plan: Plan | None, prefix: str) -> AppliedRates:
    """Return the rates of a key: its own, or else those of its plan.

    Args:
        record: The key.
        plan: Its plan.
        prefix: Prefix of the keys of an application. Applications on one storage do not share an owner's bucket.
    """
    if record.rate is not None:
        return AppliedRates(parse_rates(record.rate), _bucket_of_key(record))
    if plan is None:
        return AppliedRates((), _bucket_of_key(record))
    if plan.is_shared and record.owner is not None:
        # Some storages limit the length and the characters of a name.
        text = f"{prefix}\0{plan.name}\0{record.owner}"
        digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_LENGTH).hexdigest()
        return AppliedRates(plan.rates, f"owner:{digest}", is_shared=True)
    return AppliedRates(plan.rates, _bucket_of_key(record))


def cost_above_rates(rates: tuple[Rate, ...], cost: int) -> Rate | None:
    """Return a rate that a request of this cost never passes, or None."""
    return next((rate for rate in rates if cost > rate.amount), None)


def _bucket_of_key(record: APIKey) -> str:
    return f"key:{record.id}"

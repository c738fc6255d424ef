"""The quota that applies to a key, and what is left of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from flask_apikey.core.limits.buckets import bucket_of_key, bucket_of_plan
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.plans import Plan
from flask_apikey.core.model.quotas import Quota, QuotaCounter, QuotaState, counter_at, parse_quota
from flask_apikey.core.times import to_isoformat


class AppliedQuota(NamedTuple):
    """A quota, and the subject for which it is counted.

    Attributes:
        quota: The quota.
        subject: Subject of its counters.
        is_shared: True if all keys of an owner on a plan share it.
    """

    quota: Quota
    subject: str
    is_shared: bool = False

    def counter_at(self, record: APIKey, now: datetime) -> QuotaCounter:
        """Return the counter of a key at a moment."""
        return counter_at(self.quota, self.subject, now, record.created_at)


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """Quota of a key, and what is left of it.

    Attributes:
        quota: The quota, such as ``10000/month``.
        is_shared: True if all keys of the owner on this plan share it.
        limit: Its amount, with what was added.
        added: What was added in this period.
        used: What was used of it in this period.
        remaining: What is left.
        starts_at: Start of the period.
        ends_at: End of the period; None for a quota without periods.
    """

    quota: str
    is_shared: bool
    limit: int
    added: int
    used: int
    remaining: int
    starts_at: datetime
    ends_at: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with times in ISO 8601."""
        return {
            "quota": self.quota,
            "shared": self.is_shared,
            "limit": self.limit,
            "added": self.added,
            "used": self.used,
            "remaining": self.remaining,
            "starts_at": None if self.ends_at is None else to_isoformat(self.starts_at),
            "ends_at": to_isoformat(self.ends_at),
        }


def applied_quota(record: APIKey, plan: Plan | None, prefix: str) -> AppliedQuota | None:
    """Return the quota of a key: its own, or else that of its plan. None if it has none.

    Args:
        record: The key.
        plan: Its plan.
        prefix: Prefix of the keys of an application.
    """
    if record.quota is not None:
        quota, bucket = parse_quota(record.quota), bucket_of_key(record)
    elif plan is not None and plan.quota is not None:
        quota, bucket = plan.quota, bucket_of_plan(record, plan, prefix)
    else:
        return None
    kind = f"{quota.period}-from-creation" if quota.is_from_creation else quota.period
    return AppliedQuota(quota, f"{bucket.name}:{kind}", bucket.is_shared)


def quota_status(applied: AppliedQuota, counter: QuotaCounter, state: QuotaState) -> QuotaStatus:
    """Return the status of a quota from the state of its counter."""
    limit = applied.quota.amount + state.added
    return QuotaStatus(
        quota=str(applied.quota),
        is_shared=applied.is_shared,
        limit=limit,
        added=state.added,
        used=state.used,
        # A limit may have been lowered.
        remaining=max(0, limit - state.used),
        starts_at=counter.starts_at,
        ends_at=counter.ends_at,
    )

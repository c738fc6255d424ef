"""The most that a key may give to other keys."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from flask_apikey.core.addresses import are_within
from flask_apikey.core.errors import ExceedsKey
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.model.scopes import covers, uncovered

ANY_OWNER = "keys:any-owner"
"""Scope of a key that may act on the keys of all owners."""

_NEVER = datetime.max.replace(tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Delegation:
    """Ceiling of changes that a key makes to others and to itself: it gives no more than it holds.

    Attributes:
        grantor: The key that acts.
        limits_of: Returns the limits of a key, from its own fields or from a plan.
    """

    grantor: APIKey
    limits_of: Callable[[APIKey], KeyLimits]

    @property
    def acts_for_any_owner(self) -> bool:
        """True if the key may act on the keys of all owners."""
        return covers(self.grantor.scopes, {ANY_OWNER})

    @property
    def is_unlimited(self) -> bool:
        """True if the key has neither a rate nor a quota."""
        limits = self.limits_of(self.grantor)
        return not limits.windows and limits.quota is None

    @property
    def plan(self) -> str | None:
        """Plan of new keys, unless another is chosen."""
        return None if self.is_unlimited else self.grantor.plan

    @property
    def rate(self) -> str | None:
        """Rate of new keys, unless another is chosen."""
        return None if self.is_unlimited else self.grantor.rate

    @property
    def quota(self) -> str | None:
        """Quota of new keys, unless another is chosen."""
        return None if self.is_unlimited else self.grantor.quota

    def check(self, before: APIKey | None, after: APIKey, now: datetime) -> None:
        """Refuse a new key, or a change to one, that goes beyond what the grantor holds.

        Args:
            before: The key before the change; None for a new key.
            after: The key after the change.
            now: The current time.

        Raises:
            ExceedsKey: The key would hold more than the grantor, or get other limits or another owner.
        """
        self.check_scopes(after)
        if not self.acts_for_any_owner and after.owner != self.grantor.owner:
            raise ExceedsKey(f"owner: only a key with the scope {ANY_OWNER} can give a key to another owner")
        base = self if before is None else before
        chosen = (after.plan, after.rate, after.quota) != (base.plan, base.rate, base.quota)
        if chosen and not (self.is_unlimited and self.acts_for_any_owner):
            raise ExceedsKey(
                f"plan, rate and quota: only a key without limits and with the scope {ANY_OWNER} can choose them"
            )
        if before is None or after.owner != before.owner:
            self._check_limits(after)
        if before is None or _ends(after) > _ends(before):
            if before is not None and before.status(now) is Status.EXPIRED:
                raise ExceedsKey("expires_at: an expired key cannot be made to work again: issue a new key instead")
            self._check_expiry(after)
        if before is None or (after.allowed_ips, after.denied_ips) != (before.allowed_ips, before.denied_ips):
            self._check_addresses(after)

    def check_roll(self, record: APIKey) -> None:
        """Refuse to hand out a secret of a key that holds more than the grantor."""
        if record.id == self.grantor.id:
            return
        self.check_scopes(record)
        self._check_limits(record)
        self._check_expiry(record)
        self._check_addresses(record)

    def check_scopes(self, record: APIKey) -> None:
        """Refuse to change, or to give, a key with a scope that the grantor lacks."""
        missing = uncovered(self.grantor.scopes, record.scopes)
        if missing:
            raise ExceedsKey(f"scopes: your key does not hold {', '.join(sorted(missing))}")

    def check_limits_of_others(self) -> None:
        """Refuse to change what is left of limits, unless the grantor has none itself."""
        if not self.is_unlimited:
            raise ExceedsKey("limits: only a key without a rate and a quota can change what is left of them")

    def _check_limits(self, record: APIKey) -> None:
        """Refuse a key whose requests would come on top of the limits of the grantor."""
        if self.is_unlimited:
            return
        grantor = self.grantor
        limits = self.limits_of(grantor)
        quota = limits.quota
        if (limits.windows and not limits.is_shared) or (quota is not None and not quota.is_shared):
            raise ExceedsKey(
                "limits: your key has a rate or a quota of its own, which other keys would multiply: use a key without "
                "limits, or a plan with 'per': 'owner'"
            )
        held = grantor.owner, grantor.plan, grantor.rate, grantor.quota
        if (record.owner, record.plan, record.rate, record.quota) != held:
            raise ExceedsKey("limits: your key shares the limits of its owner, and this key would have others")

    def _check_expiry(self, record: APIKey) -> None:
        if _ends(record) > _ends(self.grantor):
            raise ExceedsKey(
                f"expires_at: no key can live longer than yours, which ends at {_ends(self.grantor).isoformat()}"
            )

    def _check_addresses(self, record: APIKey) -> None:
        allowed, denied = self.grantor.allowed_ips, self.grantor.denied_ips
        if allowed and not (record.allowed_ips and are_within(record.allowed_ips, allowed)):
            raise ExceedsKey(f"allowed_ips: the addresses must be among those of your key: {', '.join(allowed)}")
        if not are_within(denied, record.denied_ips):
            raise ExceedsKey(f"denied_ips: the addresses must include those of your key: {', '.join(denied)}")


def _ends(record: APIKey) -> datetime:
    return record.expires_at or _NEVER

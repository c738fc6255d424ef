"""The most that an owner may give to their own keys."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.model.scopes import uncovered
from flask_apikey.core.times import in_words


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Limit on new keys and on changes. What a key holds already may stay or be narrowed.

    Attributes:
        scopes: Scopes that may be given. A wildcard needs the same one or a wider one.
        lifetime: Maximum time until a key expires, from now; None for no limit.
        plan: Plan of new keys. No key gets another.
        rate: Rate of new keys. No key gets another.
        quota: Quota of new keys. No key gets another.
    """

    scopes: frozenset[str]
    lifetime: timedelta | None
    plan: str | None = None
    rate: str | None = None
    quota: str | None = None

    def check(self, before: APIKey | None, after: APIKey, now: datetime) -> None:
        """Refuse a key, or a change to one, that goes beyond the ceiling.

        Args:
            before: The key before the change; None for a new key.
            after: The key after the change.
            now: The current time.

        Raises:
            InvalidValue: The key would get a scope or an expiry beyond the ceiling, or other limits.
        """
        held = frozenset() if before is None else before.scopes
        refused = uncovered(self.scopes, after.scopes) & uncovered(held, after.scopes)
        if refused:
            allowed = ", ".join(sorted(self.scopes)) or "none"
            raise InvalidValue(f"scopes: {', '.join(sorted(refused))} cannot be given; these can: {allowed}")
        limits = self if before is None else before
        if (after.plan, after.rate, after.quota) != (limits.plan, limits.rate, limits.quota):
            raise InvalidValue("plan, rate and quota cannot be chosen here: they are the application's to set")
        if before is None or _is_later(before.expires_at, after.expires_at):
            self._check_expiry(before, after, now)

    def _check_expiry(self, before: APIKey | None, after: APIKey, now: datetime) -> None:
        if before is not None and before.status(now) is Status.EXPIRED:
            raise InvalidValue("expires_at: an expired key cannot be made to work again: issue a new key instead")
        if before is not None and uncovered(self.scopes, after.scopes):
            raise InvalidValue("expires_at: a key with scopes that cannot be given cannot be made to work longer")
        if self.lifetime is not None and (after.expires_at is None or after.expires_at - now > self.lifetime):
            raise InvalidValue(f"the key must expire within {in_words(self.lifetime)}")


def _is_later(before: datetime | None, after: datetime | None) -> bool:
    return before is not None and (after is None or after > before)

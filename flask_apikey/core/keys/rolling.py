"""Rolling a key: a new secret, a grace period for the previous ones, and its end."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from flask_apikey.core.errors import ConfigurationError, KeyEnded
from flask_apikey.core.keys.grace import (
    count_previous_secrets,
    refuse_unless_unused,
    secrets_in_grace,
    without_previous_secrets,
    without_secret,
)
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model import keystring
from flask_apikey.core.model.history import ROLLED, SECRETS_ENDED
from flask_apikey.core.model.keys import APIKey, IssuedKey, StoredKey
from flask_apikey.core.model.sealing import NO_SECRETS, SealedSecrets, digest
from flask_apikey.core.model.validation import checked_duration, checked_reason
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.times import Clock, Duration, in_words, utc_now
from flask_apikey.core.usage.last_use import last_uses_of


@dataclass(frozen=True, slots=True)
class FinishedRoll:
    """A key after its previous secrets were ended.

    Attributes:
        record: The record after the change.
        ended: Number of previous secrets that were ended; 0 if none worked any more.
    """

    record: APIKey
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuePolicy:
    """Settings for new keys and secrets.

    Attributes:
        prefix: Prefix of new keys.
        lifetime: Default lifetime; None for no expiry.
        recoverable: Seal the key string itself besides its digest.
        plans: Names of the plans that a key can get.
    """

    prefix: str = "fak"
    lifetime: timedelta | None = timedelta(days=365)
    recoverable: bool = False
    plans: frozenset[str] = frozenset()

    def issue(self, record: APIKey) -> IssuedKey:
        """Make a new secret for a key."""
        return IssuedKey(keystring.mint(record.prefix, record.id), record)

    def secrets_of(self, issued: IssuedKey, previous: SealedSecrets = NO_SECRETS) -> SealedSecrets:
        """Return the content of the seal for a new secret and the previous ones."""
        return SealedSecrets((digest(issued.key), *previous.digests), issued.key if self.recoverable else None)


class KeyRolling:
    """Rolls keys and ends previous secrets."""

    def __init__(
        self,
        repository: KeyRepository,
        policy: IssuePolicy | None = None,
        usage: UsageStore | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._repository = repository
        self._policy = policy or IssuePolicy()
        self._usage = usage
        self._clock = clock

    def for_owner(self, owner: str) -> "KeyRolling":
        """Return the rolling of one owner's keys."""
        return KeyRolling(self._repository.for_owner(owner), self._policy, self._usage, self._clock)

    def roll(
        self,
        key_id: str,
        *,
        grace: Duration = timedelta(0),
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> IssuedKey:
        """Give a key a new secret; see `APIKeys.roll`."""
        reason = checked_reason(reason)
        grace = checked_duration(grace, "grace", zero=True)
        now = self._clock()
        stored = self._get_active(key_id, now, expected_version)
        secrets = self._repository.secrets_of(stored)
        previous, ends = secrets_in_grace(stored.record, secrets, grace, now)
        record = replace(
            stored.record,
            prefix=self._policy.prefix,
            rolled_at=now,
            previous_secrets_expire_at=ends,
            # The adopted secret is the oldest one.
            adopted=stored.record.adopted if ends and previous.digests[-1] == secrets.digests[-1] else None,
        )
        issued = self._policy.issue(record)
        secrets = self._policy.secrets_of(issued, previous)
        change = Change(record, ROLLED, {"grace_seconds": grace.total_seconds()}, reason, secrets)
        return replace(issued, record=self._repository.write(stored, change).record)

    def finish(
        self,
        key_id: str,
        *,
        unused_for: Duration | None = None,
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> FinishedRoll:
        """End the previous secrets of a key; see `APIKeys.finish_roll`."""
        duration = None if unused_for is None else checked_duration(unused_for, "unused_for")
        reason = checked_reason(reason)
        if duration is not None and self._usage is None:
            raise ConfigurationError("the last use of secrets is unknown: the storage keeps no usage")
        now = self._clock()
        stored = self._get_active(key_id, now, expected_version)
        working = count_previous_secrets(stored.record, now)
        if not working:
            return FinishedRoll(stored.record, 0)
        details: dict[str, object] = {}
        if duration is not None and self._usage is not None:
            last_use = last_uses_of(self._usage, [stored.record])[key_id].previous
            refuse_unless_unused(stored.record, last_use, duration, now)
            details["unused_for_seconds"] = duration.total_seconds()
            reason = reason or f"unused for {in_words(duration)}"
        change = Change(without_previous_secrets(stored.record), SECRETS_ENDED, details, reason)
        return FinishedRoll(self._repository.write(stored, change).record, working)

    def end_secret(self, key_id: str, position: int, *, expected_version: int, reason: str | None = None) -> APIKey:
        """End the previous secret at a position, of a version of the key, before its grace period is over."""
        reason = checked_reason(reason)
        stored = self._repository.get(key_id, expected_version)
        record, secrets = without_secret(stored.record, self._repository.secrets_of(stored), position)
        change = Change(record, SECRETS_ENDED, reason=reason, secrets=secrets)
        return self._repository.write(stored, change).record

    def _get_active(self, key_id: str, now: datetime, expected_version: int | None = None) -> StoredKey:
        stored = self._repository.get(key_id, expected_version)
        if stored.record.has_ended(now):
            raise KeyEnded(f"key {key_id} is {stored.record.status(now).value}: issue a new key instead")
        return stored

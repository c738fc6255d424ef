"""Rolling keys: a new secret in place of another, and the end of those that it leaves working."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from flask_apikey.core.errors import ConfigurationError, KeyEnded
from flask_apikey.core.keys.grace import (
    FinishedRoll,
    left_working,
    refuse_unless_idle,
    without_previous_secrets,
    without_secret,
    working_previous_secrets,
)
from flask_apikey.core.keys.issuance import Issuance
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model import keystring
from flask_apikey.core.model.history import ROLLED, SECRETS_ENDED
from flask_apikey.core.model.keys import APIKey, IssuedKey, Status, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, digest
from flask_apikey.core.model.validation import checked_duration, checked_reason
from flask_apikey.core.storage.contract import Backend, KeepsUsage
from flask_apikey.core.times import Clock, Duration, utc_now
from flask_apikey.core.usage.last_use import last_uses_of


class Rolls:
    """What changes the secrets of a key. `Lifecycle` has everything else too.

    Args:
        backend: Where the keys are kept.
        ring: The application's Fernet keys.
        issuance: How keys are issued.
        clock: The present moment, in UTC.
        origin: Gives what an event should tell of where a change comes from.
    """

    def __init__(
        self,
        backend: Backend,
        ring: FernetKeyring,
        issuance: Issuance | None = None,
        clock: Clock = utc_now,
        origin: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._changes = KeyRepository(backend, clock, origin)
        self._usage = backend if isinstance(backend, KeepsUsage) else None
        self._ring = ring
        self._issuance = issuance or Issuance()
        self._clock = clock

    def roll(self, key_id: str, *, grace: Duration = timedelta(0), expected_version: int | None = None) -> IssuedKey:
        """Give a key a new secret; id, scopes and expiry stay.

        Args:
            key_id: The key.
            grace: How long the secret that it replaces works on, as a timedelta or text
                such as ``"24h"``, at most until the key expires; zero ends it at once.
                Secrets replaced earlier keep their own end, or end with this one where
                that is sooner.
            expected_version: Roll it only if its version is this one still.

        Raises:
            KeyNotFound: No key has this id.
            KeyEnded: The key is revoked or expired.
            InvalidValue: `grace` is no duration, negative or longer than 100 years.
            Conflict: Somebody else changed the key at the same moment, or its version is another.
            TooManySecrets: Too many previous secrets still work.
        """
        grace = checked_duration(grace, "grace", zero=True)
        now = self._clock()
        stored = self._active(key_id, now, expected_version)
        earlier, ends = left_working(stored, self._ring, grace, now)
        record = replace(stored.record, prefix=self._issuance.prefix, rolled_at=now, previous_secrets_expire_at=ends)
        key = keystring.mint(record.prefix, record.id)
        secrets = self._secrets(key, earlier)
        rolled = Change(StoredKey(record, self._ring.seal(secrets)), ROLLED, {"grace_seconds": grace.total_seconds()})
        return IssuedKey(key, self._changes.make(stored, rolled).record)

    def finish_roll(self, key_id: str, *, idle: Duration) -> FinishedRoll:
        """End the secrets that rolls left working, if none of them was used for a while.

        It looks at the uses that are stored, and at none that a process has not stored yet.

        Args:
            key_id: The key.
            idle: For how long no previous secret was used, such as ``"24h"``; the last roll must
                be as long ago.

        Raises:
            KeyNotFound: No key has this id.
            KeyEnded: The key is revoked or expired.
            SecretInUse: A previous secret was used since, or the last roll is too recent.
            Conflict: Somebody else changed the key at the same moment.
            ConfigurationError: The storage keeps no usage.
        """
        idle = checked_duration(idle, "idle")
        if self._usage is None:
            raise ConfigurationError("when a secret was last used is not known: the storage keeps no usage")
        now = self._clock()
        stored = self._active(key_id, now)
        working = working_previous_secrets(stored.record, now)
        if not working:
            return FinishedRoll(stored.record, 0)
        last_use = last_uses_of(self._usage, [stored.record])[key_id].previous
        refuse_unless_idle(stored.record, last_use, idle, now)
        finished = Change(without_previous_secrets(stored), SECRETS_ENDED, {"idle_seconds": idle.total_seconds()})
        return FinishedRoll(self._changes.make(stored, finished).record, working)

    def end_previous_secrets(self, key_id: str, *, reason: str | None = None) -> FinishedRoll:
        """End every secret that rolls left working, used or not, such as after a leak.

        Args:
            key_id: The key.
            reason: Why, for the history.

        Raises:
            KeyNotFound: No key has this id.
            KeyEnded: The key is revoked or expired.
            Conflict: Somebody else changed the key at the same moment.
        """
        reason = checked_reason(reason)
        now = self._clock()
        stored = self._active(key_id, now)
        working = working_previous_secrets(stored.record, now)
        if not working:
            return FinishedRoll(stored.record, 0)
        ended = Change(without_previous_secrets(stored), SECRETS_ENDED, {"reason": reason} if reason else {})
        return FinishedRoll(self._changes.make(stored, ended).record, working)

    def end_secret(self, key_id: str, position: int, *, expected_version: int, reason: str | None = None) -> APIKey:
        """End one of the secrets that a roll left working, before its time.

        Args:
            key_id: The key.
            position: Which secret: 1 for the one before the newest, and so on.
            expected_version: The version of the key in which the secret has this position.
            reason: Why, for the history.

        Raises:
            KeyNotFound: No key has this id.
            Conflict: Somebody else changed the key meanwhile, or it has no such secret.
        """
        reason = checked_reason(reason)
        stored = self._changes.stored(key_id, expected_version)
        ended = without_secret(stored, self._ring, position)
        return self._changes.make(stored, Change(ended, SECRETS_ENDED, {"reason": reason} if reason else {})).record

    def _active(self, key_id: str, now: datetime, expected_version: int | None = None) -> StoredKey:
        stored = self._changes.stored(key_id, expected_version)
        status = stored.record.status(now)
        if status is not Status.ACTIVE:
            raise KeyEnded(f"key {key_id} is {status.value}: issue a new key instead")
        return stored

    def _secrets(self, key: str, earlier: tuple[bytes, ...] = ()) -> SealedSecrets:
        return SealedSecrets((digest(key), *earlier), key if self._issuance.recoverable else None)

"""The life of a key: created, changed, rolled, revealed, revoked, removed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from flask_apikey.core.errors import AlreadyExists, InvalidValue, NotRecoverable, StorageError
from flask_apikey.core.keys.bulk import BulkRevocation, prune, revoke_many
from flask_apikey.core.keys.repository import Change, Outcome
from flask_apikey.core.keys.rolling import Rolls
from flask_apikey.core.model import keystring
from flask_apikey.core.model.history import REVEALED, REVOKED, UPDATED
from flask_apikey.core.model.keys import APIKey, Cursor, IssuedKey, Status, StoredKey
from flask_apikey.core.model.updates import checked_fields
from flask_apikey.core.model.validation import (
    checked_duration,
    checked_limit,
    checked_moment,
    checked_owner,
    checked_reason,
)
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import Duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from flask_apikey.core.model.updates import Changes

_MOST_IDS = 3


class Default(Enum):
    """Stands for a lifetime that the settings decide."""

    LIFETIME = "lifetime"


Lifetime: TypeAlias = Duration | Literal[Default.LIFETIME] | None


class Lifecycle(Rolls):
    """Everything that changes a key.

    Args:
        backend: Where the keys are kept.
        ring: The application's Fernet keys.
        issuance: How keys are issued.
        clock: The present moment, in UTC.
        origin: Gives what an event should tell of where a change comes from.
    """

    def create(
        self,
        *,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        lifetime: Lifetime = Default.LIFETIME,
        expires_at: datetime | None = None,
        allowed_ips: Iterable[str] = (),
        denied_ips: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> IssuedKey:
        """Issue a new key.

        Args:
            name: What people call it.
            owner: The id of the user or tenant it is for.
            scopes: What it may be used for; without any it satisfies no scope requirement.
            lifetime: How long it lives, as a timedelta or text such as ``"90d"``; None for ever;
                unless given, as configured.
            expires_at: In place of a lifetime: when it ends.
            allowed_ips: Addresses and networks that alone may use it.
            denied_ips: Addresses and networks that may not.
            metadata: A JSON object of the application's own.

        Raises:
            InvalidValue: A value cannot be stored.
            StorageError: Nothing was issued.
        """
        now = self._clock()
        given = {
            "name": name,
            "owner": owner,
            "scopes": scopes,
            "allowed_ips": allowed_ips,
            "denied_ips": denied_ips,
            "metadata": {} if metadata is None else metadata,
        }
        record = APIKey(
            id=keystring.new_id(),
            prefix=self._issuance.prefix,
            created_at=now,
            updated_at=now,
            expires_at=self._end(now, lifetime, expires_at),
            **checked_fields(given),
        )
        for _ in range(_MOST_IDS):
            key = keystring.mint(record.prefix, record.id)
            try:
                self._changes.add(StoredKey(record, self._ring.seal(self._secrets(key))))
            except AlreadyExists:
                record = replace(record, id=keystring.new_id())
            else:
                return IssuedKey(key, record)
        raise StorageError(
            f"{_MOST_IDS} random ids one after the other are said to be stored already, and no key was issued: "
            "either the storage is wrong, or the random numbers of this machine repeat"
        )

    def get(self, key_id: str) -> APIKey:
        """The record of a key.

        Raises:
            KeyNotFound: No key has this id.
        """
        return self._changes.stored(key_id).record

    def list(
        self,
        *,
        owner: str | None = None,
        status: Status | str | None = None,
        expiring_within: Duration | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[APIKey]:
        """The records of many keys, oldest first, fetched as the iterator is read.

        Args:
            owner: Only keys of this owner.
            status: Only keys that are ``"active"``, ``"expired"`` or ``"revoked"``.
            expiring_within: Only active keys that expire within this time, such as ``"14d"``.
            after: Continue behind the key whose `APIKey.cursor` this is.
            limit: At most so many.

        Raises:
            InvalidValue: `status` or `after` is none that exists, or the keys of `status`
                do not expire any more.
        """
        checked_limit(limit)
        cursor = None if after is None else Cursor.parse(after)
        keys = self._changes.each(self._filter(checked_owner(owner), status, expiring_within), cursor, limit)
        return (key.record for key in keys)

    def update(self, key_id: str, **changes: "Unpack[Changes]") -> Outcome:
        """Change ``name``, ``owner``, ``scopes``, ``allowed_ips``, ``denied_ips``, ``metadata`` or ``expires_at``.

        What is not named stays as it is. ``expires_at=None`` lets the key live for ever.

        Raises:
            KeyNotFound: No key has this id.
            InvalidValue: A value cannot be stored; nothing was changed.
        """
        checked = checked_fields(changes)

        def updated(stored: StoredKey) -> Change | None:
            record = replace(stored.record, **checked)
            if record == stored.record:
                return None
            return Change(replace(stored, record=record), UPDATED, {"fields": sorted(changes)})

        return self._outcome(key_id, updated)

    def revoke(self, key_id: str, *, reason: str | None = None) -> Outcome:
        """End a key for good. A key that is revoked already stays as it is.

        Raises:
            KeyNotFound: No key has this id.
        """
        reason = checked_reason(reason)

        def revoked(stored: StoredKey) -> Change | None:
            if stored.record.revoked_at is not None:
                return None
            record = replace(stored.record, revoked_at=self._clock(), revocation_reason=reason)
            return Change(replace(stored, record=record), REVOKED, {"reason": reason} if reason else {})

        return self._outcome(key_id, revoked)

    def revoke_many(
        self,
        *,
        owner: str | None = None,
        issued_before: datetime | None = None,
        reason: str | None = None,
        dry_run: bool = False,
        progress: Callable[[APIKey, str], object] | None = None,
    ) -> BulkRevocation:
        """End every active key of an owner, or every secret that was issued before a moment, or both.

        A key whose current secret was issued at the moment or later stays. If the key
        itself is older, previous secrets that a roll left working end at once: when
        they were issued is not stored. So afterwards no secret works that was issued
        before the moment. It may be interrupted and repeated.

        Args:
            owner: Only keys of this owner.
            issued_before: The moment.
            reason: Why; it is kept with the keys.
            dry_run: Change nothing, only count.
            progress: Called with each record as it is then, and ``"key.revoked"`` or
                ``"key.secrets_ended"``.

        Raises:
            InvalidValue: Neither an owner nor a moment was given.
        """
        if owner is None and issued_before is None:
            raise InvalidValue("name an owner, or the moment before which a secret must have been issued")
        return revoke_many(
            self._changes,
            self._clock,
            owner=checked_owner(owner),
            issued_before=None if issued_before is None else checked_moment(issued_before, "issued_before"),
            reason=checked_reason(reason),
            dry_run=dry_run,
            progress=progress,
        )

    def reveal(self, key_id: str) -> str:
        """The key string of a key that was issued as recoverable.

        Raises:
            KeyNotFound: No key has this id.
            NotRecoverable: Revealing is not configured, or only the digest is stored.
        """
        if not self._issuance.recoverable:
            raise NotRecoverable("keys are not recoverable: APIKEY_RECOVERABLE is off")
        stored = self._changes.stored(key_id)
        key = self._ring.unseal(stored.seal).key
        if key is None:
            raise NotRecoverable(
                f"key {key_id} was issued while APIKEY_RECOVERABLE was off: roll it to get a new secret"
            )
        self._changes.note(REVEALED, stored.record)
        return key

    def prune(
        self,
        *,
        ended_before: datetime,
        dry_run: bool = False,
        progress: Callable[[APIKey], object] | None = None,
    ) -> int:
        """Remove keys that were revoked or expired before a moment.

        Args:
            ended_before: The moment.
            dry_run: Remove nothing, only count.
            progress: Called with each record.

        Returns:
            How many were removed.
        """
        moment = checked_moment(ended_before, "ended_before")
        return prune(self._changes, moment, dry_run=dry_run, progress=progress)

    def _end(self, now: datetime, lifetime: Lifetime, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None:
            if lifetime is not Default.LIFETIME:
                raise InvalidValue("lifetime and expires_at exclude each other")
            end = checked_moment(expires_at, "expires_at")
            if end <= now:
                raise InvalidValue("expires_at must be in the future")
            return end
        if lifetime is Default.LIFETIME:
            lifetime = self._issuance.lifetime
        return None if lifetime is None else now + checked_duration(lifetime, "lifetime")

    def _outcome(self, key_id: str, change_of: Callable[[StoredKey], Change | None]) -> Outcome:
        stored, change = self._changes.apply(key_id, change_of)
        return Outcome(stored.record, change is not None)

    def _filter(self, owner: str | None, status: Status | str | None, expiring_within: Duration | None) -> KeyFilter:
        try:
            wanted = None if status is None else Status(status)
        except ValueError:
            raise InvalidValue(f"status must be one of {', '.join(each.value for each in Status)}") from None
        now = self._clock()
        if expiring_within is not None:
            if wanted is not None and wanted is not Status.ACTIVE:
                raise InvalidValue(f"expiring_within is about active keys, and not about {wanted.value} ones")
            until = now + checked_duration(expiring_within, "expiring_within")
            return KeyFilter(owner=owner, revoked=False, expires_after=now, expires_by=until)
        match wanted:
            case None:
                return KeyFilter(owner=owner)
            case Status.REVOKED:
                return KeyFilter(owner=owner, revoked=True)
            case Status.EXPIRED:
                return KeyFilter(owner=owner, revoked=False, expires_by=now)
            case Status.ACTIVE:
                return KeyFilter(owner=owner, revoked=False, expires_after=now)

"""Reading and writing stored keys: sealed rows, compare-and-set, and one history event for each change."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import islice

from flask_apikey.core.errors import (
    AlreadyExists,
    Conflict,
    KeyNotFound,
    RowDamaged,
    RowTampered,
    SealUnreadable,
    StorageError,
)
from flask_apikey.core.keys.adopted_lookup import stored_adoption_key
from flask_apikey.core.keys.row_cache import forget_row
from flask_apikey.core.model.adopted_forms import AdoptionKey
from flask_apikey.core.model.history import (
    ADOPTION_ID,
    ADOPTION_STARTED,
    CREATED,
    GENESIS,
    PRUNED,
    REVOKED,
    REVOKED_UNSEALED,
    STORAGE_ID,
    LifecycleEvent,
)
from flask_apikey.core.model.keys import APIKey, Cursor, DamagedKey, StoredKey
from flask_apikey.core.model.sealed_rows import sealed_row, secrets_of
from flask_apikey.core.model.sealing import NO_SECRETS, FernetKeyring, SealedSecrets
from flask_apikey.core.model.validation import MAX_REASON_LENGTH, checked_id
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.text import redacted, sanitized
from flask_apikey.core.times import Clock

_PAGE = 500
_ATTEMPTS = 20

ChangeListener = Callable[[str, APIKey, "str | None"], object]
"""Called after each change with the event's name, the record after it and the reason."""


def ignore_change(_event: str, _record: APIKey, _reason: str | None) -> None:
    """Listen to changes and do nothing."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change to a stored key.

    Attributes:
        record: The record after the change; the repository sets ``updated_at`` and ``version``.
        event: Name of the history event.
        details: Further fields of the history event.
        reason: Explanation for the history and the audit log.
        secrets: The secrets after the change; None to keep them.
    """

    record: APIKey
    event: str
    details: Mapping[str, object] = field(default_factory=dict)
    reason: str | None = None
    secrets: SealedSecrets | None = None

    @property
    def summary(self) -> str | None:
        """The reason for the audit log; for an update, behind the names of the fields."""
        fields = self.details.get("fields")
        names = ", ".join(map(str, fields)) if isinstance(fields, list) else None
        return ": ".join(text for text in (names, self.reason) if text) or None


class KeyRepository:
    """Stored keys, with their seals and their history.

    Args:
        origin: Returns the fields of an event that describe the caller: ``actor``, and details such as the address.
        listener: Called after each change.
    """

    def __init__(
        self,
        backend: Backend,
        keyring: FernetKeyring,
        clock: Clock,
        origin: Callable[[], Mapping[str, str]] = dict,
        listener: ChangeListener = ignore_change,
    ) -> None:
        self._backend = backend
        self._keyring = keyring
        self._clock = clock
        self._origin = origin
        self._listener = listener
        self._owner: str | None = None
        self._guard: Callable[[APIKey], object] | None = None

    def for_owner(self, owner: str) -> "KeyRepository":
        """Return the repository with the keys of one owner only. It does not find any other key."""
        restricted = copy(self)
        restricted._owner = owner  # noqa: SLF001  # a copy of this object
        return restricted

    def guarded(self, guard: Callable[[APIKey], object]) -> "KeyRepository":
        """Return the repository behind a check of each key as it is read, and read again, for a change.

        Args:
            guard: Raises an error to refuse a key.
        """
        restricted = copy(self)
        restricted._guard = guard  # noqa: SLF001  # a copy of this object
        return restricted

    @property
    def keeps_quotas(self) -> bool:
        """True if the storage counts what is used of quotas."""
        return self._backend.quotas is not None

    def get(self, key_id: str, expected_version: int | None = None) -> StoredKey:
        """Return the key with this id. Raises `Conflict` if it has another version than the expected one."""
        try:
            stored = self._backend.get(checked_id(key_id))
        except RowDamaged:
            # Nobody can tell whose key it is.
            if self._owner is not None or self._guard is not None:
                raise KeyNotFound(f"no key has the id {key_id}") from None
            raise
        if stored is None or stored.record.pruned_at is not None or self._owner not in {None, stored.record.owner}:
            raise KeyNotFound(f"no key has the id {key_id}")
        if expected_version is not None and stored.record.version != expected_version:
            raise Conflict(f"key {key_id} was changed since it was read; nothing was written")
        if self._guard is not None:
            self._guard(stored.record)
        return stored

    def find(
        self,
        key_filter: KeyFilter,
        after: Cursor | None = None,
        limit: int | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[StoredKey]:
        """Iterate over the keys that match a filter, fetching them in pages."""
        page_size = _PAGE if limit is None else min(limit, _PAGE)
        return islice(self._pages(self._own(key_filter), after, page_size, newest_first=newest_first), limit)

    def count(self, key_filter: KeyFilter) -> int:
        """Count the keys that match a filter."""
        return self._backend.count(self._own(key_filter))

    def scan(self, key_filter: KeyFilter) -> Iterator[StoredKey | DamagedKey]:
        """Iterate over the keys that match a filter by id, damaged ones included."""
        return self._backend.scan(self._own(key_filter))

    def secrets_of(self, stored: StoredKey) -> SealedSecrets:
        """Return the secrets of a key.

        Raises:
            SealUnreadable: The configured Fernet keys do not open the seal.
            RowTampered: The seal does not fit the row.
        """
        return secrets_of(stored, self._keyring)

    def add(self, record: APIKey, secrets: SealedSecrets, *, reason: str | None = None) -> None:
        """Store a new key.

        Raises:
            AlreadyExists: A key with this id exists.
        """
        self._add(Change(record, CREATED, _origin_of(record), reason, secrets))
        self._listener(CREATED, record, reason)

    def add_many(self, keys: Sequence[tuple[APIKey, SealedSecrets]], *, reason: str | None = None) -> None:
        """Store new keys in few statements.

        Raises:
            AlreadyExists: A key with one of the ids exists. Unless writes of the storage are all or none,
                other keys may be stored.
        """
        sealed = [
            self._sealed(Change(record, CREATED, _origin_of(record), reason), secrets, "", record.owner)
            for record, secrets in keys
        ]
        events = [event for _, event in sealed if event is not None]
        self._backend.add_many([key for key, _ in sealed], events=events)
        for record, _ in keys:
            self._listener(CREATED, record, reason)

    def adoption_key(self, *, dry_run: bool = False) -> AdoptionKey:
        """Return the secret key that derives the ids of adopted keys. The first call of all processes makes it.

        With `dry_run`, a key that would be made is not stored.

        Raises:
            StorageError: Its row is missing, although there are adopted keys.
            SealUnreadable: The configured Fernet keys do not open the seal of its row.
            RowTampered: The seal does not fit the row.
        """
        for _ in range(_ATTEMPTS):
            stored = self._backend.get(ADOPTION_ID)
            if stored is not None:
                return stored_adoption_key(stored, self._keyring)
            if self._backend.find(KeyFilter(adopted=True, pruned=None), after=None, limit=1):
                if self._backend.get(ADOPTION_ID) is not None:
                    # Another process made it in between, and adopted a key.
                    continue
                # With a new key, revoked and removed keys could be adopted again.
                raise StorageError(
                    f"the row {ADOPTION_ID}, which finds adopted keys, is missing: restore it from a backup"
                )
            key, now = AdoptionKey.generate(), self._clock()
            if dry_run:
                return key
            record = APIKey(id=ADOPTION_ID, prefix="", name="", created_at=now, updated_at=now, pruned_at=now)
            with suppress(AlreadyExists):
                self._add(Change(record, ADOPTION_STARTED, secrets=SealedSecrets((key.secret,))))
                return key
        raise Conflict(f"the row {ADOPTION_ID} was added and removed on each of {_ATTEMPTS} attempts")

    def write(self, before: StoredKey, change: Change) -> StoredKey:
        """Write a change by compare-and-set on the version and the seal that were read.

        Raises:
            Conflict: The key was changed or removed since it was read.
            KeyNotFound: It was handed over, and this repository is restricted to an owner.
            SealUnreadable: The configured Fernet keys do not open its seal.
            RowTampered: Its seal does not fit.
        """
        try:
            key = self._write(before, change)
        except Conflict:
            if self._owner is not None:
                # Raises KeyNotFound if the key was handed over to another owner.
                self.get(before.record.id)
            raise
        self._listener(change.event, key.record, change.summary)
        return key

    def change(
        self, key_id: str, change_of: Callable[[StoredKey], Change | None], expected_version: int | None = None
    ) -> tuple[StoredKey, Change | None]:
        """Read a key and change it, retrying on conflicts.

        Args:
            key_id: Id of the key.
            change_of: Returns the change to make to the key as it was read; None for no change.
            expected_version: Change only a key with this version.

        Raises:
            KeyNotFound: No key has this id.
            Conflict: Every attempt met a concurrent change, or the key has another version.
            SealUnreadable: The configured Fernet keys do not open its seal.
            RowTampered: Its seal does not fit.
        """
        for _ in range(_ATTEMPTS):
            stored = self.get(key_id, expected_version)
            change = change_of(stored)
            if change is None:
                return stored, None
            try:
                return self.write(stored, change), change
            except Conflict:
                continue
        raise Conflict(f"key {key_id} met a concurrent change on each of {_ATTEMPTS} attempts; nothing was written")

    def remove(self, stored: StoredKey, *, reason: str | None = None) -> None:
        """Replace a key by a tombstone, by compare-and-set.

        Raises:
            Conflict: The key was changed or removed since it was read.
            SealUnreadable: The configured Fernet keys do not open its seal.
            RowTampered: Its seal does not fit.
        """
        record = stored.record
        tombstone = APIKey(
            id=record.id,
            prefix=record.prefix,
            name="",
            created_at=record.created_at,
            updated_at=record.updated_at,
            pruned_at=self._clock(),
            adopted=record.adopted,
        )
        self._write(stored, Change(tombstone, PRUNED, reason=reason, secrets=NO_SECRETS))
        self._listener(PRUNED, record, reason)

    def read(self, key_id: str) -> StoredKey:
        """Return the key, the tombstone or the row of the storage itself with this id.

        Raises:
            KeyNotFound: No row has this id.
        """
        stored = self._backend.get(checked_id(key_id))
        if stored is None:
            raise KeyNotFound(f"no key has the id {key_id}")
        return stored

    def accept(self, before: StoredKey, change: Change, *, previous: str) -> StoredKey:
        """Seal a row that does not fit, at the version of the change, by compare-and-set. Used by `KeyRepair`.

        Args:
            before: The row as it was read.
            change: The row to seal, with its secrets.
            previous: Hash of the event before.

        Raises:
            Conflict: The row was changed or removed since it was read.
        """
        key, event = self._sealed(change, change.secrets or NO_SECRETS, previous, change.record.owner)
        self._update(before, key, event)
        self._listener(change.event, key.record, change.reason)
        return key

    def revoke_unsealed(self, key_id: str, reason: str | None) -> APIKey:
        """Write a revocation into a row that is damaged or does not fit its seal. The seal stays as it is.

        Returns:
            The record, with empty fields where the row is damaged.

        Raises:
            KeyNotFound: No key has this id.
        """
        now = self._clock()
        try:
            if not self._backend.revoke_unsealed(checked_id(key_id), revoked_at=now, reason=reason):
                raise KeyNotFound(f"no key has the id {key_id}")
        finally:
            forget_row(key_id)
        try:
            record = self.get(key_id).record
        except (KeyNotFound, RowDamaged):
            record = APIKey(
                id=key_id,
                prefix="",
                name="",
                created_at=now,
                updated_at=now,
                revoked_at=now,
                revocation_reason=reason,
                version=0,
            )
        # Tampering with the history of the storage must not prevent a revocation.
        with suppress(RowDamaged, RowTampered, SealUnreadable):
            self.record_without_key(REVOKED_UNSEALED, {"key": key_id}, owner=record.owner, reason=reason)
        self._listener(REVOKED, record, reason)
        return record

    def record_without_key(
        self, event: str, details: Mapping[str, object], *, owner: str | None = None, reason: str | None = None
    ) -> None:
        """Record an event in the history of the storage itself.

        Raises:
            SealUnreadable: The configured Fernet keys do not open the seal of its row.
            RowTampered: The seal does not fit the row.
        """
        if self._backend.history is None:
            return
        for _ in range(_ATTEMPTS):
            stored = self._backend.get(STORAGE_ID)
            with suppress(AlreadyExists, Conflict):
                if stored is not None:
                    self._write(stored, Change(stored.record, event, details, reason, NO_SECRETS), owner)
                    return
                now = self._clock()
                record = APIKey(id=STORAGE_ID, prefix="", name="", created_at=now, updated_at=now, pruned_at=now)
                self._add(Change(record, event, details, reason, NO_SECRETS), owner)
                return
        raise Conflict(f"{event} met a concurrent event on each of {_ATTEMPTS} attempts and was not recorded")

    def _own(self, key_filter: KeyFilter) -> KeyFilter:
        return key_filter if self._owner is None else replace(key_filter, owner=self._owner)

    def _pages(
        self, key_filter: KeyFilter, after: Cursor | None, page_size: int, *, newest_first: bool
    ) -> Iterator[StoredKey]:
        while page := self._backend.find(key_filter, after=after, limit=page_size, newest_first=newest_first):
            yield from page
            if len(page) < page_size:
                return
            after = Cursor(page[-1].record.created_at, page[-1].record.id)

    def _add(self, change: Change, owner: str | None = None) -> None:
        key, event = self._sealed(change, change.secrets or NO_SECRETS, "", owner or change.record.owner)
        self._backend.add(key, event=event)

    def _write(self, before: StoredKey, change: Change, owner: str | None = None) -> StoredKey:
        owner = owner or change.record.owner or before.record.owner
        for _ in range(_ATTEMPTS):
            # Only a row that fits may get a new seal, even if the change replaces all secrets.
            secrets = self.secrets_of(before)
            version = before.record.version
            record = replace(change.record, updated_at=self._clock(), version=version + 1)
            sealed_change = replace(change, record=record)
            # A process that is behind in a rotation must not bring back the old Fernet key.
            fingerprint = before.seal.fingerprint if change.secrets is None else None
            key, event = self._sealed(sealed_change, change.secrets or secrets, before.history_hash, owner, fingerprint)
            try:
                self._update(before, key, event)
            except Conflict:
                current = self._backend.get(record.id)
                if current is None or not _is_resealed(before, current):
                    raise
                before = current
            else:
                return key
        raise Conflict(f"key {before.record.id} was re-sealed on each of {_ATTEMPTS} attempts; nothing was written")

    def _update(self, before: StoredKey, after: StoredKey, event: LifecycleEvent | None) -> None:
        version, seal = before.record.version, before.seal.token
        try:
            self._backend.update(after, expected_version=version, expected_seal=seal, event=event)
        finally:
            # Even after an error, as the change may be stored.
            forget_row(after.record.id)

    def _sealed(
        self, change: Change, secrets: SealedSecrets, previous: str, owner: str | None, fingerprint: str | None = None
    ) -> tuple[StoredKey, LifecycleEvent | None]:
        record = change.record
        event = None
        if self._backend.history is not None:
            origin = dict(self._origin())
            actor = origin.pop("actor", "")
            document = json.dumps({**origin, **change.details}, sort_keys=True, separators=(",", ":"))
            event = LifecycleEvent(
                key_id=record.id,
                number=record.version,
                at=self._clock(),
                event=change.event,
                owner=owner,
                actor=actor,
                # Cut again: a redacted text can be longer.
                reason=change.reason and sanitized(redacted(change.reason), MAX_REASON_LENGTH),
                details=redacted(document),
                previous=previous or GENESIS,
            )
        history_hash = "" if event is None else event.hash
        return sealed_row(record, history_hash, secrets, self._keyring, fingerprint), event


def _origin_of(record: APIKey) -> Mapping[str, object]:
    return {} if record.adopted is None else {"adopted": record.adopted}


def _is_resealed(before: StoredKey, current: StoredKey) -> bool:
    return before.seal != current.seal and before == replace(current, seal=before.seal)

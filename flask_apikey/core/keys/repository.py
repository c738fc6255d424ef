"""Reading and writing stored keys: compare-and-set, one history event and one announcement for each change."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType

from flask_apikey.core.errors import Conflict, KeyNotFound
from flask_apikey.core.model.history import CREATED, PRUNED, LifecycleEvent
from flask_apikey.core.model.keys import APIKey, Cursor, StoredKey
from flask_apikey.core.model.validation import checked_id
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.text import redacted
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
        key: The key after the change; the repository sets ``updated_at`` and ``version``.
        event: Name of the history event.
        details: Further fields of the history event.
        reason: Explanation for the audit log.
    """

    key: StoredKey
    event: str
    details: Mapping[str, object] = field(default_factory=dict)
    reason: str | None = None


class KeyRepository:
    """Stored keys, with their history.

    Args:
        origin: Returns the fields of an event that describe the caller, such as the address.
        listener: Called after each change.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        origin: Callable[[], Mapping[str, str]] = dict,
        listener: ChangeListener = ignore_change,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._origin = origin
        self._listener = listener

    def get(self, key_id: str, expected_version: int | None = None) -> StoredKey:
        """Return the key with this id. Raises `Conflict` if it has another version than the expected one."""
        stored = self._backend.get(checked_id(key_id))
        if stored is None:
            raise KeyNotFound(f"no key has the id {key_id}")
        if expected_version is not None and stored.record.version != expected_version:
            raise Conflict(f"key {key_id} was changed since it was read; nothing was written")
        return stored

    def find(self, key_filter: KeyFilter, after: Cursor | None = None, limit: int | None = None) -> Iterator[StoredKey]:
        """Iterate over the keys that match a filter, oldest first, fetching them in pages."""
        return islice(self._pages(key_filter, after, _PAGE if limit is None else min(limit, _PAGE)), limit)

    def add(self, key: StoredKey) -> None:
        """Store a new key."""
        self._backend.add(key, event=self._event(CREATED, key.record))
        self._listener(CREATED, key.record, None)

    def write(self, before: StoredKey, change: Change) -> StoredKey:
        """Write a change by compare-and-set.

        An unchanged seal is not written: re-sealing leaves versions alone, so the
        seal that was read may be outdated.
        """
        version = before.record.version
        record = replace(change.key.record, updated_at=self._clock(), version=version + 1)
        key = replace(change.key, record=record)
        keep_seal = key.seal == before.seal
        event = self._event(change.event, record, change.details)
        self._backend.update(key, expected_version=version, keep_seal=keep_seal, event=event)
        self._listener(change.event, record, change.reason)
        return key

    def change(self, key_id: str, change_of: Callable[[StoredKey], Change | None]) -> tuple[StoredKey, Change | None]:
        """Read a key and change it, retrying on conflicts.

        Args:
            key_id: Id of the key.
            change_of: Returns the change to make to the key as it was read; None for no change.

        Raises:
            KeyNotFound: No key has this id.
            Conflict: Every attempt met a concurrent change.
        """
        for _ in range(_ATTEMPTS):
            stored = self.get(key_id)
            change = change_of(stored)
            if change is None:
                return stored, None
            try:
                return self.write(stored, change), change
            except Conflict:
                continue
        raise Conflict(f"key {key_id} met a concurrent change on each of {_ATTEMPTS} attempts; nothing was written")

    def remove(self, record: APIKey) -> None:
        """Remove a key for good by compare-and-set."""
        event = self._event(PRUNED, replace(record, version=record.version + 1))
        self._backend.delete(record.id, expected_version=record.version, event=event)
        self._listener(PRUNED, record, None)

    def record(self, event: str, record: APIKey) -> None:
        """Record an event that does not change its key."""
        self._append(self._event(event, record))
        self._listener(event, record, None)

    def record_without_key(self, event: str, details: Mapping[str, object]) -> None:
        """Record an event about the storage as a whole."""
        self._append(self._event(event, None, details))

    def _pages(self, key_filter: KeyFilter, after: Cursor | None, page_size: int) -> Iterator[StoredKey]:
        while page := self._backend.find(key_filter, after=after, limit=page_size):
            yield from page
            after = Cursor(page[-1].record.created_at, page[-1].record.id)

    def _append(self, event: LifecycleEvent | None) -> None:
        if self._backend.history is not None and event is not None:
            self._backend.history.record(event)

    def _event(
        self, event: str, record: APIKey | None, details: Mapping[str, object] = MappingProxyType({})
    ) -> LifecycleEvent | None:
        if self._backend.history is None:
            return None
        key_id, version = ("", 0) if record is None else (record.id, record.version)
        document = redacted(json.dumps({**self._origin(), **details}, sort_keys=True, separators=(",", ":")))
        return LifecycleEvent(at=self._clock(), event=event, key_id=key_id, key_version=version, details=document)

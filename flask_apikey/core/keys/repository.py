"""Changes to stored keys: each by compare-and-set, and with the event that tells of it."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from flask_apikey.core.errors import Conflict, KeyNotFound
from flask_apikey.core.model import keystring
from flask_apikey.core.model.history import CREATED, PRUNED, LifecycleEvent
from flask_apikey.core.model.keys import APIKey, Cursor, StoredKey
from flask_apikey.core.model.validation import checked_id
from flask_apikey.core.storage.contract import Backend, KeepsHistory, KeyFilter
from flask_apikey.core.times import Clock

_PAGE = 500
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Change:
    """What a key becomes, and how that is told.

    Attributes:
        key: The key as it shall be; moment and version of the change are set when it is written.
        event: The name of the lifecycle event.
        details: More of it.
    """

    key: StoredKey
    event: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a key that was to be changed.

    Attributes:
        record: What is stored of it now.
        is_changed: Whether anything was written: the key may have been so already.
    """

    record: APIKey
    is_changed: bool


class KeyRepository:
    """Reads and writes keys for everything that changes them.

    Args:
        backend: Where the keys are kept; it keeps their history too, if it is able to.
        clock: The present moment, in UTC.
        origin: Gives what an event should tell of where a change comes from.
    """

    def __init__(self, backend: Backend, clock: Clock, origin: Callable[[], Mapping[str, str]]) -> None:
        self._backend = backend
        self._clock = clock
        self._origin = origin
        self._history = backend if isinstance(backend, KeepsHistory) else None

    def stored(self, key_id: str, expected_version: int | None = None) -> StoredKey:
        """The key with this id.

        Args:
            key_id: The key.
            expected_version: Its version; None for whichever it has.

        Raises:
            KeyNotFound: There is none.
            Conflict: Its version is another.
        """
        stored = self._backend.get(checked_id(key_id))
        if stored is None:
            raise KeyNotFound(f"no key has the id {key_id}")
        if expected_version is not None and stored.record.version != expected_version:
            raise Conflict(f"key {key_id} was changed since it was read; nothing was written")
        return stored

    def each(self, key_filter: KeyFilter, after: Cursor | None = None, limit: int | None = None) -> Iterator[StoredKey]:
        """The keys that pass a filter, oldest first, fetched as the iterator is read."""
        return islice(self._each(key_filter, after, _PAGE if limit is None else min(limit, _PAGE)), limit)

    def add(self, key: StoredKey) -> None:
        """Store a new key.

        Raises:
            AlreadyExists: A key with this id is stored already.
        """
        if self._history is None:
            self._backend.add(key)
        else:
            self._history.add_recorded(key, self._event(CREATED, key.record, {}))

    def make(self, before: StoredKey, change: Change) -> StoredKey:
        """Write a change to a key that is still as it was read.

        A seal that is not changed is not written: whoever re-seals keys leaves their
        version alone, and the seal that was read may be gone by now.

        Raises:
            Conflict: Somebody else changed or removed it since.
        """
        version = before.record.version
        record = replace(change.key.record, updated_at=self._clock(), version=version + 1)
        key = replace(change.key, record=record)
        keep_seal = key.seal == before.seal
        if self._history is None:
            self._backend.update(key, expected_version=version, keep_seal=keep_seal)
        else:
            event = self._event(change.event, record, change.details)
            self._history.update_recorded(key, expected_version=version, event=event, keep_seal=keep_seal)
        return key

    def apply(self, key_id: str, change_of: Callable[[StoredKey], Change | None]) -> tuple[StoredKey, Change | None]:
        """Read a key and change it, again and again while others change it in between.

        Args:
            key_id: The key.
            change_of: Gives what is to be changed of the key as it is; None for nothing.

        Returns:
            The key as it is now, and the change that was made.

        Raises:
            KeyNotFound: No key has this id.
            Conflict: Others change the key all the time.
        """
        for _ in range(_ATTEMPTS):
            stored = self.stored(key_id)
            change = change_of(stored)
            if change is None:
                return stored, None
            try:
                return self.make(stored, change), change
            except Conflict:
                continue
        raise Conflict(f"key {key_id} is being changed by others all the time; nothing was written")

    def remove(self, record: APIKey) -> None:
        """Remove a key for good that is still as it was read.

        Raises:
            Conflict: Somebody else changed or removed it since.
        """
        if self._history is None:
            self._backend.delete(record.id, expected_version=record.version)
        else:
            event = self._event(PRUNED, replace(record, version=record.version + 1), {})
            self._history.delete_recorded(record.id, expected_version=record.version, event=event)

    def note(self, event: str, record: APIKey) -> None:
        """Keep an event that changes no key."""
        if self._history is not None:
            self._history.record(self._event(event, record, {}))

    def note_about_no_key(self, event: str, details: Mapping[str, object]) -> None:
        """Keep an event that is about the storage as a whole."""
        if self._history is not None:
            self._history.record(self._told(event, "", 0, details))

    def _each(self, key_filter: KeyFilter, after: Cursor | None, page_size: int) -> Iterator[StoredKey]:
        while page := self._backend.find(key_filter, after=after, limit=page_size):
            yield from page
            after = Cursor(page[-1].record.created_at, page[-1].record.id)

    def _event(self, event: str, record: APIKey, details: Mapping[str, object]) -> LifecycleEvent:
        return self._told(event, record.id, record.version, details)

    def _told(self, event: str, key_id: str, key_version: int, details: Mapping[str, object]) -> LifecycleEvent:
        told = {**self._origin(), **details}
        return LifecycleEvent(
            at=self._clock(),
            event=event,
            key_id=key_id,
            key_version=key_version,
            details=keystring.redacted(json.dumps(told, sort_keys=True, separators=(",", ":"))),
        )

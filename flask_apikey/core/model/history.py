"""History of keys: lifecycle events in a hash chain that reveals tampering.

Each event carries the SHA-256 of the event before. Editing, deleting or reordering
events breaks the chain, unless all later events are rewritten too. Every version of
a key has an event, so truncating the chain is revealed by the keys. A rewrite of the
whole chain is revealed by a link that was noted elsewhere.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from flask_apikey.core.times import to_microseconds

GENESIS = "0" * 64

CREATED = "key.created"
UPDATED = "key.updated"
ROLLED = "key.rolled"
SECRETS_ENDED = "key.secrets_ended"
REVEALED = "key.revealed"
REVOKED = "key.revoked"
PRUNED = "key.pruned"
COPIED = "key.copied"

MAX_NUMBER = 2**63 - 1

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleEvent:
    """Change of a key, or step of a Fernet key rotation.

    Attributes:
        at: Time of the event, in UTC.
        event: ``key.created``, ``key.updated``, ``key.rolled``, ``key.secrets_ended``,
            ``key.revealed``, ``key.revoked``, ``key.pruned`` or ``key.copied``, or
            ``rotation.started``, ``rotation.run``, ``rotation.finished`` or ``rotation.cancelled``.
        key_id: The key; empty for a rotation.
        key_version: The key's version after the change; 0 for a rotation.
        details: Details, a JSON object as text.
    """

    at: datetime
    event: str
    key_id: str
    key_version: int
    details: str = "{}"

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON values."""
        return {
            "at": self.at.isoformat(),
            "event": self.event,
            "key_id": self.key_id,
            "key_version": self.key_version,
            "details": json.loads(self.details),
        }


@dataclass(frozen=True, slots=True)
class ChainedEvent:
    """Event in the chain.

    Attributes:
        number: Position in the chain, from 1.
        event: The event.
        previous: Hash of the event before; `GENESIS` for the first.
        hash: SHA-256 of number, event and `previous`, in hexadecimal.
    """

    number: int
    event: LifecycleEvent
    previous: str
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """Return the event and its hashes as JSON values."""
        return {"number": self.number, **self.event.to_dict(), "previous": self.previous, "hash": self.hash}


@dataclass(frozen=True, slots=True)
class Link:
    """Number and hash of the last event. ``Link()`` is the position before the first event."""

    number: int = 0
    hash: str = GENESIS

    @classmethod
    def of(cls, event: ChainedEvent) -> "Link":
        """Return the position after `event`."""
        return cls(event.number, event.hash)


class HistoryReader(Protocol):
    """Reader of stored events."""

    def events(self, *, after: int, limit: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
        """Return the next events after a number, in order; with `key_id`, only those of this key."""


def chained(last: Link, event: LifecycleEvent) -> ChainedEvent:
    """Return `event` as the successor of `last`."""
    number = last.number + 1
    return ChainedEvent(number, event, last.hash, _hash(number, event, last.hash))


def all_events(reader: HistoryReader, after: int = 0, key_id: str | None = None) -> Iterator[ChainedEvent]:
    """Iterate over the events after number `after`; with `key_id`, only those of this key."""
    while page := reader.events(after=after, limit=_PAGE, key_id=key_id):
        yield from page
        after = page[-1].number


def last_events(reader: HistoryReader, count: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
    """Return the newest `count` events in order; with `key_id`, only those of this key."""
    after = max(0, _newest_number(reader) - count) if key_id is None else 0
    return list(deque(all_events(reader, after, key_id), maxlen=count))


def _newest_number(reader: HistoryReader) -> int:
    """Return the number of the newest event, or 0. A galloping search needs few queries."""
    newest, step = 0, 1
    while page := reader.events(after=min(newest + step - 1, MAX_NUMBER), limit=1):
        newest, step = page[0].number, step * 2
    while step > 1:
        step //= 2
        if page := reader.events(after=min(newest + step - 1, MAX_NUMBER), limit=1):
            newest = page[0].number
    return newest


class BrokenChain(Exception):
    """Tampered history.

    Attributes:
        number: Number of the first wrong event; None if events are missing at the end.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number


def verify_chain(
    events: Iterator[ChainedEvent],
    versions: Mapping[str, int],
    expected: Link | None = None,
    *,
    is_present: Callable[[str], bool] = lambda _: False,
) -> Link:
    """Verify a chain, and that it has an event for the version of every key. Return its end.

    Args:
        events: All events in order.
        versions: The version of each key, read before the events.
        expected: A position noted earlier, which must be in the chain.
        is_present: Returns True if a key exists that is not in `versions`.

    Raises:
        BrokenChain: An event is wrong or missing.
    """
    last = Link()
    without_event = dict(versions)
    other_keys: dict[str, int] = {}
    is_found = expected is None or expected == last
    for event in events:
        _verify_link(last, event)
        last = Link.of(event)
        is_found = is_found or last == expected
        key_id = event.event.key_id
        if key_id in versions:
            if without_event.get(key_id) == event.event.key_version:
                del without_event[key_id]
        elif key_id:
            other_keys[key_id] = event.number
            if event.event.event == PRUNED:
                del other_keys[key_id]
    for key_id, version in without_event.items():
        raise BrokenChain(f"no event has version {version} of key {key_id}: events are missing at the end")
    for number, key_id in sorted((number, key_id) for key_id, number in other_keys.items()):
        if not is_present(key_id):
            raise BrokenChain(f"key {key_id} is gone, and no event after number {number} records it", number)
    if not is_found and expected is not None:
        raise BrokenChain(f"the chain has no event {expected.number} with the noted hash", expected.number)
    return last


def _verify_link(last: Link, event: ChainedEvent) -> None:
    if event.number != last.number + 1:
        raise BrokenChain(f"event {last.number + 1} is missing: {event.number} follows {last.number}", last.number + 1)
    if event.previous != last.hash:
        raise BrokenChain(f"event {event.number} does not follow the one before it", event.number)
    if event.hash != _hash(event.number, event.event, event.previous):
        raise BrokenChain(f"event {event.number} was changed", event.number)


def _hash(number: int, event: LifecycleEvent, previous: str) -> str:
    content = [number, to_microseconds(event.at), event.event, event.key_id, event.key_version, event.details, previous]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

"""What happened to keys: lifecycle events, chained so that a later change to them is found.

Each event carries the SHA-256 of the one before. Who edits, removes or reorders
events without writing everything behind them anew breaks the chain. The end of
the chain is held by the keys: every key's version has an event, so that events
cannot be cut off either without changing keys too. Somebody who can write to the storage and rewrites the
whole chain is found by comparing with a link that was noted elsewhere.
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
    """A change to a key, or a step of a rotation of the Fernet key.

    Attributes:
        at: When, in UTC.
        event: ``key.created``, ``key.updated``, ``key.rolled``, ``key.secrets_ended``,
            ``key.revealed``, ``key.revoked``, ``key.pruned`` or ``key.copied``, or
            ``rotation.started``, ``rotation.run``, ``rotation.finished`` or ``rotation.cancelled``.
        key_id: The key; empty for what is about no key.
        key_version: Its version after the change; 0 for what is about no key.
        details: More of it, as a JSON object.
    """

    at: datetime
    event: str
    key_id: str
    key_version: int
    details: str = "{}"

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON values."""
        return {
            "at": self.at.isoformat(),
            "event": self.event,
            "key_id": self.key_id,
            "key_version": self.key_version,
            "details": json.loads(self.details),
        }


@dataclass(frozen=True, slots=True)
class ChainedEvent:
    """An event and its link in the chain.

    Attributes:
        number: Its place, from 1.
        event: What happened.
        previous: The hash of the event before, or `GENESIS`.
        hash: SHA-256 over all of this, in hexadecimal.
    """

    number: int
    event: LifecycleEvent
    previous: str
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """The event and its link as JSON values."""
        return {"number": self.number, **self.event.to_dict(), "previous": self.previous, "hash": self.hash}


@dataclass(frozen=True, slots=True)
class Link:
    """Where a chain stands: the last event's number and hash; ``Link()`` before the first."""

    number: int = 0
    hash: str = GENESIS

    @classmethod
    def of(cls, event: ChainedEvent) -> "Link":
        """Where the chain stands after `event`."""
        return cls(event.number, event.hash)


class HistoryReader(Protocol):
    """What can be asked for the events that are stored."""

    def events(self, *, after: int, limit: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
        """The next `limit` events behind number `after`, in order; with `key_id`, only those of that key."""


def chained(last: Link, event: LifecycleEvent) -> ChainedEvent:
    """The event as the one that follows `last`."""
    number = last.number + 1
    return ChainedEvent(number, event, last.hash, _hash(number, event, last.hash))


def all_events(reader: HistoryReader, after: int = 0, key_id: str | None = None) -> Iterator[ChainedEvent]:
    """Every event behind number `after`, a page at a time; with `key_id`, only those of that key."""
    while page := reader.events(after=after, limit=_PAGE, key_id=key_id):
        yield from page
        after = page[-1].number


def last_events(reader: HistoryReader, count: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
    """The newest `count` events, in order; with `key_id`, only those of that key, of which all are read then."""
    after = max(0, _newest_number(reader) - count) if key_id is None else 0
    return list(deque(all_events(reader, after, key_id), maxlen=count))


def _newest_number(reader: HistoryReader) -> int:
    """The number of the newest event, found in ever larger steps and then ever smaller ones; 0 where there is none."""
    newest, step = 0, 1
    while page := reader.events(after=min(newest + step - 1, MAX_NUMBER), limit=1):
        newest, step = page[0].number, step * 2
    while step > 1:
        step //= 2
        if page := reader.events(after=min(newest + step - 1, MAX_NUMBER), limit=1):
            newest = page[0].number
    return newest


class BrokenChain(Exception):
    """The history was changed.

    Attributes:
        number: The first event that is not what it was; None when events are missing at the end.
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
    """Check every event, and that every key's version has one.

    Args:
        events: All events, in order.
        versions: The version of each key, read before the events.
        expected: A link that was noted earlier, which must be in the chain.
        is_present: Whether there is a key that was not there when `versions` was read.

    Returns:
        Where the chain stands.

    Raises:
        BrokenChain: With the first event that is wrong.
    """
    last = Link()
    untold = dict(versions)
    others: dict[str, int] = {}
    noted = expected is None or expected == last
    for event in events:
        _verify_link(last, event)
        last = Link.of(event)
        noted = noted or last == expected
        key_id = event.event.key_id
        if key_id in versions:
            if untold.get(key_id) == event.event.key_version:
                del untold[key_id]
        elif key_id:
            others[key_id] = event.number
            if event.event.event == PRUNED:
                del others[key_id]
    for key_id, version in untold.items():
        raise BrokenChain(f"no event tells of version {version} of key {key_id}: events are missing at the end")
    for number, key_id in sorted((number, key_id) for key_id, number in others.items()):
        if not is_present(key_id):
            raise BrokenChain(f"key {key_id} is gone, and no event behind number {number} tells of it", number)
    if not noted and expected is not None:
        raise BrokenChain(
            f"the chain does not hold event {expected.number} with the hash that was noted", expected.number
        )
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

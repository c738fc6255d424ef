"""History of keys: events in one hash chain for each key, anchored in its sealed row.

Event number n of a key describes its version n. Each event carries the SHA-256 of the
event before, and the sealed row carries that of the last one. Editing, removing,
adding or reordering events is therefore revealed by the row, and editing the row by
its seal. Keys share no chain, so their writers never wait for each other.

Events about no key, such as steps of a rotation, belong to the row `STORAGE_ID`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.times import from_microseconds, to_microseconds

STORAGE_ID = "0" * 16
"""Id of the row whose history holds the events that are about no key."""

ADOPTION_ID = "0" * 15 + "1"
"""Id of the row that holds the secret key from which the ids of adopted keys are derived."""

ROWS_OF_STORAGE = frozenset({STORAGE_ID, ADOPTION_ID})
"""Ids of rows that are neither keys nor tombstones."""

GENESIS = "0" * 64
"""The previous hash of the first event of a chain."""

ADOPTION_STARTED = "adoption.started"
ADOPTED_REPLACED = "key.adopted_replaced"
CREATED = "key.created"
UPDATED = "key.updated"
ROLLED = "key.rolled"
SECRETS_ENDED = "key.secrets_ended"
REVEALED = "key.revealed"
SUSPENDED = "key.suspended"
RESUMED = "key.resumed"
REVOKED = "key.revoked"
PRUNED = "key.pruned"
LIMITS_RESET = "key.limits_reset"
QUOTA_ADDED = "key.quota_added"
COPIED = "key.copied"
REPAIRED = "key.repaired"
REVOKED_UNSEALED = "key.revoked_unsealed"

ACCEPTED_PROBLEMS = "history_digest"
"""Field in the details of `REPAIRED`: the `ChainCheck.digest` of the history before it."""

MAX_ACTOR_LENGTH = 200
_MAX_NUMBER = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleEvent:
    """Change of a key, or step of a Fernet key rotation.

    Attributes:
        key_id: The key; `STORAGE_ID` or `ADOPTION_ID` for an event about no key.
        number: The key's version after the change.
        at: Time of the event, in UTC.
        event: ``key.created``, ``key.updated``, ``key.rolled``, ``key.secrets_ended``, ``key.revealed``,
            ``key.suspended``, ``key.resumed``, ``key.revoked``, ``key.limits_reset``, ``key.quota_added``,
            ``key.adopted_replaced``, ``key.pruned``, ``key.copied`` or ``key.repaired``; without a key
            ``key.revoked_unsealed``, ``adoption.started``, ``rotation.started``, ``rotation.run``,
            ``rotation.finished`` or ``rotation.cancelled``.
        owner: Owner of the key after the change.
        actor: Who made the change.
        reason: Explanation, if given.
        details: Further details, a JSON object as text.
        previous: Hash of the event before; `GENESIS` for the first.
        hash: SHA-256 of all other attributes, in hexadecimal. Computed if left out.
    """

    key_id: str
    number: int
    at: datetime
    event: str
    owner: str | None = None
    actor: str = ""
    reason: str | None = None
    details: str = "{}"
    previous: str = GENESIS
    hash: str = field(default="")

    def __post_init__(self) -> None:
        if not self.hash:
            object.__setattr__(self, "hash", self._computed_hash())

    @property
    def is_intact(self) -> bool:
        """True if the hash is that of the other attributes."""
        try:
            return self.hash == self._computed_hash()
        except (OverflowError, RecursionError, TypeError, ValueError):
            # Storages without column types hold anything.
            return False

    @property
    def accepted_problems(self) -> str | None:
        """Digest of the problems of earlier events that a repair accepted."""
        details = _json(self.details)
        accepted = details.get(ACCEPTED_PROBLEMS) if isinstance(details, dict) else None
        return accepted if isinstance(accepted, str) else None

    @property
    def cursor(self) -> str:
        """Position of this event in a listing, for the next page."""
        return f"{to_microseconds(self.at)}.{self.key_id}.{self.number}"

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON values. ``key_id`` is None for an event about no key."""
        return {
            "at": self.at.isoformat(),
            "event": self.event,
            "key_id": None if self.key_id in ROWS_OF_STORAGE else self.key_id,
            "number": self.number,
            "owner": self.owner,
            "actor": self.actor,
            "reason": self.reason,
            "details": _json(self.details),
            "previous": self.previous,
            "hash": self.hash,
        }

    def _computed_hash(self) -> str:
        values = {name: getattr(self, name) for name in _HASHED}
        values["at"] = to_microseconds(self.at)
        return hashlib.sha256(_encode(values).encode()).hexdigest()


_HASHED = tuple(each.name for each in fields(LifecycleEvent) if each.name != "hash")
# json.dumps() would make an encoder for each event.
_encode = json.JSONEncoder(sort_keys=True).encode


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (RecursionError, TypeError, ValueError):
        return text


@dataclass(frozen=True, slots=True)
class EventPosition:
    """Position in a listing of events, after an event.

    Attributes:
        at: Time of the event.
        key_id: Its key.
        number: Its number.
    """

    at: datetime
    key_id: str
    number: int

    @classmethod
    def of(cls, event: LifecycleEvent) -> "EventPosition":
        """Return the position after `event`."""
        return cls(event.at, event.key_id, event.number)

    @classmethod
    def parse(cls, text: str) -> "EventPosition":
        """Parse the text of `LifecycleEvent.cursor`.

        Raises:
            InvalidValue: The text has another form.
        """
        try:
            at, _, place = text.partition(".")
            key_id, dot, number = place.rpartition(".")
            if dot and abs(int(number)) < _MAX_NUMBER:
                return cls(from_microseconds(int(at)), key_id, int(number))
        except (AttributeError, ValueError, OverflowError):
            pass
        raise InvalidValue("the cursor is not from a listing of events")


def stored_event(values: Mapping[str, Any]) -> LifecycleEvent | None:
    """Return an event from stored values, with ``at`` in microseconds.

    Invalid values give an event that is not intact. None if the moment, the key or the number
    is invalid: the event then has no place in a listing, and counts as missing.
    """
    places = values["at"], values["number"]
    if not isinstance(values["key_id"], str) or not all(is_number(place) for place in places):
        return None
    try:
        at = from_microseconds(values["at"])
    except OverflowError:
        return None
    return LifecycleEvent(**{**values, "at": at, "hash": values["hash"] or "missing"})


def is_number(value: object) -> bool:
    """Return True for a whole number. Storages without column types hold anything as the number of an event."""
    return isinstance(value, int) and not isinstance(value, bool)


class ChainCheck:
    """Check of the events of one key, which are added in the order of their numbers.

    Attributes:
        last: The last event.
        problem: Number of the first event that does not hold, and the reason; None if all hold.
    """

    def __init__(self) -> None:
        self.last: LifecycleEvent | None = None
        self.problem: tuple[int, str] | None = None
        self._problems = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Digest of all problems, by which an operator accepts them with a repair."""
        return self._problems.hexdigest()

    def add(self, event: LifecycleEvent) -> None:
        """Check the next event."""
        number = event.number
        if not is_number(number) or number < 1:
            self.report(0, f"event {number!r:.20} was added")
            return
        last, self.last = self.last, event
        problem = _link_problem(last, event)
        if problem is not None:
            self.report(*problem)
        if self.problem is not None and event.event == REPAIRED and event.accepted_problems == self.digest:
            self.problem, self._problems = None, hashlib.sha256()

    def end_at(self, number: int, history_hash: str) -> None:
        """Check that the last event is the one that the row of the key names."""
        last_number = 0 if self.last is None else self.last.number
        if last_number < number:
            self.report(last_number + 1, _missing(last_number + 1, number))
        elif last_number > number:
            self.report(number + 1, f"event {number + 1} is newer than the row of the key")
        elif self.last is not None and self.last.is_intact and self.last.hash != history_hash:
            self.report(last_number, f"event {last_number} was replaced")

    def report(self, number: int, problem: str) -> None:
        """Record that an event does not hold."""
        self._problems.update(f"{problem}\n".encode())
        self.problem = self.problem or (number, problem)


def _link_problem(last: LifecycleEvent | None, event: LifecycleEvent) -> tuple[int, str] | None:
    """Return the number of the event that does not hold, and the reason."""
    expected = 1 if last is None else last.number + 1
    # A copy from a storage that keeps no history leaves one event for several versions.
    skips_numbers = event.event == COPIED
    if event.number < expected:
        return event.number, f"event {event.number} was added"
    if event.number > expected and not skips_numbers:
        return expected, _missing(expected, event.number - 1)
    if not event.is_intact:
        return event.number, f"event {event.number} was changed, or is the event of another key"
    if last is None and event.previous != GENESIS:
        return event.number, f"event {event.number} was replaced"
    # The later event is vouched for by those behind it, up to the sealed row.
    if last is not None and event.previous != last.hash:
        return last.number, f"event {last.number} was replaced"
    return None


def _missing(first: int, last: int) -> str:
    return f"event {first} is missing" if first == last else f"events {first} to {last} are missing"

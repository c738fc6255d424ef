"""History of keys: events in one hash chain for each key, anchored in its sealed row.

Event number n of a key describes its version n. Each event carries the SHA-256 of the
event before, and the sealed row carries that of the last one. Editing, removing,
adding or reordering events is therefore revealed by the row, and editing the row by
its seal. Keys share no chain, so their writers never wait for each other.

Events about no key, such as steps of a rotation, belong to the row `STORAGE_ID`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.times import from_microseconds, to_microseconds

STORAGE_ID = "0" * 16
"""Id of the row whose history holds the events that are about no key."""

GENESIS = "0" * 64
"""The previous hash of the first event of a chain."""

CREATED = "key.created"
UPDATED = "key.updated"
ROLLED = "key.rolled"
SECRETS_ENDED = "key.secrets_ended"
REVEALED = "key.revealed"
REVOKED = "key.revoked"
PRUNED = "key.pruned"
COPIED = "key.copied"
REPAIRED = "key.repaired"
REVOKED_UNSEALED = "key.revoked_unsealed"

MAX_ACTOR_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleEvent:
    """Change of a key, or step of a Fernet key rotation.

    Attributes:
        key_id: The key; `STORAGE_ID` for an event about no key.
        number: The key's version after the change.
        at: Time of the event, in UTC.
        event: ``key.created``, ``key.updated``, ``key.rolled``, ``key.secrets_ended``, ``key.revealed``,
            ``key.revoked``, ``key.pruned``, ``key.copied`` or ``key.repaired``; without a key
            ``key.revoked_unsealed``, ``rotation.started``, ``rotation.run``, ``rotation.finished`` or
            ``rotation.cancelled``.
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
        return self.hash == self._computed_hash()

    @property
    def cursor(self) -> str:
        """Position of this event in a listing, for the next page."""
        return f"{to_microseconds(self.at)}.{self.key_id}.{self.number}"

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON values. ``key_id`` is None for an event about no key."""
        return {
            "at": self.at.isoformat(),
            "event": self.event,
            "key_id": None if self.key_id == STORAGE_ID else self.key_id,
            "number": self.number,
            "owner": self.owner,
            "actor": self.actor,
            "reason": self.reason,
            "details": _json(self.details),
            "previous": self.previous,
            "hash": self.hash,
        }

    def _computed_hash(self) -> str:
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "hash"}
        content = json.dumps(values | {"at": to_microseconds(self.at)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
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
            at, key_id, number = text.split(".")
            return cls(from_microseconds(int(at)), key_id, int(number))
        except (AttributeError, ValueError, OverflowError):
            raise InvalidValue("the cursor is not from a listing of events") from None


def stored_event(values: Mapping[str, Any]) -> LifecycleEvent:
    """Return an event from stored values, with ``at`` in microseconds.

    Invalid values give an event that is not intact.
    """
    try:
        at = from_microseconds(values["at"])
    except (ArithmeticError, TypeError, ValueError):
        at = datetime.min.replace(tzinfo=timezone.utc)
    return LifecycleEvent(**{**values, "at": at, "hash": values["hash"] or "missing"})


def chain_problem(events: Sequence[LifecycleEvent], last: LifecycleEvent | None = None) -> tuple[int, str] | None:
    """Return the number of the first event that does not hold, and the reason; None if all hold.

    Args:
        events: Events of one key in order.
        last: The event before the first of them; None at the start of the chain.
    """
    for event in events:
        # A copy from a storage that keeps no history begins a chain at the version of the key.
        begins = last is None and (event.number == 1 or event.event == COPIED)
        if last is not None and event.number != last.number + 1:
            return last.number + 1, f"event {last.number + 1} is missing"
        if last is None and not begins:
            return 1, "event 1 is missing"
        if event.previous != (GENESIS if last is None else last.hash):
            return event.number, f"event {event.number} does not follow the one before it"
        if not event.is_intact:
            return event.number, f"event {event.number} was changed"
        last = event
    return None

"""Verification of all rows and histories, from the sealed rows.

Rows, events and noted heads are read side by side by id, so memory stays constant.
Whatever does not hold is read again before it is reported, because other processes
write at the same time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any, Generic, TypeVar

from flask_apikey.core.errors import ConfigurationError, RowDamaged, RowTampered, SealUnreadable
from flask_apikey.core.keys.heads import Head
from flask_apikey.core.model.history import (
    REPAIRED,
    REVOKED_UNSEALED,
    ROWS_OF_STORAGE,
    ChainCheck,
    LifecycleEvent,
    is_number,
)
from flask_apikey.core.model.keys import DamagedKey, StoredKey
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.chains import all_chains, chain_of
from flask_apikey.core.storage.contract import Backend, HistoryStore, KeyFilter

MAX_PROBLEMS = 100
"""Maximum number of problems kept. All are counted."""

_ATTEMPTS = 20

Row = StoredKey | DamagedKey
T = TypeVar("T")


class ProblemKind(Enum):
    """Kind of a problem."""

    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    TAMPERED = "tampered"
    HISTORY = "history"
    NEWER_EVENTS = "newer_events"
    NO_ROW = "no_row"
    DELETED = "deleted"
    PUT_BACK = "put_back"
    REWRITTEN = "rewritten"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold.

    Attributes:
        key_id: Id of the row or of the events.
        kind: ``damaged``, ``unreadable`` or ``tampered`` for a row; ``history``, ``newer_events`` or ``no_row``
            for events; ``deleted``, ``put_back`` or ``rewritten`` for the difference to a note.
        message: Description for an operator.
        event: Number of the first event concerned, if any.
        fields: Fields of the row that do not fit its seal.
    """

    key_id: str
    kind: ProblemKind
    message: str
    event: int | None = None
    fields: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as JSON values."""
        return {
            "key_id": None if self.key_id in ROWS_OF_STORAGE else self.key_id,
            "kind": self.kind.value,
            "message": self.message,
            "event": self.event,
            "fields": list(self.fields),
        }


@dataclass(slots=True)
class Verification:
    """Result of a verification.

    Attributes:
        keys: Number of keys.
        tombstones: Number of tombstones.
        events: Number of events.
        expected: Number of noted heads.
        found: Number of problems.
        problems: The first `MAX_PROBLEMS` of them.
    """

    keys: int = 0
    tombstones: int = 0
    events: int = 0
    expected: int = 0
    found: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True if there is no problem."""
        return not self.found

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "intact": self.holds,
            "keys": self.keys,
            "tombstones": self.tombstones,
            "events": self.events,
            "expected": self.expected,
            "found": self.found,
            "problems": [problem.to_dict() for problem in self.problems],
        }


def verify_all(
    backend: Backend,
    ring: FernetKeyring,
    *,
    expected: Iterable[Head] = (),
    note: Callable[[Head], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Verification:
    """Verify every row, its history, and the heads that were noted earlier.

    Args:
        backend: Storage to verify; it is only read.
        ring: Fernet keys.
        expected: Noted heads, by id.
        note: Called with the head of each row that holds, by id.
        progress: Called with the number of rows verified since the last call.

    Raises:
        ConfigurationError: The storage keeps no history.
    """
    verifier = KeyVerifier(backend, ring)
    result = Verification()
    rows = _Ordered(backend.scan(KeyFilter(pruned=None)), _row_id)
    events = _Ordered(all_chains(verifier.history), lambda event: event.key_id)
    heads = _Ordered(expected, lambda head: head.id)
    revocations = _UnsealedRevocations()
    while (key_id := min(filter(None, (rows.next_id, events.next_id, heads.next_id)), default=None)) is not None:
        row = next(rows.take(key_id), None)
        head = next(heads.take(key_id), None)
        row, problems, count = verifier.verify(key_id, row, revocations.watch(events.take(key_id)), head)
        problems += revocations.problems(row)
        result.events += count
        result.expected += head is not None
        if key_id not in ROWS_OF_STORAGE and row is not None:
            is_tombstone = isinstance(row, StoredKey) and row.record.pruned_at is not None
            result.tombstones += is_tombstone
            result.keys += not is_tombstone
        for problem in problems:
            result.found += 1
            if len(result.problems) < MAX_PROBLEMS:
                result.problems.append(problem)
        if note is not None and isinstance(row, StoredKey) and not problems:
            note(Head(key_id, row.record.version, row.history_hash))
        if progress is not None and row is not None:
            progress(1)
    for stray in (*rows.strays, *events.strays):
        result.found += 1
        if len(result.problems) < MAX_PROBLEMS:
            result.problems.append(stray)
    return result


class KeyVerifier:
    """Verifies one row and its history.

    Attributes:
        history: The history of the storage.

    Raises:
        ConfigurationError: The storage keeps no history.
    """

    def __init__(self, backend: Backend, ring: FernetKeyring) -> None:
        if backend.history is None:
            raise ConfigurationError(f"the storage ({type(backend).__name__}) keeps no history")
        self.history: HistoryStore = backend.history
        self._backend = backend
        self._ring = ring

    def verify(
        self, key_id: str, row: Row | None, events: Iterable[LifecycleEvent], head: Head | None = None
    ) -> tuple[Row | None, list[Problem], int]:
        """Verify a row and its events as they were read, and both as they stand now if they do not hold.

        Returns:
            The row, its problems and the number of its events.
        """
        problems, count = self._problems(key_id, row, events, head)
        if not problems:
            return row, problems, count
        for _ in range(_ATTEMPTS):
            # The row first: each of its versions has its event already.
            row = self._read(key_id)
            problems, count = self._problems(key_id, row, chain_of(self.history, key_id), head)
            if not problems or _is_same(row, self._read(key_id)):
                return row, problems, count
        # The key changes all the time: newer events are those of newer versions.
        return row, [each for each in problems if each.kind is not ProblemKind.NEWER_EVENTS], count

    def _read(self, key_id: str) -> Row | None:
        try:
            return self._backend.get(key_id)
        except RowDamaged as exc:
            return DamagedKey(key_id, str(exc))

    def _problems(
        self, key_id: str, row: Row | None, events: Iterable[LifecycleEvent], head: Head | None
    ) -> tuple[list[Problem], int]:
        problems = [] if row is None else list(self._row_problems(row))
        changed = {name for problem in problems for name in problem.fields}
        anchor = row if isinstance(row, StoredKey) and not changed & {"version", "history_hash", "id"} else None
        chain = _Chain(anchor, head)
        for event in events:
            chain.add(event)
        problems += chain.problems(key_id, row)
        return problems, chain.count

    def _row_problems(self, row: Row) -> Iterator[Problem]:
        if isinstance(row, DamagedKey):
            yield Problem(row.id, ProblemKind.DAMAGED, row.problem)
            return
        key_id = row.record.id
        try:
            secrets_of(row, self._ring)
        except SealUnreadable as exc:
            yield Problem(key_id, ProblemKind.UNREADABLE, str(exc))
        except RowTampered as exc:
            message = f"the row was changed outside of this library: {', '.join(exc.fields)}"
            yield Problem(key_id, ProblemKind.TAMPERED, message, fields=exc.fields)


class _Chain:
    """Events of one key, checked against its row and its noted head."""

    def __init__(self, row: StoredKey | None, head: Head | None) -> None:
        self.count = 0
        self._row = row
        self._head = head
        self._check = ChainCheck()
        self._newer: LifecycleEvent | None = None
        self._has_noted_event = False

    def add(self, event: LifecycleEvent) -> None:
        self.count += 1
        if self._head is not None and (event.number, event.hash) == (self._head.version, self._head.hash):
            self._has_noted_event = True
        if self._row is not None and is_number(event.number) and event.number > self._row.record.version:
            self._newer = self._newer or event
        else:
            self._check.add(event)

    def problems(self, key_id: str, row: Row | None) -> Iterator[Problem]:
        check = self._check
        if row is None:
            if self.count:
                message = "its row was deleted, or its events were added or moved from another key"
                yield Problem(key_id, ProblemKind.NO_ROW, message, 1)
        elif self._row is not None:
            check.end_at(self._row.record.version, self._row.history_hash)
        if check.problem is not None and row is not None:
            yield Problem(key_id, ProblemKind.HISTORY, check.problem[1], check.problem[0])
        if self._newer is not None and self._row is not None:
            yield _newer_events(self._row, self._newer)
        if self._head is not None:
            yield from self._noted_problems(self._head, row)

    def _noted_problems(self, head: Head, row: Row | None) -> Iterator[Problem]:
        if row is None:
            extent = "" if self.count else " with all its events"
            message = f"the key was deleted{extent}: version {head.version} was noted"
            yield Problem(head.id, ProblemKind.DELETED, message, head.version)
        elif self._row is not None and self._row.record.version < head.version:
            message = f"the key was put back to version {self._row.record.version}: version {head.version} was noted"
            yield Problem(head.id, ProblemKind.PUT_BACK, message, self._row.record.version + 1)
        elif not self._has_noted_event:
            message = f"event {head.version} is not the one that was noted: the history was rewritten"
            yield Problem(head.id, ProblemKind.REWRITTEN, message, head.version)


class _UnsealedRevocations:
    """Revocations of rows that did not fit their seal.

    Somebody who puts the row right again also takes the revocation away, and the seal
    fits. Only the history of the storage knows, whose id is the first one.
    """

    def __init__(self) -> None:
        self._revoked: dict[str, datetime] = {}

    def watch(self, events: Iterable[LifecycleEvent]) -> Iterator[LifecycleEvent]:
        """Yield events, and remember the revocations among them. A repair settles a revocation."""
        for event in events:
            if event.event == REVOKED_UNSEALED:
                details = event.to_dict()["details"]
                if isinstance(details, dict) and isinstance(details.get("key"), str):
                    self._revoked[details["key"]] = event.at
            elif event.event == REPAIRED and event.key_id in self._revoked and event.at > self._revoked[event.key_id]:
                del self._revoked[event.key_id]
            yield event

    def problems(self, row: Row | None) -> Iterator[Problem]:
        """Report that a row is no longer revoked."""
        if not isinstance(row, StoredKey) or row.record.revoked_at is not None or row.record.pruned_at is not None:
            return
        revoked_at = self._revoked.get(row.record.id)
        if revoked_at is not None:
            message = f"its revocation of {revoked_at:%Y-%m-%d %H:%M:%S} UTC was undone"
            yield Problem(row.record.id, ProblemKind.PUT_BACK, message)


def _newer_events(row: StoredKey, newer: LifecycleEvent) -> Problem:
    version = row.record.version
    message = f"event {newer.number} was added: the row is at version {version}"
    if newer.number == version + 1 and newer.is_intact and newer.previous == row.history_hash:
        message = f"an older row was put back, or event {newer.number} was added: the row is at version {version}"
    return Problem(row.record.id, ProblemKind.NEWER_EVENTS, message, newer.number)


def _is_same(before: Row | None, now: Row | None) -> bool:
    if isinstance(before, StoredKey) and isinstance(now, StoredKey):
        # A rotation replaces seals.
        return before == replace(now, seal=before.seal)
    return before == now


def _row_id(row: Row) -> str:
    return row.record.id if isinstance(row, StoredKey) else row.id


class _Ordered(Generic[T]):
    """Items in the order of their ids, one id after the other.

    Attributes:
        strays: Items without the id of a key, as problems.
        next_id: Id of the next item; None at the end.
    """

    def __init__(self, items: Iterable[T], id_of: Callable[[T], str]) -> None:
        self.strays: list[Problem] = []
        self._items = iter(items)
        self._id_of = id_of
        self._next: T | None = None
        self.next_id: str | None = None
        self._advance()

    def take(self, key_id: str) -> Iterator[T]:
        """Iterate over the items with an id. All items before them must be taken."""
        while self.next_id == key_id and self._next is not None:
            item = self._next
            self._advance()
            yield item

    def _advance(self) -> None:
        for item in self._items:
            key_id = self._id_of(item)
            if is_id(key_id):
                self._next, self.next_id = item, key_id
                return
            if len(self.strays) < MAX_PROBLEMS:
                shown = f"{key_id!r:.40}"
                self.strays.append(
                    Problem(shown, ProblemKind.NO_ROW, "not the id of a key: added outside of this library")
                )
        self._next = self.next_id = None

"""Keys, tombstones and their history, copied from one storage to another.

Both storages list their rows by id and are read side by side. The target must be
empty or hold an earlier state of the source, as an interrupted copy leaves it.
Everything else is refused, so nothing has to be merged.

The source may be hostile: a row is copied only if its seal fits and its history is
whole. Other rows are reported and left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flask_apikey.core.actors import named_actor
from flask_apikey.core.copying.checks import check_rotation
from flask_apikey.core.copying.refusals import Refusals, Refused
from flask_apikey.core.copying.source import Row, SourceKey, SourceReader
from flask_apikey.core.copying.summary import row_id, side_by_side, stored_in
from flask_apikey.core.copying.target import TargetReader, changed_there
from flask_apikey.core.errors import AlreadyExists, Conflict, InvalidValue, RowDamaged, TargetInUse
from flask_apikey.core.model.history import COPIED, GENESIS, ROWS_OF_STORAGE, STORAGE_ID, LifecycleEvent
from flask_apikey.core.model.keys import DamagedKey, Resealing, Rotation, StoredKey
from flask_apikey.core.model.sealed_rows import sealed_row
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import Clock, utc_now

_PAGE = 1_000
_MAX_EVENTS = 5_000

Progress = Callable[[int], object]


def _ignore(_rows: int) -> None:
    """Take no notice of progress."""


@dataclass(slots=True)
class CopyReport:
    """Numbers of changes that a copy of keys made, or would make. Tombstones count as keys.

    Attributes:
        added: Keys that the target lacked.
        updated: Keys that were older at the target.
        unchanged: Keys that were the same on both sides.
        resealed: Keys that were the same, but sealed under another Fernet key at the target.
        events: Lifecycle events that the target lacked.
        rotation: True if the state of a Fernet key rotation was copied.
        refusals: Rows of the source that were left out.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    resealed: int = 0
    events: int = 0
    rotation: bool = False
    refusals: Refusals = field(default_factory=Refusals)


def copy_keys(
    source: Backend,
    target: Backend,
    *,
    ring: FernetKeyring,
    dry_run: bool = False,
    progress: Progress = _ignore,
    clock: Clock = utc_now,
) -> CopyReport:
    """Copy every key, the history and the state of a rotation. Repeating a copy resumes it.

    Run it with `dry_run` first to find a target in use before anything is written.

    Args:
        source: Storage to copy from; it is only read.
        target: Storage to copy to; it must be initialised unless `dry_run` is set.
        ring: Fernet keys; copied keys are sealed under the primary.
        dry_run: Write nothing, only count.
        progress: Called with the number of rows of each page.
        clock: Returns the present moment, in UTC.

    Raises:
        TargetInUse: The target holds something that did not come from the source, or changes during the copy.
    """
    copy = _KeyCopy(source, target, ring, clock, dry_run=dry_run)
    try:
        # Read before the keys: a rotation that finishes during the copy is not yet finished at the target.
        rotation, stored_version = newer_rotation(source, target, copy.report.refusals)
        copy.report.rotation = rotation is not None
        copy.run(progress)
        if rotation is not None and target.rotation is not None and not dry_run:
            target.rotation.put(rotation, expected_version=stored_version)
    except (AlreadyExists, Conflict) as exc:
        raise TargetInUse("it was changed during the copy") from exc
    return copy.report


def left_behind(source: Backend, target: Backend) -> list[str]:
    """List the parts that only the source keeps: ``usage``, ``history``, ``rotation``."""
    parts = ("usage", "history", "rotation")
    return [part for part in parts if getattr(source, part) is not None and getattr(target, part) is None]


def newer_rotation(source: Backend, target: Backend, refusals: Refusals) -> tuple[Rotation | None, int]:
    """Return the rotation to copy, or None, and the version of the one that it replaces, or 0."""
    store = target.rotation
    if store is None:
        return None, 0
    theirs = next(stored_in(target, lambda: [store.get()]), None)
    try:
        ours = _checked_rotation(source)
    except (ArithmeticError, InvalidValue, RowDamaged, TypeError, ValueError):
        refusals.add("rotation", "the state of the rotation of the Fernet key is not valid")
        ours = theirs
    version = 0 if theirs is None else theirs.version
    if ours == theirs:
        return None, version
    if theirs is not None and (ours is None or version >= ours.version):
        raise TargetInUse("its state of a rotation of the Fernet key is not from the source")
    return ours, version


def _checked_rotation(source: Backend) -> Rotation | None:
    rotation = None if source.rotation is None else source.rotation.get()
    if rotation is not None:
        check_rotation(rotation)
    return rotation


class _Batch:
    """Changes that are written together: events first, so that no row lacks an event."""

    def __init__(self) -> None:
        self.rows = 0
        self.events: list[LifecycleEvent] = []
        self.added: list[StoredKey] = []
        self.added_events: list[LifecycleEvent] = []
        self.updated: list[tuple[StoredKey, StoredKey, LifecycleEvent | None]] = []
        self.resealed: list[tuple[StoredKey, StoredKey]] = []

    @property
    def is_full(self) -> bool:
        return self.rows >= _PAGE or len(self.events) >= _MAX_EVENTS

    def write(self, target: Backend) -> None:
        """Write by compare-and-set: a key that has changed at the target is a `Conflict`."""
        if target.history is not None:
            target.history.append(self.events)
        if self.added:
            target.add_many(self.added, events=self.added_events)
        for theirs, row, event in self.updated:
            _update(target, theirs, row, event)
        if target.rotation is None:
            for theirs, row in self.resealed:
                _update(target, theirs, row, None)
        elif self.resealed:
            resealings = [Resealing(row.record.id, theirs.seal, row.seal) for theirs, row in self.resealed]
            if target.rotation.reseal(resealings) < len(resealings):
                raise Conflict("a seal of the target has changed")


class _KeyCopy:
    """Compares rows and writes the differences."""

    def __init__(self, source: Backend, target: Backend, ring: FernetKeyring, clock: Clock, *, dry_run: bool) -> None:
        self.report = CopyReport()
        self._source = SourceReader(source, ring, self.report.refusals)
        self._target = TargetReader(target, ring)
        self._backend = target
        self._ring = ring
        self._clock = clock
        self._dry_run = dry_run
        self._copies_events = source.history is not None and target.history is not None
        # Every version of a key needs an event in a storage that keeps history.
        self._adds_events = source.history is None and target.history is not None

    def run(self, progress: Progress) -> None:
        batch = _Batch()
        for ours, theirs in side_by_side(self._source.rows(), self._target.rows(), lambda row: (row_id(row),)):
            if ours is None or isinstance(theirs, DamagedKey):
                raise TargetInUse(f"key {row_id(theirs)} is not in the source")
            if row_id(ours) != STORAGE_ID or self._backend.history is not None:
                self._compare(ours, theirs, batch)
            batch.rows += 1
            if batch.is_full:
                self._finish(batch, progress)
                batch = _Batch()
        self._source.finish()
        self._target.finish()
        self._finish(batch, progress)

    def _finish(self, batch: _Batch, progress: Progress) -> None:
        report = self.report
        report.added += _count_keys(batch.added)
        report.updated += _count_keys([row for _, row, _ in batch.updated])
        report.resealed += _count_keys([row for _, row in batch.resealed])
        report.events += len(batch.events) + len(batch.added_events)
        report.events += sum(event is not None for _, _, event in batch.updated)
        if not self._dry_run:
            batch.write(self._backend)
        progress(batch.rows)

    def _compare(self, row: Row, theirs: StoredKey | None, batch: _Batch) -> None:
        """Add the changes that bring one row of the target up to date to a batch."""
        key_id = row_id(row)
        try:
            ours = self._source.read(row)
        except Refused as exc:
            self._target.skip_events(key_id)
            kept = "" if theirs is None else f"; the target keeps version {theirs.record.version}"
            self.report.refusals.add(key_id, f"{exc}{kept}")
            return
        secrets_there = None if theirs is None else self._target.secrets_of(theirs)
        if self._copies_events:
            batch.events += self._target.missing_events(ours, theirs)
        elif self._adds_events:
            self._target.require_whole_chain(key_id, theirs)
        if theirs is None:
            added, event = self._copied(ours, None)
            batch.added.append(added)
            batch.added_events += [] if event is None else [event]
        elif theirs.record != ours.stored.record:
            _require_older(theirs, ours.stored)
            batch.updated.append((theirs, *self._copied(ours, theirs)))
        elif secrets_there != ours.secrets:
            raise changed_there(key_id)
        elif theirs.seal.fingerprint != self._ring.fingerprint:
            resealed = sealed_row(theirs.record, theirs.history_hash, ours.secrets, self._ring)
            batch.resealed.append((theirs, resealed))
        elif key_id not in ROWS_OF_STORAGE:
            self.report.unchanged += 1

    def _copied(self, ours: SourceKey, theirs: StoredKey | None) -> tuple[StoredKey, LifecycleEvent | None]:
        """Return the row to store, and its event if the source keeps no history."""
        stored, record = ours.stored, ours.stored.record
        event = None
        history_hash = stored.history_hash if self._copies_events else ""
        if self._adds_events:
            previous = GENESIS if theirs is None else theirs.history_hash
            event = LifecycleEvent(
                key_id=record.id,
                number=record.version,
                at=self._clock(),
                event=COPIED,
                owner=record.owner,
                actor=named_actor() or "",
                previous=previous,
            )
            history_hash = event.hash
        if history_hash == stored.history_hash and stored.seal.fingerprint == self._ring.fingerprint:
            return stored, event
        return sealed_row(record, history_hash, ours.secrets, self._ring), event


def _update(target: Backend, theirs: StoredKey, row: StoredKey, event: LifecycleEvent | None) -> None:
    target.update(row, expected_version=theirs.record.version, expected_seal=theirs.seal.token, event=event)


def _require_older(theirs: StoredKey, ours: StoredKey) -> None:
    """Refuse a row of the target that cannot be an earlier state of the source's."""
    # Removals and revocations are final.
    is_removed_there_only = theirs.record.pruned_at is not None
    is_revoked_there_only = theirs.record.revoked_at is not None and ours.record.revoked_at is None
    is_ended_there_only = is_removed_there_only or (is_revoked_there_only and ours.record.pruned_at is None)
    if theirs.record.version >= ours.record.version or (is_ended_there_only and ours.record.id != STORAGE_ID):
        raise changed_there(theirs.record.id)


def _count_keys(rows: Sequence[StoredKey]) -> int:
    return sum(row.record.id not in ROWS_OF_STORAGE for row in rows)

"""Keys, tombstones and their history, copied from one storage to another.

Both storages list their rows by id and are read side by side. The target must be
empty or hold an earlier state of the source, as an interrupted copy leaves it.
Everything else is refused, so nothing has to be merged.

The source may be hostile: a row is copied only if its seal fits and its history is
whole. Other rows are reported and left out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from flask_apikey.core.actors import named_actor
from flask_apikey.core.copying.history import SourceChains
from flask_apikey.core.copying.summary import row_id, side_by_side, stored_in
from flask_apikey.core.errors import AlreadyExists, Conflict, RowTampered, SealUnreadable, TargetInUse
from flask_apikey.core.model.history import COPIED, STORAGE_ID, LifecycleEvent
from flask_apikey.core.model.keys import DamagedKey, Resealing, Rotation, StoredKey
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.sealed_rows import resealed_row, sealed_row, secrets_of
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.times import Clock, utc_now

_PAGE = 1_000
_EVERYTHING = KeyFilter(pruned=None)

Progress = Callable[[int], object]

_Row = StoredKey | DamagedKey
_Pair = tuple[_Row | None, _Row | None]
"""The same row at the source and at the target."""


@dataclass(slots=True)
class CopyReport:
    """Numbers of changes that a copy of keys made, or would make. Tombstones count as keys.

    Attributes:
        added: Keys that the target lacked.
        updated: Keys that were older at the target.
        unchanged: Keys that were the same on both sides.
        resealed: Keys that only the source had sealed under the primary Fernet key.
        events: Lifecycle events.
        refused: Reason why a key of the source was left out, by its id.
        rotation: True if the state of a Fernet key rotation was copied.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    resealed: int = 0
    events: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    rotation: bool = False


def copy_keys(
    source: Backend,
    target: Backend,
    *,
    ring: FernetKeyring,
    dry_run: bool = False,
    progress: Progress | None = None,
    clock: Clock = utc_now,
) -> CopyReport:
    """Copy every key, the history and the state of a rotation. Repeating a copy resumes it.

    Run it with `dry_run` first to find a target in use before anything is written.

    Args:
        source: Storage to copy from; it is only read.
        target: Storage to copy to; it must be initialised unless `dry_run` is set.
        ring: Fernet keys; copied keys are sealed under the primary.
        dry_run: Write nothing, only count.
        progress: Called with the number of keys of each page.
        clock: Returns the present moment, in UTC.

    Raises:
        TargetInUse: The target holds something that did not come from the source, or changes during the copy.
    """
    # Read before the keys: a rotation that finishes during the copy is not yet finished at the target.
    rotation, stored_version = newer_rotation(source, target)
    copy = _KeyCopy(source, target, ring, clock, dry_run=dry_run)
    copy.report.rotation = rotation is not None
    try:
        pairs = side_by_side(
            source.scan(_EVERYTHING), stored_in(target, lambda: target.scan(_EVERYTHING)), lambda row: (row_id(row),)
        )
        while page := list(islice(pairs, _PAGE)):
            copy.copy_page(page)
            if progress is not None:
                progress(sum(ours is not None for ours, _ in page))
        if rotation is not None and target.rotation is not None and not dry_run:
            target.rotation.put(rotation, expected_version=stored_version)
    except (AlreadyExists, Conflict) as exc:
        raise TargetInUse("it was changed during the copy") from exc
    return copy.report


def left_behind(source: Backend, target: Backend) -> list[str]:
    """List the parts that only the source keeps: ``usage``, ``history``, ``rotation``."""
    parts = ("usage", "history", "rotation")
    return [part for part in parts if getattr(source, part) is not None and getattr(target, part) is None]


def newer_rotation(source: Backend, target: Backend) -> tuple[Rotation | None, int]:
    """Return the rotation to copy, or None, and the version of the one that it replaces, or 0."""
    store = target.rotation
    if store is None:
        return None, 0
    ours = None if source.rotation is None else source.rotation.get()
    theirs = next(stored_in(target, lambda: [store.get()]), None)
    version = 0 if theirs is None else theirs.version
    if ours == theirs:
        return None, version
    if theirs is not None and (ours is None or version >= ours.version):
        raise TargetInUse("its state of a rotation of the Fernet key is not from the source")
    return ours, version


class _Refused(Exception):
    """A row of the source that cannot be copied."""


class _KeyCopy:
    """Changes of a copy, made by compare-and-set: a key that changes during the copy is a `Conflict`."""

    def __init__(self, source: Backend, target: Backend, ring: FernetKeyring, clock: Clock, *, dry_run: bool) -> None:
        self.report = CopyReport()
        self._target = target
        self._ring = ring
        self._clock = clock
        self._dry_run = dry_run
        self._chains = None if source.history is None or target.history is None else SourceChains(source.history)
        # Every version of a key needs an event in a storage that keeps history.
        self._adds_events = target.history is not None and source.history is None

    def copy_page(self, page: Iterable[_Pair]) -> None:
        """Copy a page of rows: their events first, so that no row lacks an event."""
        events: list[LifecycleEvent] = []
        added: list[StoredKey] = []
        updated: list[tuple[StoredKey, StoredKey]] = []
        resealed: list[Resealing] = []
        for ours, theirs in page:
            if isinstance(theirs, DamagedKey) or ours is None:
                raise TargetInUse(f"key {row_id(theirs)} is damaged there or not in the source")
            try:
                copied, new_events = self._copied(ours, theirs)
            except (_Refused, RowTampered, SealUnreadable) as exc:
                self.report.refused[row_id(ours)] = str(exc)
                continue
            events += new_events
            if theirs is None:
                added.append(copied)
            elif theirs.record != copied.record:
                updated.append((theirs, copied))
            elif theirs.seal.fingerprint != copied.seal.fingerprint:
                resealed.append(Resealing(copied.record.id, theirs.seal, resealed_row(theirs, self._ring).seal))
            elif copied.record.id != STORAGE_ID:
                self.report.unchanged += 1
        self.report.added += _count_keys(added)
        self.report.updated += _count_keys([copied for _, copied in updated])
        self.report.resealed += len(resealed)
        self.report.events += len(events)
        if not self._dry_run:
            self._write(events, added, updated, resealed)

    def _write(
        self,
        events: Sequence[LifecycleEvent],
        added: Sequence[StoredKey],
        updated: Sequence[tuple[StoredKey, StoredKey]],
        resealed: Sequence[Resealing],
    ) -> None:
        if self._target.history is not None:
            self._target.history.append(events)
        if added:
            self._target.add_many(added)
        for theirs, copied in updated:
            self._target.update(copied, expected_version=theirs.record.version, expected_seal=theirs.seal.token)
        if resealed and self._target.rotation is not None and self._target.rotation.reseal(resealed) < len(resealed):
            raise Conflict("a seal of the target has changed")

    def _copied(self, ours: _Row, theirs: StoredKey | None) -> tuple[StoredKey, Sequence[LifecycleEvent]]:
        """Return the row to store and the events that the target lacks."""
        if isinstance(ours, DamagedKey):
            raise _Refused(ours.problem)
        record = ours.record
        if not is_id(record.id):
            raise _Refused("its id is not that of a key")
        secrets = secrets_of(ours, self._ring)
        if theirs is not None:
            if theirs.record == record:
                return resealed_row(theirs, self._ring), ()
            _require_older(theirs, ours)
        if self._chains is not None:
            chain = self._chains.chain_of(record.id)
            problem = self._chains.problem_of(ours, chain)
            if problem is not None:
                raise _Refused(problem)
            version = 0 if theirs is None else theirs.record.version
            return resealed_row(ours, self._ring), [event for event in chain if event.number > version]
        if not self._adds_events:
            return sealed_row(record, "", secrets, self._ring), ()
        event = LifecycleEvent(
            key_id=record.id,
            number=record.version,
            at=self._clock(),
            event=COPIED,
            owner=record.owner,
            actor=named_actor() or "",
        )
        return sealed_row(record, event.hash, secrets, self._ring), [event]


def _require_older(theirs: StoredKey, ours: StoredKey) -> None:
    # Revocations are final: a revoked key is no earlier state of one that still works.
    is_revoked_there_only = theirs.record.revoked_at is not None and ours.record.revoked_at is None
    if theirs.record.version >= ours.record.version or (is_revoked_there_only and ours.record.pruned_at is None):
        raise TargetInUse(f"key {theirs.record.id} was changed there")


def _count_keys(rows: Sequence[StoredKey]) -> int:
    return sum(row.record.id != STORAGE_ID for row in rows)

"""Keys and their history, copied from one storage to another.

Both storages list their keys in the same order and are read side by side. The
target must be empty or hold an earlier state of the source, as an interrupted copy
leaves it. Everything else is refused, so nothing has to be merged.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from flask_apikey.core.copying.history import SourceHistory
from flask_apikey.core.copying.summary import side_by_side, stored_in
from flask_apikey.core.errors import AlreadyExists, Conflict, SealUnreadable, TargetInUse
from flask_apikey.core.model.history import COPIED, LifecycleEvent
from flask_apikey.core.model.keys import Resealing, Rotation, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import Clock, utc_now

_PAGE = 1_000

Progress = Callable[[int], object]

_Pair = tuple[StoredKey | None, StoredKey | None]
"""The same key at the source and at the target."""


@dataclass(slots=True)
class CopyReport:
    """Numbers of changes that a copy of keys made, or would make.

    Attributes:
        added: Keys that the target lacked.
        updated: Keys that were older at the target.
        unchanged: Keys that were the same on both sides.
        resealed: Keys that only the source had sealed under the primary Fernet key.
        removed: Keys of the target that were removed from the source.
        events: Lifecycle events.
        rotation: True if the state of a Fernet key rotation was copied.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    resealed: int = 0
    removed: int = 0
    events: int = 0
    rotation: bool = False


def copy_keys(
    source: Backend,
    target: Backend,
    *,
    ring: FernetKeyring | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    clock: Clock = utc_now,
) -> CopyReport:
    """Copy every key, the history and the state of a rotation. Repeating a copy resumes it.

    Run it with `dry_run` first to find a target in use before anything is written.
    With `ring`, copied keys are sealed under its primary.

    Raises:
        TargetInUse: The target holds something that did not come from the source, or changes during the copy.
    """
    # Read before the keys: a rotation that finishes during the copy is not yet finished at the target.
    rotation, stored_version = newer_rotation(source, target)
    copy = _KeyCopy(source, target, ring, clock)
    copy.report.rotation = rotation is not None
    try:
        pairs = side_by_side(source.all_keys(), stored_in(target, target.all_keys), _position)
        for page in _pages(pairs):
            # Between reading and writing keys: every key that is written has its events then.
            copy.copy_events(dry_run=dry_run)
            writes = copy.writes(page)
            if not dry_run:
                for write in writes:
                    write()
            if progress is not None:
                progress(sum(ours is not None for ours, _ in page))
        if rotation is not None and target.rotation is not None and not dry_run:
            target.rotation.put(rotation, expected_version=stored_version)
    except (AlreadyExists, Conflict) as exc:
        raise TargetInUse("it was changed during the copy") from exc
    if copy.adds_events:
        copy.report.events += copy.report.added + copy.report.updated
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


class _KeyCopy:
    """Changes of a copy, made by compare-and-set: a key that changes during the copy is a `Conflict`."""

    def __init__(self, source: Backend, target: Backend, ring: FernetKeyring | None, clock: Clock) -> None:
        self.report = CopyReport()
        self._target = target
        self._ring = ring
        self._clock = clock
        self._history = SourceHistory(source, target)
        # Every version of a key needs an event in a storage that keeps history.
        self.adds_events = target.history is not None and source.history is None

    def copy_events(self, *, dry_run: bool) -> None:
        """Copy the events that the source has recorded since the last call."""
        for events in self._history.new_events():
            if self._target.history is not None:
                self.report.events += len(events)
                if not dry_run:
                    self._target.history.append(events)

    def writes(self, page: Iterable[_Pair]) -> list[Callable[[], object]]:
        """Count the changes that bring a page of keys up to date, and return the functions that make them."""
        writes: list[Callable[[], object]] = []
        added: list[StoredKey] = []
        resealed: list[tuple[StoredKey, StoredKey]] = []
        for ours, theirs in page:
            if theirs is None:
                added += [] if ours is None else [self._resealed(ours)]
            elif ours is None:
                self._require_removed(theirs)
                self.report.removed += 1
                writes.append(partial(self._target.delete, theirs.record.id, expected_version=theirs.record.version))
            elif ours.record != theirs.record:
                _require_older(theirs, ours)
                self.report.updated += 1
                writes.append(partial(self._update, self._resealed(ours), theirs.record.version))
            elif self._ring is not None and ours.seal.fingerprint == self._ring.fingerprint != theirs.seal.fingerprint:
                resealed.append((ours, theirs))
            else:
                self.report.unchanged += 1
        if added:
            self.report.added += len(added)
            writes.append(partial(self._add, added))
        if resealed:
            self.report.resealed += len(resealed)
            writes.append(partial(self._reseal, resealed))
        return writes

    def _add(self, keys: Sequence[StoredKey]) -> None:
        if not self.adds_events:
            self._target.add_many(keys)
            return
        for key in keys:
            self._target.add(key, event=self._event(key))

    def _update(self, key: StoredKey, expected_version: int) -> None:
        self._target.update(key, expected_version=expected_version, event=self._event(key))

    def _event(self, key: StoredKey) -> LifecycleEvent | None:
        if not self.adds_events:
            return None
        return LifecycleEvent(at=self._clock(), event=COPIED, key_id=key.record.id, key_version=key.record.version)

    def _reseal(self, pairs: Sequence[tuple[StoredKey, StoredKey]]) -> None:
        if self._target.rotation is None:
            for ours, theirs in pairs:
                self._target.update(ours, expected_version=theirs.record.version)
            return
        resealings = [Resealing(ours.record.id, theirs.seal, ours.seal) for ours, theirs in pairs]
        if self._target.rotation.reseal(resealings) < len(resealings):
            raise Conflict("a seal of the target has changed")

    def _resealed(self, key: StoredKey) -> StoredKey:
        try:
            return key if self._ring is None else replace(key, seal=self._ring.resealed(key.seal))
        except SealUnreadable:
            # A key with a damaged seal is copied as it is: it can still be revoked.
            return key

    def _require_removed(self, theirs: StoredKey) -> None:
        removed = self._history.version_at_removal(theirs.record.id)
        if removed is None or theirs.record.version >= removed:
            raise TargetInUse(f"key {theirs.record.id} is not in the source")


def _require_older(theirs: StoredKey, ours: StoredKey) -> None:
    # Revocations are final: a revoked key is no earlier state of one that still works.
    is_revoked_there_only = theirs.record.revoked_at is not None and ours.record.revoked_at is None
    if theirs.record.version >= ours.record.version or is_revoked_there_only:
        raise TargetInUse(f"key {theirs.record.id} was changed there")


def _pages(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    """Split pairs into pages. The first page may be empty: history is copied with every page."""
    remaining = iter(pairs)
    yield list(islice(remaining, _PAGE))
    while page := list(islice(remaining, _PAGE)):
        yield page


def _position(key: StoredKey) -> tuple[object, str]:
    return key.record.created_at, key.record.id

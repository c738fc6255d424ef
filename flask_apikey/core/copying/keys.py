"""Keys and their history, copied from one storage to another.

Both storages list their keys in the same order and are read side by side. The
target must be empty or hold an earlier state of the source, as an interrupted copy
leaves it. Everything else is refused, so nothing has to be merged.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from flask_apikey.core.copying.history import SourceHistory
from flask_apikey.core.copying.rotation import newer_rotation, write_rotation
from flask_apikey.core.copying.summary import side_by_side, stored_in
from flask_apikey.core.copying.writers import KeyChanges, KeyWriter
from flask_apikey.core.errors import AlreadyExists, Conflict, SealUnreadable, TargetInUse
from flask_apikey.core.model.keys import StoredKey
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
    """Copy every key, the history and the state of a rotation.

    A copy that was interrupted is resumed. Run it with `dry_run` first to find a
    target in use before anything is written.

    Args:
        source: Storage to copy from; it is only read.
        target: Storage to copy to; it must be initialised unless `dry_run` is set.
        ring: Fernet keys; copied keys are sealed under the primary. By default seals stay as they are.
        dry_run: Write nothing, only count.
        progress: Called with the number of keys of each page.
        clock: Returns the present moment, in UTC.

    Returns:
        Numbers of changes. Repeating a copy is harmless.

    Raises:
        TargetInUse: The target holds something that did not come from the source, or changes during the copy.
    """
    # Read before the keys: a rotation that finishes during the copy is not yet finished at the target.
    rotation = newer_rotation(source, target)
    report = CopyReport(rotation=rotation is not None)
    history, writer = SourceHistory(source, target), KeyWriter(source, target, clock)
    try:
        pairs = side_by_side(source.all_keys(), stored_in(target, target.all_keys), _position)
        for page in _pages(pairs):
            # Between reading and writing keys: every key that is written has its events then.
            report.events += _copy_events(history, target, dry_run=dry_run)
            changes = _changes(page, history, ring)
            report.added += len(changes.added)
            report.updated += len(changes.updated)
            report.resealed += len(changes.resealed)
            report.removed += len(changes.removed)
            report.events += writer.count_events(changes)
            ours = sum(key is not None for key, _ in page)
            report.unchanged += ours - len(changes.added) - len(changes.updated) - len(changes.resealed)
            if not dry_run:
                writer.write(changes)
            if progress is not None:
                progress(ours)
        if rotation is not None and not dry_run:
            write_rotation(rotation, target)
    except (AlreadyExists, Conflict) as exc:
        raise TargetInUse("it was changed during the copy") from exc
    return report


def left_behind(source: Backend, target: Backend) -> list[str]:
    """List the parts that only the source keeps: ``usage``, ``history``, ``rotation``."""
    parts = {
        "usage": (source.usage, target.usage),
        "history": (source.history, target.history),
        "rotation": (source.rotation, target.rotation),
    }
    return [name for name, (ours, theirs) in parts.items() if ours is not None and theirs is None]


def _pages(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    """Split pairs into pages. The first page may be empty: history is copied with every page."""
    remaining = iter(pairs)
    yield list(islice(remaining, _PAGE))
    while page := list(islice(remaining, _PAGE)):
        yield page


def _position(key: StoredKey) -> tuple[object, str]:
    return key.record.created_at, key.record.id


def _copy_events(history: SourceHistory, target: Backend, *, dry_run: bool) -> int:
    copied = 0
    for events in history.new_events():
        if target.history is not None:
            copied += len(events)
            if not dry_run:
                target.history.append(events)
    return copied


def _changes(page: Iterable[_Pair], history: SourceHistory, ring: FernetKeyring | None) -> KeyChanges:
    changes = KeyChanges()
    for ours, theirs in page:
        if ours is None:
            if theirs is not None:
                _require_removed(theirs, history)
                changes.removed.append(theirs)
        elif theirs is None:
            changes.added.append(_resealed(ours, ring))
        elif ours.record != theirs.record:
            _require_older(theirs, ours)
            changes.updated.append((_resealed(ours, ring), theirs))
        elif ring is not None and ours.seal.fingerprint == ring.fingerprint != theirs.seal.fingerprint:
            changes.resealed.append((ours, theirs))
    return changes


def _require_removed(theirs: StoredKey, history: SourceHistory) -> None:
    removed = history.version_at_removal(theirs.record.id)
    if removed is None or theirs.record.version >= removed:
        raise TargetInUse(f"key {theirs.record.id} is not in the source")


def _require_older(theirs: StoredKey, ours: StoredKey) -> None:
    # Revocations are final: a revoked key is no earlier state of one that still works.
    is_revoked_there_only = theirs.record.revoked_at is not None and ours.record.revoked_at is None
    if theirs.record.version >= ours.record.version or is_revoked_there_only:
        raise TargetInUse(f"key {theirs.record.id} was changed there")


def _resealed(key: StoredKey, ring: FernetKeyring | None) -> StoredKey:
    try:
        return key if ring is None else replace(key, seal=ring.resealed(key.seal))
    except SealUnreadable:
        # A key with a damaged seal is copied as it is: it can still be revoked.
        return key

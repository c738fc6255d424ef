"""Keys move from one storage to another.

Both storages list their keys in the same order, so they are read side by side:
what is missing or older at the target is found without a look-up for each key,
a page at a time, and a copy that was interrupted goes on where it stopped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice

from flask_apikey.core.copying.rotation import bring, is_resealed, newer_rotation
from flask_apikey.core.copying.unprepared import stored_in
from flask_apikey.core.copying.writers import CopyWriter, writer_for
from flask_apikey.core.errors import SealUnreadable
from flask_apikey.core.model.keys import Status, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend, KeepsHistory, KeepsRotation, KeepsUsage
from flask_apikey.core.times import Clock, utc_now

_PAGE = 1_000

Progress = Callable[[int], object]

_Pair = tuple[StoredKey | None, StoredKey | None]
"""A key as it is here and as it is at the target."""


@dataclass(slots=True)
class CopyReport:
    """What a copy did, or would do.

    Attributes:
        added: Keys that were missing at the target.
        updated: Keys that were older there.
        unchanged: Keys that were the same there.
        resealed: Keys that were the same there, but not sealed under the primary Fernet key as here.
        kept: Keys that were newer there, or changed there meanwhile, and were left alone.
        removed: Keys that had been removed here, and were there.
        only_at_target: Keys that are not here, and stay there.
        still_active: Ids of those of them that had been removed here and still work there.
        events: Lifecycle events that were written.
        rotation: Whether the rotation of the Fernet key is further here, and was brought along.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    resealed: int = 0
    kept: int = 0
    removed: int = 0
    only_at_target: int = 0
    still_active: list[str] = field(default_factory=list)
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
    """Bring every key of `source` to `target`, unless what is there is as new, and its history.

    The history is taken over as it is where the target has none, or the beginning
    of the same. Keys that were removed here are then removed there too. A target with
    a history of its own tells of each key that was copied instead.

    Args:
        source: Where from; it is only read.
        target: Where to; its storage must be initialised, unless nothing is written.
        ring: The Fernet keys; what is written is sealed under the primary, and a seal of it takes
            the place of another. By default seals are written as they are.
        dry_run: Write nothing, only count.
        progress: Called with the number of keys that were dealt with.
        clock: The present moment, in UTC.

    Returns:
        What was done. Repeating it is harmless.

    Raises:
        Conflict: A target that was taking the history over has got events of its own meanwhile.
    """
    copy = _Copy(writer_for(source, target, clock, dry_run=dry_run), ring, clock)
    rotation = newer_rotation(source, target)
    for page in _pages(_side_by_side(source, target)):
        copy.write(page)
        if progress is not None:
            progress(sum(ours is not None for ours, _ in page))
    report = copy.report
    report.rotation = rotation is not None and (dry_run or bring(rotation, target))
    report.events = copy.writer.events
    return report


def left_behind(source: Backend, target: Backend) -> list[str]:
    """What the source keeps beside its keys, and the target does not: ``usage``, ``history``, ``rotation``."""
    pairs = [
        ("usage", isinstance(source, KeepsUsage), isinstance(target, KeepsUsage)),
        ("history", isinstance(source, KeepsHistory), isinstance(target, KeepsHistory)),
        ("rotation", isinstance(source, KeepsRotation), isinstance(target, KeepsRotation)),
    ]
    return [name for name, at_source, at_target in pairs if at_source and not at_target]


class _Copy:
    """A copy that is under way."""

    def __init__(self, writer: CopyWriter, ring: FernetKeyring | None, clock: Clock) -> None:
        self.writer = writer
        self.report = CopyReport()
        self._ring = ring
        self._primary = None if ring is None else ring.fingerprint
        self._clock = clock

    def write(self, page: list[_Pair]) -> None:
        self.writer.follow()
        missing: list[StoredKey] = []
        resealed: list[tuple[StoredKey, StoredKey]] = []
        for ours, theirs in page:
            if ours is None:
                self._only_there(theirs)
            elif theirs is None:
                missing.append(self._sealed(ours))
            elif is_resealed(ours, theirs, self._primary):
                resealed.append((ours, theirs))
            elif ours.record == theirs.record:
                self.report.unchanged += 1
            else:
                self._differing(ours, theirs)
        added, done = self.writer.add(missing), self.writer.reseal(resealed)
        self.report.added += added
        self.report.resealed += done
        self.report.kept += len(missing) - added + len(resealed) - done

    def _differing(self, ours: StoredKey, theirs: StoredKey) -> None:
        newer = _successor(ours, theirs, self._clock())
        if newer is not None and self.writer.replace(self._sealed(newer), theirs):
            self.report.updated += 1
        else:
            self.report.kept += 1

    def _only_there(self, theirs: StoredKey | None) -> None:
        if theirs is None:
            return
        removed = self.writer.version_removed(theirs.record.id)
        is_newer = removed is not None and removed > theirs.record.version
        if is_newer and self.writer.takes_over and self.writer.remove(theirs):
            self.report.removed += 1
            return
        self.report.only_at_target += 1
        if removed is not None and theirs.record.status(self._clock()) is Status.ACTIVE:
            self.report.still_active.append(theirs.record.id)

    def _sealed(self, key: StoredKey) -> StoredKey:
        try:
            return key if self._ring is None else replace(key, seal=self._ring.resealed(key.seal))
        except SealUnreadable:
            # What is damaged here is so there too, and can still be revoked.
            return key


def _pages(pairs: Iterator[_Pair]) -> Iterator[list[_Pair]]:
    """The pairs in pages; a page without any where there are none, whose history still has to be followed."""
    yield list(islice(pairs, _PAGE))
    while page := list(islice(pairs, _PAGE)):
        yield page


def _side_by_side(source: Backend, target: Backend) -> Iterator[_Pair]:
    others = stored_in(target, target.all_keys)
    other = next(others, None)
    for key in source.all_keys():
        while other is not None and _position(other) < _position(key):
            yield None, other
            other = next(others, None)
        if other is not None and _position(other) == _position(key):
            yield key, other
            other = next(others, None)
        else:
            yield key, None
    while other is not None:
        yield None, other
        other = next(others, None)


def _position(key: StoredKey) -> tuple[object, str]:
    return key.record.created_at, key.record.id


def _successor(ours: StoredKey, theirs: StoredKey, now: datetime) -> StoredKey | None:
    """What takes the place of theirs; None where it stays. A key that is revoked on either side ends up revoked."""
    ending, ended = ours.record, theirs.record
    if ended.revoked_at is not None and ending.revoked_at is None:
        return None
    if (ending.version, ending.updated_at) > (ended.version, ended.updated_at):
        return ours
    if ending.revoked_at is None or ended.revoked_at is not None:
        return None
    revoked = replace(
        ended,
        revoked_at=ending.revoked_at,
        revocation_reason=ending.revocation_reason,
        updated_at=now,
        version=ended.version + 1,
    )
    return replace(theirs, record=revoked)

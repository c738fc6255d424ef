"""Keys move from one storage to another.

Both storages list their keys in the same order, so they are read side by side:
what is missing or older at the target is found without a look-up for each key,
in constant memory, and a copy that was interrupted goes on where it stopped.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, Conflict
from flask_apikey.core.history import COPIED, LifecycleEvent, all_events
from flask_apikey.core.records import StoredKey
from flask_apikey.core.rotation_transfer import bring, is_resealed, newer_rotation, reseal_there
from flask_apikey.core.sealing import FernetRing
from flask_apikey.core.storage import Backend, KeepsHistory
from flask_apikey.core.times import Clock, utc_now

_PAGE = 1_000

Progress = Callable[[int], object]


@dataclass(slots=True)
class CopyReport:
    """What a copy did, or would do.

    Attributes:
        added: Keys that were missing at the target.
        updated: Keys that were older there.
        unchanged: Keys that were the same there.
        resealed: Keys that were the same there, but not sealed under the primary Fernet key as here.
        kept: Keys that were newer there, or changed there meanwhile, and were left alone.
        events: Lifecycle events that were written.
        rotation: Whether the rotation of the Fernet key is further here, and was brought along.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    resealed: int = 0
    kept: int = 0
    events: int = 0
    rotation: bool = False


@dataclass(slots=True)
class Inventory:
    """What a storage holds.

    Attributes:
        keys: How many keys.
        digest: SHA-256 over all records and seals in order, in hexadecimal.
        fingerprints: Of the Fernet keys that sealed them.
    """

    keys: int = 0
    digest: str = ""
    fingerprints: set[str] = field(default_factory=set)


def take_inventory(backend: Backend, progress: Progress | None = None) -> Inventory:
    """Read every key and say what is there."""
    inventory = Inventory()
    digest = hashlib.sha256()
    for key in backend.all_keys():
        inventory.keys += 1
        inventory.fingerprints.add(key.seal.fingerprint)
        content = [key.record.to_dict(), key.seal.fingerprint, key.seal.token]
        digest.update(json.dumps(content, sort_keys=True).encode())
        if progress is not None:
            progress(1)
    inventory.digest = digest.hexdigest()
    return inventory


def refuse_unreadable(inventory: Inventory, ring: FernetRing, where: str) -> None:
    """Raise unless the configured Fernet keys open everything that is there.

    Raises:
        ConfigurationError: They do not; the message names the fingerprints.
    """
    unknown = inventory.fingerprints - ring.fingerprints
    if unknown:
        raise ConfigurationError(
            f"{where} holds keys that are sealed under Fernet keys which are not configured here "
            f"(fingerprints {', '.join(sorted(unknown))}): add them to APIKEY_FERNET_KEY_FALLBACKS first"
        )


def copy_keys(
    source: Backend,
    target: Backend,
    *,
    primary: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    clock: Clock = utc_now,
) -> CopyReport:
    """Bring every key of `source` to `target`, unless what is there is as new, and its history.

    The history is taken over as it is where the target has none, or the beginning
    of the same. A target with a history of its own tells of each key that was
    copied instead.

    Args:
        source: Where from; it is only read.
        target: Where to; its storage must be initialised.
        primary: The fingerprint of the primary Fernet key; a seal of it takes the place of another.
        dry_run: Write nothing, only count.
        progress: Called with the number of keys that were dealt with.
        clock: The present moment, in UTC.

    Returns:
        What was done. Repeating it is harmless.
    """
    writer = _DryRun() if dry_run else _writer(source, target, clock)
    report = CopyReport()
    rotation = newer_rotation(source, target)
    missing: list[StoredKey] = []
    resealed: list[tuple[StoredKey, StoredKey]] = []
    for ours, theirs in _side_by_side(source, target):
        if theirs is None:
            missing.append(ours)
            if len(missing) == _PAGE:
                report.added += writer.add(missing)
                missing = []
        elif theirs == ours:
            report.unchanged += 1
        elif is_resealed(ours, theirs, primary):
            resealed.append((ours, theirs))
            if len(resealed) == _PAGE:
                _reseal(writer, resealed, report)
                resealed = []
        elif (newer := _successor(ours, theirs, clock())) is not None and writer.replace(newer, theirs):
            report.updated += 1
        else:
            report.kept += 1
        if progress is not None:
            progress(1)
    report.added += writer.add(missing)
    _reseal(writer, resealed, report)
    report.rotation = rotation is not None and (dry_run or bring(rotation, target))
    report.events = writer.finish()
    return report


def _reseal(writer: "_DryRun", pairs: list[tuple[StoredKey, StoredKey]], report: CopyReport) -> None:
    done = writer.reseal(pairs)
    report.resealed += done
    report.kept += len(pairs) - done


class _DryRun:
    """Writes nothing."""

    def add(self, keys: Sequence[StoredKey]) -> int:
        return len(keys)

    def replace(self, ours: StoredKey, theirs: StoredKey) -> bool:
        return ours != theirs

    def reseal(self, pairs: Sequence[tuple[StoredKey, StoredKey]]) -> int:
        return len(pairs)

    def finish(self) -> int:
        return 0


class _PlainWriter(_DryRun):
    """Writes keys alone, and then what is missing of the history, if there is one."""

    def __init__(self, target: Backend, history: tuple[KeepsHistory, KeepsHistory] | None = None) -> None:
        self._target = target
        self._history = history

    def add(self, keys: Sequence[StoredKey]) -> int:
        if not keys:
            return 0
        try:
            self._target.add_many(keys)
        except AlreadyExists:
            return sum(self._add_one(key) for key in keys)
        return len(keys)

    def replace(self, ours: StoredKey, theirs: StoredKey) -> bool:
        try:
            self._target.update(ours, expected_version=theirs.record.version)
        except Conflict:
            return False
        return True

    def reseal(self, pairs: Sequence[tuple[StoredKey, StoredKey]]) -> int:
        return reseal_there(self._target, pairs)

    def finish(self) -> int:
        if self._history is None:
            return 0
        source, target = self._history
        copied = 0
        missing = all_events(source, _last_number(target))
        while page := list(islice(missing, _PAGE)):
            target.append_events(page)
            copied += len(page)
        return copied

    def _add_one(self, key: StoredKey) -> bool:
        try:
            self._target.add(key)
        except AlreadyExists:
            return False
        return True


class _RecordingWriter(_DryRun):
    """Writes each key with an event of its own."""

    def __init__(self, target: Backend, history: KeepsHistory, clock: Clock) -> None:
        self._target = target
        self._recording = history
        self._clock = clock
        self._events = 0

    def add(self, keys: Sequence[StoredKey]) -> int:
        return sum(self._write(partial(self._recording.add_recorded, key), key) for key in keys)

    def replace(self, ours: StoredKey, theirs: StoredKey) -> bool:
        return self._write(partial(self._recording.update_recorded, ours, expected_version=theirs.record.version), ours)

    def reseal(self, pairs: Sequence[tuple[StoredKey, StoredKey]]) -> int:
        return reseal_there(self._target, pairs)

    def finish(self) -> int:
        return self._events

    def _write(self, change: Callable[..., None], key: StoredKey) -> bool:
        event = LifecycleEvent(at=self._clock(), event=COPIED, key_id=key.record.id, key_version=key.record.version)
        try:
            change(event=event)
        except (AlreadyExists, Conflict):
            return False
        self._events += 1
        return True


def _writer(source: Backend, target: Backend, clock: Clock) -> _DryRun:
    if not isinstance(target, KeepsHistory):
        return _PlainWriter(target)
    if isinstance(source, KeepsHistory) and _is_beginning(target, source):
        return _PlainWriter(target, (source, target))
    return _RecordingWriter(target, target, clock)


def _is_beginning(one: KeepsHistory, other: KeepsHistory) -> bool:
    theirs = all_events(other)
    return all(event == next(theirs, None) for event in all_events(one))


def _last_number(history: KeepsHistory) -> int:
    last = 0
    for event in all_events(history):
        last = event.number
    return last


def _side_by_side(source: Backend, target: Backend) -> Iterator[tuple[StoredKey, StoredKey | None]]:
    others = target.all_keys()
    other = next(others, None)
    for key in source.all_keys():
        position = _position(key)
        while other is not None and _position(other) < position:
            other = next(others, None)
        yield key, other if other is not None and _position(other) == position else None


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

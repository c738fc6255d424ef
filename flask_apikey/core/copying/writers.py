"""How a copy of keys is written, according to what history the target has."""

from collections.abc import Callable, Sequence
from functools import partial

from flask_apikey.core.copying.history import SourceHistory
from flask_apikey.core.copying.rotation import reseal_there
from flask_apikey.core.copying.unprepared import stored_in
from flask_apikey.core.errors import AlreadyExists, Conflict
from flask_apikey.core.model.history import COPIED, LifecycleEvent, all_events
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.storage.contract import Backend, KeepsHistory
from flask_apikey.core.times import Clock


class CopyWriter:
    """Writes keys alone.

    Args:
        target: Where to.
        history: That of the source, if it keeps one.

    Attributes:
        takes_over: Whether the target takes over the history of the source.
        events: Lifecycle events that were written.
    """

    takes_over = False

    def __init__(self, target: Backend, history: SourceHistory | None) -> None:
        self._target = target
        self._history = history
        self.events = 0

    def follow(self) -> None:
        """Read what the history of the source has told by now.

        Whoever does so between reading keys and writing them knows the events of
        everything that is written.
        """
        if self._history is not None:
            for _ in self._history.new():
                pass

    def version_removed(self, key_id: str) -> int | None:
        """The version that a key got by its removal from the source; None where no history tells of one."""
        return None if self._history is None else self._history.version_removed(key_id)

    def add(self, keys: Sequence[StoredKey]) -> int:
        """Store keys that are missing. Gives how many were, in the end."""
        if not keys:
            return 0
        try:
            self._target.add_many(keys)
        except AlreadyExists:
            return sum(self._add_one(key) for key in keys)
        return len(keys)

    def replace(self, newer: StoredKey, theirs: StoredKey) -> bool:
        """Let a key take the place of theirs, unless somebody has changed it meanwhile."""
        return _is_done(partial(self._target.update, newer, expected_version=theirs.record.version))

    def remove(self, theirs: StoredKey) -> bool:
        """Remove a key, unless somebody has changed it meanwhile."""
        return _is_done(partial(self._target.delete, theirs.record.id, expected_version=theirs.record.version))

    def reseal(self, pairs: Sequence[tuple[StoredKey, StoredKey]]) -> int:
        """Let our seals take the place of theirs. Gives how many did."""
        return reseal_there(self._target, pairs)

    def _add_one(self, key: StoredKey) -> bool:
        # Another copy, or the attempt with many before, may have stored this very key.
        return _is_done(partial(self._target.add, key)) or self._target.get(key.record.id) == key


class FollowingWriter(CopyWriter):
    """Writes keys alone, each after its events: a target that takes over the history of the source."""

    takes_over = True

    def __init__(self, target: Backend, keeper: KeepsHistory, history: SourceHistory) -> None:
        super().__init__(target, history)
        self._keeper = keeper
        self._followed = history

    def follow(self) -> None:
        """See `CopyWriter.follow`; the events are stored.

        Raises:
            Conflict: The target has got events of its own meanwhile.
        """
        for page in self._followed.new():
            try:
                self._keeper.append_events(page)
            except Conflict as exc:
                raise Conflict("others have extended the history of the target meanwhile: repeat the copy") from exc
            self.events += len(page)


class RecordingWriter(CopyWriter):
    """Writes each key with an event of its own: a target that has a history of its own."""

    def __init__(self, target: Backend, keeper: KeepsHistory, history: SourceHistory | None, clock: Clock) -> None:
        super().__init__(target, history)
        self._keeper = keeper
        self._clock = clock

    def add(self, keys: Sequence[StoredKey]) -> int:
        """See `CopyWriter.add`."""
        return sum(self._write(partial(self._keeper.add_recorded, key), key) for key in keys)

    def replace(self, newer: StoredKey, theirs: StoredKey) -> bool:
        """See `CopyWriter.replace`."""
        expected_version = theirs.record.version
        return self._write(partial(self._keeper.update_recorded, newer, expected_version=expected_version), newer)

    def _write(self, change: Callable[..., None], key: StoredKey) -> bool:
        event = LifecycleEvent(at=self._clock(), event=COPIED, key_id=key.record.id, key_version=key.record.version)
        is_done = _is_done(partial(change, event=event))
        self.events += is_done
        return is_done


class DryRun(CopyWriter):
    """Writes nothing, and counts what would be written.

    Args:
        target: Where to.
        history: That of the source, if it keeps one.
        takes_over: Whether the target takes it over.
        records: Whether each key would be written with an event.
    """

    def __init__(self, target: Backend, history: SourceHistory | None, *, takes_over: bool, records: bool) -> None:
        super().__init__(target, history)
        self.takes_over = takes_over
        self._records = records

    def follow(self) -> None:
        """See `CopyWriter.follow`."""
        if self._history is not None:
            for page in self._history.new():
                self.events += len(page) if self.takes_over else 0

    def add(self, keys: Sequence[StoredKey]) -> int:
        """See `CopyWriter.add`."""
        self.events += len(keys) if self._records else 0
        return len(keys)

    def replace(self, _newer: StoredKey, _theirs: StoredKey) -> bool:
        """See `CopyWriter.replace`."""
        self.events += self._records
        return True

    def remove(self, _theirs: StoredKey) -> bool:
        """See `CopyWriter.remove`."""
        return True

    def reseal(self, pairs: Sequence[tuple[StoredKey, StoredKey]]) -> int:
        """See `CopyWriter.reseal`."""
        return len(pairs)


def writer_for(source: Backend, target: Backend, clock: Clock, *, dry_run: bool) -> CopyWriter:
    """The writer that fits what history both sides have."""
    history = SourceHistory(source) if isinstance(source, KeepsHistory) else None
    keeper = target if isinstance(target, KeepsHistory) else None
    takes_over = (
        history is not None and keeper is not None and history.skip(stored_in(target, partial(all_events, keeper)))
    )
    if dry_run:
        return DryRun(target, history, takes_over=takes_over, records=keeper is not None and not takes_over)
    if keeper is None:
        return CopyWriter(target, history)
    if history is not None and takes_over:
        return FollowingWriter(target, keeper, history)
    return RecordingWriter(target, keeper, history, clock)


def _is_done(change: Callable[[], None]) -> bool:
    try:
        change()
    except (AlreadyExists, Conflict):
        return False
    return True

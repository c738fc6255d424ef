"""Changes to the target of a copy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flask_apikey.core.errors import Conflict
from flask_apikey.core.model.history import COPIED, LifecycleEvent
from flask_apikey.core.model.keys import Resealing, StoredKey
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import Clock


@dataclass(slots=True)
class KeyChanges:
    """Changes that bring one page of keys up to date.

    Attributes:
        added: Keys that the target lacks.
        updated: Newer and older version of each key that has changed at the source.
        resealed: Source's and target's key with the same record and different seals.
        removed: Keys of the target that were removed from the source.
    """

    added: list[StoredKey] = field(default_factory=list)
    updated: list[tuple[StoredKey, StoredKey]] = field(default_factory=list)
    resealed: list[tuple[StoredKey, StoredKey]] = field(default_factory=list)
    removed: list[StoredKey] = field(default_factory=list)


class KeyWriter:
    """Writes changes by compare-and-set: a key that changes during the copy is a `Conflict`.

    Args:
        source: Storage to copy from.
        target: Storage to copy to.
        clock: Returns the present moment, in UTC.
    """

    def __init__(self, source: Backend, target: Backend, clock: Clock) -> None:
        self._target = target
        # Every version of a key needs an event in a storage that keeps history.
        self._records = target.history is not None and source.history is None
        self._clock = clock

    def count_events(self, changes: KeyChanges) -> int:
        """Return the number of lifecycle events that `write` adds."""
        return len(changes.added) + len(changes.updated) if self._records else 0

    def write(self, changes: KeyChanges) -> None:
        """Write changes to the target.

        Raises:
            AlreadyExists: A key was added to the target during the copy.
            Conflict: A key of the target was changed during the copy.
        """
        if changes.added:
            self._add(changes.added)
        for newer, older in changes.updated:
            self._update(newer, older.record.version)
        if changes.resealed:
            self._reseal(changes.resealed)
        for key in changes.removed:
            self._target.delete(key.record.id, expected_version=key.record.version)

    def _add(self, keys: Sequence[StoredKey]) -> None:
        if not self._records:
            self._target.add_many(keys)
            return
        for key in keys:
            self._target.add(key, event=self._copied(key))

    def _update(self, key: StoredKey, expected_version: int) -> None:
        event = self._copied(key) if self._records else None
        self._target.update(key, expected_version=expected_version, event=event)

    def _reseal(self, pairs: Sequence[tuple[StoredKey, StoredKey]]) -> None:
        if self._target.rotation is None:
            for ours, theirs in pairs:
                self._target.update(ours, expected_version=theirs.record.version)
            return
        resealings = [Resealing(ours.record.id, theirs.seal, ours.seal) for ours, theirs in pairs]
        if self._target.rotation.reseal(resealings) < len(resealings):
            raise Conflict("a seal of the target has changed")

    def _copied(self, key: StoredKey) -> LifecycleEvent:
        return LifecycleEvent(at=self._clock(), event=COPIED, key_id=key.record.id, key_version=key.record.version)

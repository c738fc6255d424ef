"""Rows of a target with their histories. Whatever the source does not explain means that the target is in use."""

from collections.abc import Iterator, Sequence

from flask_apikey.core.copying.history import ChainReader
from flask_apikey.core.copying.source import Row, SourceKey
from flask_apikey.core.copying.summary import EVERYTHING, row_id, side_by_side, stored_in
from flask_apikey.core.errors import RowTampered, SealUnreadable, TargetInUse
from flask_apikey.core.model.history import ChainCheck, LifecycleEvent, is_number
from flask_apikey.core.model.keys import DamagedKey, StoredKey
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets
from flask_apikey.core.storage.chains import all_chains
from flask_apikey.core.storage.contract import Backend


class TargetReader:
    """Reads the rows of a target, which may have no tables yet."""

    def __init__(self, backend: Backend, ring: FernetKeyring) -> None:
        self._backend = backend
        self._ring = ring
        history = backend.history
        events = () if history is None else stored_in(backend, lambda: all_chains(history))
        self._chains = ChainReader(events, _refuse_events_without_row)

    def rows(self) -> Iterator[Row]:
        """Iterate over all rows by id."""
        last_id = ""
        for row in stored_in(self._backend, lambda: self._backend.scan(EVERYTHING)):
            key_id = row_id(row)
            if isinstance(row, DamagedKey) or not is_id(key_id) or key_id <= last_id:
                raise TargetInUse(f"key {key_id!r:.40} is damaged there")
            last_id = key_id
            yield row

    def finish(self) -> None:
        """Refuse the events behind those of the last row."""
        self._chains.skip_all()

    def secrets_of(self, theirs: StoredKey) -> SealedSecrets:
        """Return the secrets of a row.

        Raises:
            TargetInUse: The seal does not fit.
        """
        try:
            return secrets_of(theirs, self._ring)
        except (RowTampered, SealUnreadable) as exc:
            raise TargetInUse(str(exc)) from None

    def missing_events(self, ours: SourceKey, theirs: StoredKey | None) -> Sequence[LifecycleEvent]:
        """Return the events of a key that the target lacks.

        Raises:
            TargetInUse: The target has other events, or other versions of the row.
        """
        key_id = ours.stored.record.id
        # The events of an interrupted copy are there before their row.
        stored = self._events_of(key_id)
        missing = []
        last_hash = ""
        for event, same in side_by_side(ours.chain, stored, lambda each: (each.number,)):
            if event is None or (same is not None and same != event):
                raise TargetInUse(f"key {key_id} has an event there that is not from the source")
            if same is None:
                missing.append(event)
            if theirs is not None and event.number == theirs.record.version:
                last_hash = event.hash
        if theirs is not None and last_hash != theirs.history_hash:
            raise changed_there(key_id)
        return missing

    def require_whole_chain(self, key_id: str, theirs: StoredKey | None) -> None:
        """Check the history of a key whose source keeps none.

        Raises:
            TargetInUse: It is not the history of the row.
        """
        check = ChainCheck()
        for event in self._events_of(key_id):
            check.add(event)
        check.end_at(*((0, "") if theirs is None else (theirs.record.version, theirs.history_hash)))
        if check.problem is not None:
            raise TargetInUse(f"the history of key {key_id} is not that of its row there: {check.problem[1]}")

    def skip_events(self, key_id: str) -> None:
        """Skip the events of a key that the source has, too."""
        for _ in self._chains.take(key_id):
            pass

    def _events_of(self, key_id: str) -> Iterator[LifecycleEvent]:
        for event in self._chains.take(key_id):
            if not is_number(event.number):
                raise TargetInUse(f"key {key_id} has a damaged event there")
            yield event


def changed_there(key_id: str) -> TargetInUse:
    """Return the error for a key that changed at the target."""
    return TargetInUse(f"key {key_id} was changed there")


def _refuse_events_without_row(key_id: str) -> None:
    raise TargetInUse(f"it has events of key {key_id}, which is not in the source")

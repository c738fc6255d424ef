"""Rows of a source with their histories, checked before anything is copied.

Memory holds one page of rows and the history of one key. A hostile source cannot add
to that history: events beyond the version in the sealed row are not kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flask_apikey.core.copying.checks import check_event, check_record
from flask_apikey.core.copying.history import ChainReader
from flask_apikey.core.copying.refusals import Refusals, Refused
from flask_apikey.core.copying.summary import EVERYTHING, row_id
from flask_apikey.core.errors import InvalidValue, RowDamaged, RowTampered, SealUnreadable
from flask_apikey.core.model.history import ChainCheck, LifecycleEvent, is_number
from flask_apikey.core.model.keys import DamagedKey, StoredKey
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets
from flask_apikey.core.storage.chains import all_chains, chain_of
from flask_apikey.core.storage.contract import Backend

_ATTEMPTS = 20

Row = StoredKey | DamagedKey


@dataclass(frozen=True, slots=True)
class SourceKey:
    """A row whose seal fits and whose history is whole.

    Attributes:
        stored: The row.
        secrets: Its secrets.
        chain: All its events; empty if the source keeps no history.
    """

    stored: StoredKey
    secrets: SealedSecrets
    chain: list[LifecycleEvent]


class SourceReader:
    """Reads the rows of a source."""

    def __init__(self, backend: Backend, ring: FernetKeyring, refusals: Refusals) -> None:
        self._backend = backend
        self._ring = ring
        self._refusals = refusals
        events = () if backend.history is None else all_chains(backend.history)
        self._chains = ChainReader(events, self._check_events_without_row)

    def rows(self) -> Iterator[Row]:
        """Iterate over all rows by id. Rows without the id of a key are refused."""
        last_id = ""
        for row in self._backend.scan(EVERYTHING):
            key_id = row_id(row)
            if is_id(key_id) and key_id > last_id:
                last_id = key_id
                yield row
            else:
                self._refusals.add(key_id, "its id is not that of a key, or not unique")

    def finish(self) -> None:
        """Refuse the events behind those of the last row."""
        self._chains.skip_all()

    def read(self, row: Row) -> SourceKey:
        """Return a row with its history. Both are read again if they do not hold, because the key may change.

        Raises:
            Refused: The row or its history does not hold.
        """
        key_id = row_id(row)
        try:
            return self._checked(row, self._chains.take(key_id))
        except Refused:
            for _ in range(_ATTEMPTS):
                # The row first: each of its versions has its event already.
                current = self._get(key_id)
                try:
                    return self._checked(current, self._chain_of(key_id))
                except Refused:
                    if current == self._get(key_id):
                        raise
        raise Refused("it changes all the time: repeat the copy")

    def _checked(self, row: Row | None, events: Iterable[LifecycleEvent]) -> SourceKey:
        if row is None:
            raise Refused("it was removed")
        if isinstance(row, DamagedKey):
            raise Refused(row.problem)
        try:
            secrets = secrets_of(row, self._ring)
            check_record(row.record)
            chain = [] if self._backend.history is None else _whole_chain(row, events)
        except (InvalidValue, RowTampered, SealUnreadable) as exc:
            raise Refused(str(exc)) from None
        return SourceKey(row, secrets, chain)

    def _get(self, key_id: str) -> Row | None:
        try:
            return self._backend.get(key_id)
        except RowDamaged as exc:
            return DamagedKey(key_id, str(exc))

    def _chain_of(self, key_id: str) -> Iterable[LifecycleEvent]:
        return () if self._backend.history is None else chain_of(self._backend.history, key_id)

    def _check_events_without_row(self, key_id: str) -> None:
        # The key may be newer than the page of rows.
        if self._get(key_id) is None:
            self._refusals.add(key_id, "its row was deleted, or its events were added")


def _whole_chain(row: StoredKey, events: Iterable[LifecycleEvent]) -> list[LifecycleEvent]:
    version = row.record.version
    check = ChainCheck()
    chain: list[LifecycleEvent] = []
    for event in events:
        if is_number(event.number) and event.number > version:
            raise Refused(f"an older row was put back, or event {event.number} was added: the row is at {version}")
        check.add(event)
        check_event(event)
        if len(chain) == version:
            raise Refused("its history has too many events")
        chain.append(event)
    check.end_at(version, row.history_hash)
    if check.problem is not None:
        raise Refused(check.problem[1])
    return chain

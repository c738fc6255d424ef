"""Lifecycle events in a table."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, MetaData, Row, String, Table, Text, select
from sqlalchemy.exc import IntegrityError
from typing_extensions import override

from flask_apikey.core.errors import Conflict
from flask_apikey.core.model.history import ChainedEvent, LifecycleEvent, Link, chained
from flask_apikey.core.model.keystring import ID_LENGTH
from flask_apikey.core.storage.contract import HistoryStore
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_sql.database import Database
from flask_apikey_sql.tables import TABLE_OPTIONS
from flask_apikey_sql.transactions import Overtaken

EVENTS_TABLE = "flask_apikey_events"

_HASH_LENGTH = 64


def events_table(metadata: MetaData) -> Table:
    """Return the table of events in `metadata`, defined if missing."""
    return Table(
        EVENTS_TABLE,
        metadata,
        Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
        Column("at", BigInteger, nullable=False),
        Column("event", String(40), nullable=False),
        Column("key_id", String(ID_LENGTH), nullable=False),
        Column("key_version", Integer, nullable=False),
        Column("details", Text, nullable=False),
        Column("previous", String(_HASH_LENGTH), nullable=False),
        Column("hash", String(_HASH_LENGTH), nullable=False),
        Index("ix_flask_apikey_events_key_id", "key_id", "number"),
        **TABLE_OPTIONS,
    )


class SQLHistory(HistoryStore):
    """Lifecycle events in a table."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table

    @override
    def record(self, event: LifecycleEvent) -> None:
        self._database.transact(lambda connection: self.extend(connection, event))

    @override
    def events(self, *, after: int, limit: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
        columns = self._table.c
        statement = select(self._table).where(columns.number > after).order_by(columns.number).limit(limit)
        if key_id is not None:
            statement = statement.where(columns.key_id == key_id)
        with self._database.connect() as connection:
            return [_from_row(row) for row in connection.execute(statement)]

    @override
    def append(self, events: Sequence[ChainedEvent]) -> None:
        def insert(connection: Connection) -> None:
            last = _last_link(connection, self._table)
            if (last.number + 1, last.hash) != (events[0].number, events[0].previous):
                raise Conflict(f"event {events[0].number} does not follow what is stored")
            try:
                connection.execute(self._table.insert(), [_to_row(event) for event in events])
            except IntegrityError:
                raise Conflict("another process extended the history at the same time") from None

        if events:
            self._database.transact(insert)

    def extend(self, connection: Connection, event: LifecycleEvent) -> None:
        """Append an event in the transaction of the change that it describes, which `Overtaken` restarts."""
        link = chained(_last_link(connection, self._table), event)
        try:
            connection.execute(self._table.insert(), _to_row(link))
        except IntegrityError as exc:
            raise Overtaken from exc


def _last_link(connection: Connection, table: Table) -> Link:
    columns = table.c
    last = connection.execute(select(columns.number, columns.hash).order_by(columns.number.desc()).limit(1)).first()
    return Link() if last is None else Link(last.number, last.hash)


def _to_row(link: ChainedEvent) -> dict[str, Any]:
    return {
        "number": link.number,
        "at": to_microseconds(link.event.at),
        "event": link.event.event,
        "key_id": link.event.key_id,
        "key_version": link.event.key_version,
        "details": link.event.details,
        "previous": link.previous,
        "hash": link.hash,
    }


def _from_row(row: Row[Any]) -> ChainedEvent:
    event = LifecycleEvent(
        at=from_microseconds(row.at),
        event=row.event,
        key_id=row.key_id,
        key_version=row.key_version,
        details=row.details,
    )
    return ChainedEvent(row.number, event, row.previous, row.hash)

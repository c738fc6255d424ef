"""The table of lifecycle events, and how their chain is extended within a transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, MetaData, Row, String, Table, Text, select
from sqlalchemy.exc import IntegrityError

from flask_apikey.core.errors import Conflict
from flask_apikey.core.model.history import ChainedEvent, LifecycleEvent, Link, chained
from flask_apikey.core.model.keystring import ID_LENGTH
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_sql.tables import TABLE_OPTIONS
from flask_apikey_sql.transactions import Overtaken

EVENTS_TABLE = "flask_apikey_events"

_HASH_LENGTH = 64


def events_table(metadata: MetaData) -> Table:
    """The table of events in `metadata`, defined there unless it is already."""
    defined: Table | None = metadata.tables.get(EVENTS_TABLE)
    if defined is not None:
        return defined
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


def append(connection: Connection, table: Table, event: LifecycleEvent) -> None:
    """Extend the chain by one event, in the transaction of the change that it describes.

    Raises:
        Overtaken: Another transaction was first.
    """
    link = chained(_last_link(connection, table), event)
    try:
        connection.execute(table.insert(), _to_row(link))
    except IntegrityError as exc:
        raise Overtaken from exc


def append_all(connection: Connection, table: Table, events: Sequence[ChainedEvent]) -> None:
    """Store events as they are.

    Raises:
        Conflict: The first does not follow the last that is stored.
    """
    last = _last_link(connection, table)
    if (last.number + 1, last.hash) != (events[0].number, events[0].previous):
        raise Conflict(f"event {events[0].number} does not follow what is stored")
    try:
        connection.execute(table.insert(), [_to_row(event) for event in events])
    except IntegrityError:
        raise Conflict("the chain was extended meanwhile") from None


def read(
    connection: Connection, table: Table, *, after: int, limit: int, key_id: str | None = None
) -> list[ChainedEvent]:
    """The next events behind a number, of one key or of all."""
    statement = select(table).where(table.c.number > after).order_by(table.c.number).limit(limit)
    if key_id is not None:
        statement = statement.where(table.c.key_id == key_id)
    return [_from_row(row) for row in connection.execute(statement)]


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

"""Lifecycle events in a table."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    MetaData,
    RowMapping,
    Select,
    String,
    Table,
    Text,
    and_,
    literal,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError
from typing_extensions import override

from flask_apikey.core.errors import Conflict
from flask_apikey.core.model.history import MAX_ACTOR_LENGTH, EventPosition, LifecycleEvent, stored_event
from flask_apikey.core.model.keystring import ID_LENGTH
from flask_apikey.core.model.validation import MAX_OWNER_LENGTH, MAX_REASON_LENGTH
from flask_apikey.core.storage.contract import EventFilter, HistoryStore
from flask_apikey.core.times import to_microseconds
from flask_apikey_sql.connections import Connections
from flask_apikey_sql.database import Database
from flask_apikey_sql.tables import HASH_LENGTH, TABLE_OPTIONS, Schema, text_in_order
from flask_apikey_sql.transactions import transact

EVENTS_TABLE = "flask_apikey_events"

_Order = tuple[Column[Any], ...]


def events_table(metadata: MetaData, schema: Schema = None) -> Table:
    """Return the table of events in `metadata`, defined if missing."""
    return Table(
        EVENTS_TABLE,
        metadata,
        Column("key_id", text_in_order(ID_LENGTH), primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("at", BigInteger, nullable=False),
        Column("event", String(40), nullable=False),
        Column("owner", String(MAX_OWNER_LENGTH)),
        Column("actor", String(MAX_ACTOR_LENGTH), nullable=False),
        Column("reason", String(MAX_REASON_LENGTH)),
        Column("details", Text, nullable=False),
        Column("previous", String(HASH_LENGTH), nullable=False),
        Column("hash", String(HASH_LENGTH), nullable=False),
        Index("ix_flask_apikey_events_at", "at", "key_id", "number"),
        Index("ix_flask_apikey_events_owner", "owner", "at", "key_id", "number"),
        Index("ix_flask_apikey_events_actor", "actor", "at", "key_id", "number"),
        schema=schema,
        **TABLE_OPTIONS,
    )


class _EventExists(Exception):
    """An event with the same key and number is stored."""


class SQLHistory(HistoryStore):
    """Lifecycle events in a table."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table

    @override
    def events(
        self, event_filter: EventFilter, *, after: EventPosition | None, limit: int, newest_first: bool = False
    ) -> Sequence[LifecycleEvent]:
        columns = self._table.c
        statement = select(self._table).where(*self._conditions(event_filter))
        position = None if after is None else (to_microseconds(after.at), after.key_id, after.number)
        order = (columns.at, columns.key_id, columns.number)
        return self._read(statement, order, position, limit, newest_first=newest_first)

    @override
    def chains(self, *, after: tuple[str, int] | None, limit: int) -> Sequence[LifecycleEvent]:
        columns = self._table.c
        return self._read(select(self._table), (columns.key_id, columns.number), after, limit)

    @override
    def append(self, events: Sequence[LifecycleEvent]) -> None:
        columns = self._table.c

        def append_missing(connection: Connection) -> None:
            for event in events:
                same = select(self._table).where(columns.key_id == event.key_id, columns.number == event.number)
                stored = connection.execute(same).mappings().first()
                if stored is None:
                    connection.execute(self._table.insert(), _to_row(event))
                elif _from_row(stored) != event:
                    raise Conflict(f"key {event.key_id} has another event {event.number}")

        if events:
            with self._database.connections() as connections:
                try:
                    transact(connections, lambda connection: self._insert(connection, events, replaces=False))
                except _EventExists:
                    transact(connections, append_missing)

    @override
    def remove(self, events: Sequence[LifecycleEvent]) -> None:
        columns = self._table.c

        def remove(connection: Connection) -> None:
            for event in events:
                same = (columns.key_id == event.key_id, columns.number == event.number, columns.hash == event.hash)
                connection.execute(self._table.delete().where(*same))

        if events:
            self._database.transact(remove)

    def transact(
        self, connections: Connections, events: Sequence[LifecycleEvent], change: Callable[[Connection], object]
    ) -> None:
        """Make a change and insert its events, in one transaction. Forged events are replaced."""
        for replaces in (False, True):

            def change_and_insert(connection: Connection, *, replaces: bool = replaces) -> None:
                change(connection)
                if events:
                    self._insert(connection, events, replaces=replaces)

            with suppress(_EventExists):
                transact(connections, change_and_insert)
                return

    def _insert(self, connection: Connection, events: Sequence[LifecycleEvent], *, replaces: bool) -> None:
        if replaces:
            columns = self._table.c
            for event in events:
                forged = self._table.delete().where(columns.key_id == event.key_id, columns.number >= event.number)
                connection.execute(forged)
        try:
            connection.execute(self._table.insert(), [_to_row(event) for event in events])
        except IntegrityError as exc:
            if replaces:
                raise
            raise _EventExists from exc

    def _conditions(self, event_filter: EventFilter) -> list[ColumnElement[bool]]:
        columns = self._table.c
        wanted = {"key_id": event_filter.key_id, "owner": event_filter.owner, "actor": event_filter.actor}
        conditions = [columns[name] == value for name, value in wanted.items() if value is not None]
        if event_filter.since is not None:
            conditions.append(columns.at >= to_microseconds(event_filter.since))
        return conditions

    def _read(
        self,
        statement: Select[Any],
        order: _Order,
        after: tuple[Any, ...] | None,
        limit: int,
        *,
        newest_first: bool = False,
    ) -> Sequence[LifecycleEvent]:
        """Return the next events. Invalid rows are left out and must not end or repeat a listing."""
        statement = statement.order_by(*(column.desc() for column in order) if newest_first else order)
        found: list[LifecycleEvent] = []
        while len(found) < limit:
            wanted = limit - len(found)
            page = statement.limit(wanted)
            if after is not None:
                page = page.where(*_behind(order, after, newest_first=newest_first))
            with self._database.connect() as connection:
                rows = connection.execute(page).mappings().all()
            found += [event for event in map(_from_row, rows) if event is not None]
            if len(rows) < wanted:
                break
            after = tuple(rows[-1][column.name] for column in order)
        return found


def _behind(order: _Order, after: tuple[Any, ...], *, newest_first: bool) -> list[ColumnElement[bool]]:
    def beyond(column: Column[Any], value: object) -> ColumnElement[bool]:
        # PostgreSQL rejects a parameter that its column cannot hold.
        bound = literal(value, BigInteger) if isinstance(value, int) else value
        return column < bound if newest_first else column > bound

    pairs = list(zip(order, after, strict=True))
    further = or_(
        *(
            and_(*(same == value for same, value in pairs[:place]), beyond(column, given))
            for place, (column, given) in enumerate(pairs)
        )
    )
    first, start = pairs[0]
    # The second condition implies the first one, which lets the database use the index.
    return [first <= start if newest_first else first >= start, further]


def _to_row(event: LifecycleEvent) -> dict[str, Any]:
    return {
        "key_id": event.key_id,
        "number": event.number,
        "at": to_microseconds(event.at),
        "event": event.event,
        "owner": event.owner,
        "actor": event.actor,
        "reason": event.reason,
        "details": event.details,
        "previous": event.previous,
        "hash": event.hash,
    }


def _from_row(row: RowMapping) -> LifecycleEvent | None:
    return stored_event({name: row[name] for name in row})

"""Lifecycle events in a table."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Text,
    and_,
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
from flask_apikey_sql.database import Database
from flask_apikey_sql.tables import HASH_LENGTH, TABLE_OPTIONS, text_in_order
from flask_apikey_sql.transactions import transact

EVENTS_TABLE = "flask_apikey_events"


def events_table(metadata: MetaData) -> Table:
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
        order = (columns.at, columns.key_id, columns.number)
        statement = select(self._table).where(*self._conditions(event_filter))
        if after is not None:
            statement = statement.where(*_behind(order, after, newest_first=newest_first))
        return self._read(statement.order_by(*(column.desc() for column in order) if newest_first else order), limit)

    @override
    def chains(self, *, after: tuple[str, int] | None, limit: int) -> Sequence[LifecycleEvent]:
        columns = self._table.c
        statement = select(self._table).order_by(columns.key_id, columns.number)
        if after is not None:
            key_id, number = after
            # The first condition lets the database use the index.
            statement = statement.where(
                columns.key_id >= key_id,
                or_(columns.key_id > key_id, and_(columns.key_id == key_id, columns.number > number)),
            )
        return self._read(statement, limit)

    @override
    def append(self, events: Sequence[LifecycleEvent]) -> None:
        columns = self._table.c

        def append(connection: Connection) -> None:
            for event in events:
                row = _to_row(event)
                same = select(self._table).where(columns.key_id == event.key_id, columns.number == event.number)
                stored = connection.execute(same).first()
                if stored is None:
                    connection.execute(self._table.insert(), row)
                elif _from_row(stored) != event:
                    raise Conflict(f"key {event.key_id} has another event {event.number}")

        if events:
            self._database.transact(append)

    def transact(
        self, engine: Engine, events: Sequence[LifecycleEvent], change: Callable[[Connection], object]
    ) -> None:
        """Make a change and insert its events, in one transaction. Forged events are replaced."""
        for replaces in (False, True):

            def change_and_insert(connection: Connection, *, replaces: bool = replaces) -> None:
                change(connection)
                if events:
                    self._insert(connection, events, replaces=replaces)

            with suppress(_EventExists):
                transact(engine, change_and_insert)
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

    def _read(self, statement: Select[Any], limit: int) -> Sequence[LifecycleEvent]:
        with self._database.connect() as connection:
            return [_from_row(row) for row in connection.execute(statement.limit(limit))]


def _behind(
    order: tuple[ColumnElement[Any], ...], after: EventPosition, *, newest_first: bool
) -> list[ColumnElement[bool]]:
    at, key_id, number = order
    moment = to_microseconds(after.at)
    same_moment = at == moment
    same_key = and_(same_moment, key_id == after.key_id)
    if newest_first:
        further = or_(at < moment, and_(same_moment, key_id < after.key_id), and_(same_key, number < after.number))
        return [at <= moment, further]
    further = or_(at > moment, and_(same_moment, key_id > after.key_id), and_(same_key, number > after.number))
    return [at >= moment, further]


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


def _from_row(row: Row[Any]) -> LifecycleEvent:
    return stored_event(dict(row._mapping))  # noqa: SLF001  # documented as public by SQLAlchemy

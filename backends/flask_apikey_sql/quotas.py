"""Counters of quotas in a table.

A row is changed by conditional updates of one statement, in the dialect of any database.
Every transaction starts with a write, as in `flask_apikey_sql.usage`.
"""

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, Index, MetaData, Row, Table, and_, delete, select
from sqlalchemy.exc import IntegrityError
from typing_extensions import override

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.quotas import MAX_SUBJECT_LENGTH, QuotaCounter, QuotaState
from flask_apikey.core.storage.contract import QuotaStore
from flask_apikey.core.times import to_microseconds
from flask_apikey_sql.database import Database
from flask_apikey_sql.tables import TABLE_OPTIONS, Schema, text_in_order
from flask_apikey_sql.timeouts import unlimited

QUOTAS_TABLE = "flask_apikey_quotas"

_EVERY_PERIOD = -1
"""The start in a row with what is added to every period of its subject."""

_MAX_ATTEMPTS = 20


def quotas_table(metadata: MetaData, schema: Schema = None) -> Table:
    """Return the table of quotas in `metadata`, defined if missing."""
    return Table(
        QUOTAS_TABLE,
        metadata,
        Column("subject", text_in_order(MAX_SUBJECT_LENGTH), primary_key=True),
        Column("starts_at", BigInteger, primary_key=True, autoincrement=False),
        Column("ends_at", BigInteger),
        # The balance is what was used minus what was added, so that one condition compares it with the limit.
        Column("balance", BigInteger, nullable=False),
        Column("added", BigInteger, nullable=False),
        Column("generation", BigInteger, nullable=False),
        Index("ix_flask_apikey_quotas_ends_at", "ends_at"),
        schema=schema,
        **TABLE_OPTIONS,
    )


class SQLQuotas(QuotaStore):
    """Counters of quotas in a table."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table

    @override
    def take(self, counter: QuotaCounter, *, least: int, most: int, limit: int) -> QuotaState:
        for _ in range(_MAX_ATTEMPTS):
            state = self._database.transact(partial(self._take, counter, least, most, limit))
            if state is not None:
                return state
            self._create(counter)
        raise StorageError("the database accepts no counter of a quota")

    @override
    def give_back(self, counter: QuotaCounter, amount: int, *, generation: int) -> None:
        columns = self._table.c
        statement = (
            self._table.update()
            .where(self._is(counter), columns.generation == generation)
            .values(balance=columns.balance - amount)
        )
        self._database.transact(lambda connection: connection.execute(statement))

    @override
    def get(self, counter: QuotaCounter) -> QuotaState:
        with self._database.connect() as connection:
            row = connection.execute(select(self._table).where(self._is(counter))).first()
            # A period in which nothing was counted yet has its additions nevertheless.
            return QuotaState(added=self._of_every_period(connection, counter)) if row is None else _state(row)

    @override
    def reset(self, counter: QuotaCounter) -> None:
        columns = self._table.c
        statement = (
            self._table.update()
            .where(self._is(counter))
            .values(balance=-columns.added, generation=columns.generation + 1)
        )
        self._database.transact(lambda connection: connection.execute(statement))

    @override
    def add(self, counter: QuotaCounter, amount: int, *, every_period: bool) -> None:
        # First of all, so that a new row does not have the addition already.
        self._create(counter)
        rows = [self._is(counter)]
        if every_period:
            self._insert(_values(counter, 0, starts_at=_EVERY_PERIOD, ends_at=None))
            rows.append(self._is_every_period(counter))
        columns = self._table.c

        def change(connection: Connection) -> None:
            for row in rows:
                update = self._table.update().where(row)
                connection.execute(update.values(balance=columns.balance - amount, added=columns.added + amount))

        self._database.transact(change)

    @override
    @unlimited()
    def prune(self, *, before: datetime) -> int:
        statement = delete(self._table).where(self._table.c.ends_at <= to_microseconds(before))
        return self._database.transact(lambda connection: connection.execute(statement).rowcount)

    def _take(
        self, counter: QuotaCounter, least: int, most: int, limit: int, connection: Connection
    ) -> QuotaState | None:
        """Take from a row. Return None if there is no such row."""
        granted = most if self._consume(connection, counter, most, limit) else 0
        # Locked, so that what is left can be taken. The row may be full, or missing.
        row = connection.execute(select(self._table).where(self._is(counter)).with_for_update()).first()
        if row is None:
            return None
        state = _state(row)
        room = limit + state.added - state.used
        if not granted and room >= least and self._consume(connection, counter, min(room, most), limit):
            granted = min(room, most)
            state = state._replace(used=state.used + granted)
        return state._replace(granted=granted)

    def _consume(self, connection: Connection, counter: QuotaCounter, amount: int, limit: int) -> bool:
        balance = self._table.c.balance
        statement = self._table.update().where(self._is(counter), balance <= limit - amount)
        return connection.execute(statement.values(balance=balance + amount)).rowcount == 1

    def _create(self, counter: QuotaCounter) -> None:
        """Create a counter unless it exists."""
        with self._database.connect() as connection:
            added = self._of_every_period(connection, counter)
        self._insert(_values(counter, added))

    def _insert(self, values: dict[str, Any]) -> None:
        def insert(connection: Connection) -> None:
            try:
                connection.execute(self._table.insert(), values)
            except IntegrityError:
                # Another process has inserted it.
                return

        self._database.transact(insert)

    def _of_every_period(self, connection: Connection, counter: QuotaCounter) -> int:
        found: int | None = connection.scalar(select(self._table.c.added).where(self._is_every_period(counter)))
        return found or 0

    def _is(self, counter: QuotaCounter) -> ColumnElement[bool]:
        columns = self._table.c
        return and_(columns.subject == counter.subject, columns.starts_at == to_microseconds(counter.starts_at))

    def _is_every_period(self, counter: QuotaCounter) -> ColumnElement[bool]:
        columns = self._table.c
        return and_(columns.subject == counter.subject, columns.starts_at == _EVERY_PERIOD)


def _values(counter: QuotaCounter, added: int, **others: Any) -> dict[str, Any]:
    return {
        "subject": counter.subject,
        "starts_at": to_microseconds(counter.starts_at),
        "ends_at": None if counter.ends_at is None else to_microseconds(counter.ends_at),
        "balance": -added,
        "added": added,
        "generation": 0,
        **others,
    }


def _state(row: Row[Any]) -> QuotaState:
    return QuotaState(row.balance + row.added, row.added, row.generation)

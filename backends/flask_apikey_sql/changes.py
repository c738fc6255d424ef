"""Moments of changes, by the clock of the database."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, Table, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from typing_extensions import override

from flask_apikey.core.storage.contract import Changes, ChangeStore
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_sql.database import Database
from flask_apikey_sql.errors import storage_errors


class DatabaseTime(FunctionElement[int]):
    """The present moment in microseconds since 1970-01-01 UTC, whatever the time zone of the session."""

    inherit_cache = True
    name = "database_time"
    type = BigInteger()


@compiles(DatabaseTime)
def _standard(_element: DatabaseTime, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP) * 1000000 AS BIGINT)"


@compiles(DatabaseTime, "postgresql")
def _postgresql(_element: DatabaseTime, _compiler: SQLCompiler, **_options: Any) -> str:
    # Not the start of the transaction, which may have waited for locks since.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(DatabaseTime, "sqlite")
def _sqlite(_element: DatabaseTime, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


@compiles(DatabaseTime, "mysql")
@compiles(DatabaseTime, "mariadb")
def _mysql(_element: DatabaseTime, _compiler: SQLCompiler, **_options: Any) -> str:
    # UNIX_TIMESTAMP() takes local time, which occurs twice at the end of summer time.
    return "TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', UTC_TIMESTAMP(6))"


class SQLChanges(ChangeStore):
    """Moments of changes in the table of keys. They are read on the connections of the look-up."""

    def __init__(self, database: Database, keys: Table) -> None:
        self._database = database
        self._keys = keys

    @override
    @storage_errors()
    def changed_since(self, moment: datetime | None, *, limit: int) -> Changes:
        # Not on the engine's pool, whose connections the current request may hold.
        rows = self._database.opened.get().lookup.rows(changes_since(self._keys, moment, limit=limit))
        return Changes(from_microseconds(rows[0][0]), [key_id for _, key_id in rows if isinstance(key_id, str)])


def changes_since(keys: Table, moment: datetime | None, *, limit: int) -> Select[Any]:
    """Build the query for the time, and the ids of keys that were changed. The time is in each row."""
    columns: list[ColumnElement[Any]] = [DatabaseTime(), literal(None) if moment is None else keys.c.id]
    if moment is None:
        return select(*columns)
    only_row = select(literal(1).label("one")).subquery()
    is_changed = keys.c.changed_at >= to_microseconds(moment)
    return select(*columns).select_from(only_row.outerjoin(keys, is_changed)).limit(limit)

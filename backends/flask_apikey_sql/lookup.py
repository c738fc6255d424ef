"""The only query of a request: a row by primary key.

The statement is compiled once and runs on idle autocommit connections outside the
pool. That avoids most of SQLAlchemy's overhead per statement. The connections are
detached from the pool, so that they do not exhaust a small one.
"""

from collections import deque
from contextlib import suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, bindparam, column, select
from sqlalchemy.pool import NullPool

from flask_apikey_sql.sqlite_files import SQLiteFile

_PARAMETER = "key_id"
MAX_IDLE_CONNECTIONS = 32


class KeyLookup:
    """Finds rows of a table by its first column, the primary key."""

    def __init__(self, engine: Engine, table: Table, *, keep_connections: bool) -> None:
        self._engine = engine
        # Unqualified column names keep the statement short: PyMySQL sends its text each time.
        columns: list[ColumnElement[Any]] = [column(each.name) for each in table.columns]
        statement = select(*columns).select_from(table).where(columns[0] == bindparam(_PARAMETER))
        compiled = statement.compile(dialect=engine.dialect)
        self._sql = str(compiled)
        self._positional = bool(compiled.positional)
        self._keeps = keep_connections and not isinstance(engine.pool, NullPool)
        self._idle: deque[_PreparedConnection] = deque()
        self._closings = 0
        self.file: SQLiteFile | None = None

    def __call__(self, key_id: str) -> tuple[Any, ...] | None:
        """Return the row of a key, or None. Errors of the driver are raised as they are."""
        parameters = (key_id,) if self._positional else {_PARAMETER: key_id}
        if self.file is not None:
            self.file.check()
        try:
            idle = self._idle.pop()
        except IndexError:
            return self._run_first(parameters)
        try:
            return self._run(idle, parameters)
        except self._engine.dialect.loaded_dbapi.Error:
            # The server may have closed the idle connections.
            self.close()
            return self._run_first(parameters)

    def close(self) -> None:
        """Close the idle connections now, and those in use after their statement."""
        self._closings += 1
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _connect(self) -> "_PreparedConnection":
        closings = self._closings
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        driver_connection = connection.connection.dbapi_connection
        if self._keeps:
            connection.detach()
        return _PreparedConnection(connection, driver_connection, closings)

    def _run_first(self, parameters: Any) -> tuple[Any, ...] | None:
        row = self._run(self._connect(), parameters)
        if self.file is not None:
            self.file.note_log()
        return row

    def _run(self, prepared: "_PreparedConnection", parameters: Any) -> tuple[Any, ...] | None:
        try:
            prepared.execute(self._sql, parameters)
            rows = prepared.fetchall()
        except BaseException:
            prepared.close()
            raise
        if self._keeps and prepared.closings == self._closings and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(prepared)
        else:
            prepared.release()
        return rows[0] if rows else None


class _PreparedConnection:
    """An autocommit connection with its cursor."""

    __slots__ = ("_connection", "_cursor", "_driver_connection", "closings", "execute", "fetchall")

    def __init__(self, connection: Connection, driver_connection: Any, closings: int) -> None:
        self.closings = closings
        self._connection = connection
        self._driver_connection = driver_connection
        self._cursor = connection.connection.cursor()
        self.execute = self._cursor.execute
        self.fetchall = self._cursor.fetchall

    def release(self) -> None:
        """Return the connection to the pool, or close it if it is detached."""
        self._cursor.close()
        self._connection.close()

    def close(self) -> None:
        """Close the connection, even if it is broken."""
        self._connection.invalidate()
        # invalidate() does not close detached connections.
        with suppress(Exception):
            self._driver_connection.close()
        self._connection.close()

"""The one statement of a request: a row by its primary key.

It is compiled once and runs on connections that are kept open in autocommit
mode beside the pool, which saves most of what SQLAlchemy costs for each
statement. The connections are detached from the pool, so that a small pool is
never starved by them.
"""

from collections import deque
from contextlib import suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, bindparam, column, select
from sqlalchemy.pool import NullPool

_PARAMETER = "key_id"
MAX_IDLE_CONNECTIONS = 32


class KeyLookup:
    """Finds rows of a table by primary key.

    Args:
        engine: Where from.
        table: Which table; its first column is the key.
    """

    def __init__(self, engine: Engine, table: Table, *, keep_connections: bool) -> None:
        self._engine = engine
        # Without the table's name before each: PyMySQL sends the whole text each time, and the server reads it.
        columns: list[ColumnElement[Any]] = [column(each.name) for each in table.columns]
        statement = select(*columns).select_from(table).where(columns[0] == bindparam(_PARAMETER))
        compiled = statement.compile(dialect=engine.dialect)
        self._sql = str(compiled)
        self._positional = bool(compiled.positional)
        self._keeps = keep_connections and not isinstance(engine.pool, NullPool)
        self._idle: deque[_PreparedConnection] = deque()

    def __call__(self, key_id: str) -> tuple[Any, ...] | None:
        """The row of a key, or None.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The database cannot be reached.
            Exception: The driver's own error.
        """
        parameters = (key_id,) if self._positional else {_PARAMETER: key_id}
        try:
            kept = self._idle.pop()
        except IndexError:
            return self._run(self._connect(), parameters)
        try:
            return self._run(kept, parameters)
        except self._engine.dialect.loaded_dbapi.Error:
            # A kept connection may have been closed by the server since; the others then too.
            self.close()
            return self._run(self._connect(), parameters)

    def close(self) -> None:
        """Close the connections that are kept."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _connect(self) -> "_PreparedConnection":
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        driver_connection = connection.connection.dbapi_connection
        if self._keeps:
            connection.detach()
        return _PreparedConnection(connection, driver_connection)

    def _run(self, prepared: "_PreparedConnection", parameters: Any) -> tuple[Any, ...] | None:
        try:
            prepared.execute(self._sql, parameters)
            rows = prepared.fetchall()
        except BaseException:
            prepared.close()
            raise
        if self._keeps and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(prepared)
        else:
            prepared.release()
        return rows[0] if rows else None


class _PreparedConnection:
    """A connection in autocommit mode and the one cursor that is used on it."""

    __slots__ = ("_connection", "_cursor", "_driver_connection", "execute", "fetchall")

    def __init__(self, connection: Connection, driver_connection: Any) -> None:
        self._connection = connection
        self._driver_connection = driver_connection
        self._cursor = connection.connection.cursor()
        self.execute = self._cursor.execute
        self.fetchall = self._cursor.fetchall

    def release(self) -> None:
        """Give the connection back to where it came from."""
        self._cursor.close()
        self._connection.close()

    def close(self) -> None:
        """Close the connection, in whatever state it is."""
        self._connection.invalidate()
        # What is detached from its pool is not closed by that.
        with suppress(Exception):
            self._driver_connection.close()
        self._connection.close()

"""The one statement of a request: a row by its primary key.

It is compiled once and runs on connections that are kept open in autocommit
mode beside the pool, which saves most of what SQLAlchemy costs for each
statement. The connections are detached from the pool, so that a small pool is
never starved by them.
"""

from collections import deque
from typing import Any

from sqlalchemy import Connection, Engine, Table, bindparam, select
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
        statement = select(*table.columns).where(table.primary_key.columns[0] == bindparam(_PARAMETER))
        compiled = statement.compile(dialect=engine.dialect)
        self._sql = str(compiled)
        self._positional = bool(compiled.positional)
        self._keeps = keep_connections and not isinstance(engine.pool, NullPool)
        self._idle: deque[Connection] = deque()

    def __call__(self, key_id: str) -> tuple[Any, ...] | None:
        """The row of a key, or None.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The database cannot be reached.
            Exception: The driver's own error.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._run_and_keep(self._connect(), key_id)
        try:
            return self._run_and_keep(connection, key_id)
        except self._engine.dialect.loaded_dbapi.Error:
            # A kept connection may have been closed by the server since; the others then too.
            self.close()
            return self._run_and_keep(self._connect(), key_id)

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            connection.invalidate()
            connection.close()

    def _connect(self) -> Connection:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if self._keeps:
            connection.detach()
        return connection

    def _run_and_keep(self, connection: Connection, key_id: str) -> tuple[Any, ...] | None:
        try:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(self._sql, (key_id,) if self._positional else {_PARAMETER: key_id})
                row: tuple[Any, ...] | None = cursor.fetchone()
            finally:
                cursor.close()
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        if self._keeps and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()
        return row

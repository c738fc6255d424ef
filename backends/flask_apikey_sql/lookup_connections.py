"""Connections of the look-up.

They stay open between look-ups, which avoids most of SQLAlchemy's overhead. They come from
a pool that is made like the engine's, because a request may hold all connections of the engine's.
"""

import os
from collections import deque
from time import monotonic
from typing import Any
from weakref import finalize, ref

from sqlalchemy import ColumnElement, Connection, Dialect, Engine, Select, Table, bindparam, column, select
from sqlalchemy.pool import Pool, QueuePool
from typing_extensions import override

from flask_apikey_sql.sqlite_holds import forget_thread, is_ours
from flask_apikey_sql.timeouts import connecting_for_us, limit_lookups
from flask_apikey_sql.write_lock import WRITE_TIMEOUT

MAX_AGE = 180
"""Seconds after which connections are replaced. Firewalls and load balancers forget idle ones after four minutes."""

# A cursor ignores all other execution options. A single row is read in autocommit mode whatever the isolation level is.
_OPTIONS_OF_CURSORS = {"isolation_level", WRITE_TIMEOUT}
_EVENTS_OF_CHECKOUTS = ("checkout", "checkin", "reset")
_EVENTS_OF_TRANSACTIONS = ("engine_connect", "set_connection_execution_options", "begin", "commit", "rollback")
_EVENTS_OF_CURSORS = ("do_execute", "do_execute_no_params", "handle_error")

# A flag that SQLAlchemy keeps for its own speed. If it ever goes, every look-up runs through SQLAlchemy.
_HAS_EVENTS = "_has_events"

_PARAMETER = "key_id"

Row = tuple[Any, ...] | None

Wanted = str | tuple[str, ...] | Select[Any]
"""The id of one row, the ids of several, or another statement."""


class RowQuery:
    """The query for a row by the first column of its table, compiled once, and that for several rows."""

    def __init__(self, table: Table, dialect: Dialect) -> None:
        # Unqualified column names keep the statement short: PyMySQL sends its text each time.
        columns: list[ColumnElement[Any]] = [column(each.name) for each in table.columns]
        statement = select(*columns).select_from(table)
        self._statement = statement.where(columns[0] == bindparam(_PARAMETER))
        self._several = statement.where(columns[0].in_(bindparam(_PARAMETER, expanding=True)))
        compiled = self._statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self.is_positional = bool(compiled.positional)

    def run(self, connection: Connection, wanted: Wanted) -> Any:
        """Run the query through SQLAlchemy. Returns a row or None for one id, and a list for others."""
        if isinstance(wanted, Select):
            return [tuple(row) for row in connection.execute(wanted)]
        if isinstance(wanted, tuple):
            return [tuple(row) for row in connection.execute(self._several, {_PARAMETER: list(wanted)})]
        row = connection.execute(self._statement, {_PARAMETER: wanted}).first()
        return None if row is None else tuple(row)


class LookupConnections:
    """Connections that are used until their age, the pool or the execution options of the engine end it.

    The statement runs on the driver's cursor only if that skips no event and no option of the engine. If
    the pool or the engine has events for each checkout or transaction, no connection is kept out of the pool.
    """

    def __init__(self, engine: Engine, query: RowQuery) -> None:
        pool = engine.pool
        self._engine = engine
        self._query = query
        self._engine_pool = ref(pool)
        self._options = engine.get_execution_options()
        self._has_events = getattr(engine, _HAS_EVENTS, True)
        self._pool = pool.recreate()
        self._expires_at = monotonic() + _max_age(pool)
        self._keeps = _may_keep(engine)
        self._open = _CursorConnection if self._keeps and _may_use_cursor(engine) else _CoreConnection
        self._idle: deque[_CoreConnection] = deque()
        self._is_closed = False
        self._process = os.getpid()
        # Engine.dispose() replaces the pool.
        self._at_disposal = finalize(pool, self._close)

    def are_current(self, now: float) -> bool:
        """Return True until the connections must be replaced."""
        engine = self._engine
        return (
            now < self._expires_at
            and engine.pool is self._engine_pool()
            and engine.get_execution_options() is self._options
            and getattr(engine, _HAS_EVENTS, True) is self._has_events
        )

    def take_idle(self) -> "_CoreConnection | None":
        """Return an idle connection, or None."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def connect(self) -> "_CoreConnection":
        """Return a new connection, or one of the pool if no connection is kept out of it."""
        # Made for each kept connection, so that it has the listeners that the engine's pool has by now.
        pool = self._engine.pool.recreate() if self._keeps else self._pool
        with connecting_for_us():
            connection = Connection(self._engine, pool.connect())
        try:
            forget_thread(connection)
            limit_lookups(self._engine, connection)
            if self._keeps:
                connection.execution_options(isolation_level="AUTOCOMMIT")
            return self._open(connection, self._query)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise

    def find(self, connection: "_CoreConnection", wanted: Wanted) -> Any:
        """Return the row of a key or None, or a list of rows for others. Releases the connection."""
        try:
            found = connection.find(wanted)
        except BaseException:
            connection.discard()
            raise
        if self._keeps:
            self._idle.append(connection)
        else:
            connection.release()
        if self._is_closed:
            self._close()
        return found

    def close(self) -> None:
        """Close the connections, and from now on those that are released."""
        self._at_disposal.detach()
        self._close()

    def _close(self) -> None:
        self._is_closed = True
        if os.getpid() != self._process:
            # The connections belong to the parent process.
            return
        while True:
            try:
                self._idle.pop().discard()
            except IndexError:
                break
        self._pool.dispose()


class _CoreConnection:
    """A connection that runs the query through SQLAlchemy, with all events and options of the engine."""

    def __init__(self, connection: Connection, query: RowQuery) -> None:
        self._connection = connection
        self._query = query

    def find(self, wanted: Wanted) -> Any:
        return self._query.run(self._connection, wanted)

    def release(self) -> None:
        """Return the connection to the pool."""
        self._connection.close()

    def discard(self) -> None:
        """Close the connection without a word to the server, which may not answer."""
        self._connection.invalidate()
        self._connection.close()


class _CursorConnection(_CoreConnection):
    """A connection that runs the query on a cursor of the driver."""

    def __init__(self, connection: Connection, query: RowQuery) -> None:
        super().__init__(connection, query)
        cursor = connection.connection.cursor()
        self._execute, self._fetchall = cursor.execute, cursor.fetchall
        self._sql, self._is_positional = query.sql, query.is_positional

    @override
    def find(self, wanted: Wanted) -> Any:
        if not isinstance(wanted, str):
            return super().find(wanted)
        self._execute(self._sql, (wanted,) if self._is_positional else {_PARAMETER: wanted})
        rows = self._fetchall()
        return rows[0] if rows else None


def _max_age(pool: Pool) -> float:
    # No public attribute holds it. A negative number means no limit.
    recycle: float = getattr(pool, "_recycle", -1)
    return min(recycle, MAX_AGE) if recycle >= 0 else MAX_AGE


def _may_keep(engine: Engine) -> bool:
    pool = engine.pool
    return isinstance(pool, QueuePool) and not (
        # The events of a connection are joined to those of its engine. Any could be one of a transaction.
        # SQLAlchemy 2.0 sets the flag of the class with the first listener.
        getattr(Connection, _HAS_EVENTS, False)
        or _listened(pool.dispatch, _EVENTS_OF_CHECKOUTS)
        or _listened(engine.dispatch, _EVENTS_OF_TRANSACTIONS)
    )


def _may_use_cursor(engine: Engine) -> bool:
    return not (
        getattr(engine, _HAS_EVENTS, True)
        or engine.echo
        or engine.get_execution_options().keys() - _OPTIONS_OF_CURSORS
        or _listened(engine.dialect.dispatch, _EVENTS_OF_CURSORS)
    )


def _listened(dispatch: Any, events: tuple[str, ...]) -> bool:
    return any(not is_ours(listener) for event in events for listener in getattr(dispatch, event))

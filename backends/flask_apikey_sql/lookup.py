"""The only query of a request: a row by primary key."""

import queue
from collections.abc import Sequence
from threading import Lock
from time import monotonic
from typing import Any

from sqlalchemy import Engine, Select, Table
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import AssertionPool, Pool, QueuePool, StaticPool

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.lookup_connections import LookupConnections, Row, RowQuery, Wanted
from flask_apikey_sql.sqlite_files import SQLiteFile
from flask_apikey_sql.timeouts import Timeout

DEFAULT_LIMIT = 5
"""Number of connections if the pool has no size: SQLAlchemy's default size."""

MAX_WAIT = 5.0
"""Seconds to wait for a connection, if the pool or the timeout is not shorter."""

_RETRY_WITHIN = 1.0


class KeyLookup:
    """Finds rows of a table by its first column, the primary key.

    Has at most as many connections as the size of the engine's pool, beside that pool.
    """

    def __init__(self, engine: Engine, table: Table, file: SQLiteFile | None, timeout: Timeout) -> None:
        self._engine = engine
        self._timeout = timeout
        self._file = file
        self._query = RowQuery(table, engine.dialect)
        self._connections = LookupConnections(engine, self._query)
        self._renewing = Lock()
        self._is_closed = False
        self._driver_errors = (engine.dialect.loaded_dbapi.Error, SQLAlchemyError, OSError)
        self._limit = _limit(engine.pool)
        # A semaphore in C. Looked up in its module when it is made, because gevent replaces it there.
        self._permits: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(self._limit):
            self._permits.put(None)
        self._max_wait = min(engine.pool.timeout(), MAX_WAIT) if isinstance(engine.pool, QueuePool) else MAX_WAIT

    def __call__(self, key_id: str) -> Row:
        """Return the row of a key, or None. Errors of the driver are raised as they are.

        Raises:
            StorageError: All connections are busy.
        """
        row: Row = self._find(key_id)
        return row

    def many(self, key_ids: Sequence[str]) -> Sequence[tuple[Any, ...]]:
        """Return the rows of several keys, in any order. Raises what a call raises."""
        rows: Sequence[tuple[Any, ...]] = self._find(tuple(key_ids))
        return rows

    def rows(self, statement: Select[Any]) -> Sequence[tuple[Any, ...]]:
        """Return the rows of another statement, in any order. Raises what a call raises."""
        rows: Sequence[tuple[Any, ...]] = self._find(statement)
        return rows

    def _find(self, wanted: Wanted) -> Any:
        longest_wait = min(self._max_wait, self._timeout.seconds)
        try:
            self._permits.get(timeout=longest_wait)
        except queue.Empty:
            raise StorageError(
                f"all {self._limit} connections for look-ups were busy for {longest_wait:g} seconds"
            ) from None
        try:
            if self._file is not None:
                self._file.check()
            started_at = monotonic()
            connections = self._connections
            if not connections.are_current(started_at):
                connections = self._renewed(connections)
            idle = connections.take_idle()
            if idle is None:
                return self._find_first(connections, wanted)
            try:
                return connections.find(idle, wanted)
            except self._driver_errors:
                # The server may have closed all idle connections, or the network may have forgotten them.
                connections = self._renewed(connections)
                # A slow failure is a timeout, which must not double.
                if monotonic() - started_at > min(_RETRY_WITHIN, self._timeout.seconds / 2):
                    raise
            return self._find_first(connections, wanted)
        finally:
            self._permits.put(None)

    def close(self) -> None:
        """Close the connections. Later look-ups keep none."""
        self._is_closed = True
        self._connections.close()

    def _find_first(self, connections: LookupConnections, wanted: Wanted) -> Any:
        found = connections.find(connections.connect(), wanted)
        if self._file is not None:
            self._file.note_log()
        return found

    def _renewed(self, old: LookupConnections) -> LookupConnections:
        with self._renewing:
            if self._connections is old:
                self._connections = LookupConnections(self._engine, self._query)
                if self._is_closed:
                    self._connections.close()
            renewed = self._connections
        old.close()
        return renewed


class MemoryLookup:
    """Finds rows in an in-memory database, through its only connection."""

    def __init__(self, engine: Engine, table: Table) -> None:
        self._engine = engine
        self._query = RowQuery(table, engine.dialect)

    def __call__(self, key_id: str) -> Row:
        """Return the row of a key, or None."""
        with self._engine.connect() as connection:
            row: Row = self._query.run(connection, key_id)
            return row

    def many(self, key_ids: Sequence[str]) -> Sequence[tuple[Any, ...]]:
        """Return the rows of several keys, in any order."""
        with self._engine.connect() as connection:
            rows: Sequence[tuple[Any, ...]] = self._query.run(connection, tuple(key_ids))
            return rows

    def rows(self, statement: Select[Any]) -> Sequence[tuple[Any, ...]]:
        """Return the rows of another statement, in any order."""
        with self._engine.connect() as connection:
            rows: Sequence[tuple[Any, ...]] = self._query.run(connection, statement)
            return rows

    def close(self) -> None:
        """Do nothing: the connection belongs to the engine."""


def _limit(pool: Pool) -> int:
    if isinstance(pool, QueuePool):
        # 0 means no limit.
        return pool.size() or DEFAULT_LIMIT
    return 1 if isinstance(pool, StaticPool | AssertionPool) else DEFAULT_LIMIT

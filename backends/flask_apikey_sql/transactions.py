"""Transactions, retried after serialization failures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.connections import Connections
from flask_apikey_sql.errors import driver_message, is_serialization_failure
from flask_apikey_sql.sqlite_holds import PATIENCE, Hold, refusal
from flask_apikey_sql.timeouts import connected
from flask_apikey_sql.write_lock import WRITE_TIMEOUT, write_turn

_AUTOCOMMIT = "AUTOCOMMIT"
_MAX_ATTEMPTS = 200

T = TypeVar("T")


@contextmanager
def transaction(connections: Connections) -> Iterator[Connection]:
    """Run a block in a transaction, even on an autocommit engine.

    Raises:
        StorageError: The current thread keeps a SQLite file from being written.
    """
    hold = connections.hold()
    if hold is Hold.WRITES:
        raise refusal()
    with connected(connections) as connection:
        # No public attribute holds the isolation level passed to create_engine().
        default = getattr(connection.dialect, "_on_connect_isolation_level", None)
        if (connection.get_execution_options().get("isolation_level") or default) == _AUTOCOMMIT:
            connection.execution_options(isolation_level=connection.default_isolation_level)
        with _patience(connection, hold):
            timeout = connections.engine.get_execution_options().get(WRITE_TIMEOUT)
            if timeout is None:
                with connection.begin():
                    yield connection
                return
            timeout = timeout if hold is Hold.NOTHING else min(timeout, PATIENCE)
            with write_turn(connections.path, timeout), connection.begin():
                driver_connection: Any = connection.connection.dbapi_connection
                # Before the first read, so that no other connection writes in between.
                driver_connection.execute("BEGIN IMMEDIATE").close()
                yield connection


@contextmanager
def _patience(connection: Connection, hold: Hold) -> Iterator[None]:
    """Wait shorter for locks that the current thread may hold itself."""
    if hold is Hold.NOTHING:
        yield
        return
    driver_connection: Any = connection.connection.dbapi_connection
    before = driver_connection.execute("PRAGMA busy_timeout").fetchone()[0]
    driver_connection.execute(f"PRAGMA busy_timeout = {min(before, int(PATIENCE * 1000))}").close()
    try:
        yield
    finally:
        driver_connection.execute(f"PRAGMA busy_timeout = {before}").close()


def transact(connections: Connections, change: Callable[[Connection], T]) -> T:
    """Run a change in a transaction of its own, retried after serialization failures.

    With the isolation levels SERIALIZABLE and REPEATABLE READ, any statement and the
    commit may fail.
    """
    last: BaseException | None = None
    for _ in range(_MAX_ATTEMPTS):
        try:
            with transaction(connections) as connection:
                return change(connection)
        except DBAPIError as exc:
            if not is_serialization_failure(exc):
                raise
            last = exc
    reason = "" if last is None else f"; the database says: {driver_message(last)}"
    raise StorageError(f"others write the same rows all the time, and nothing was written{reason}")

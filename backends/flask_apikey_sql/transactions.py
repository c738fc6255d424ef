"""Transactions, retried after serialization failures."""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.errors import driver_message, is_serialization_failure

SQLITE_BUSY_TIMEOUT = 15.0
"""Default seconds to wait for another process that writes to the same SQLite file."""

POLLS_FOR_LOCK = "flask_apikey_polls_for_lock"
"""Execution option of engines on a SQLite file of their own: seconds to wait for the lock."""

_AUTOCOMMIT = "AUTOCOMMIT"
_MAX_ATTEMPTS = 200
_LONGEST_PAUSE = 0.002

T = TypeVar("T")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Run a block in a transaction, even on an autocommit engine."""
    with engine.connect() as connection:
        # No public attribute holds the isolation level passed to create_engine().
        default = getattr(connection.dialect, "_on_connect_isolation_level", None)
        if (connection.get_execution_options().get("isolation_level") or default) == _AUTOCOMMIT:
            connection.execution_options(isolation_level=connection.default_isolation_level)
        with connection.begin():
            timeout = engine.get_execution_options().get(POLLS_FOR_LOCK)
            if timeout is not None:
                _lock(connection, timeout)
            yield connection


def _lock(connection: Connection, timeout: float) -> None:
    """Lock a SQLite database for writing.

    SQLite's own pauses grow to 100 ms, so that under load some writers would wait for seconds.
    """
    driver_connection: Any = connection.connection.dbapi_connection
    driver_connection.execute("PRAGMA busy_timeout = 0").close()
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                driver_connection.execute("BEGIN IMMEDIATE").close()
            except sqlite3.OperationalError as exc:
                if str(exc) != "database is locked" or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # spreads the writers, protects nothing
            else:
                return
    finally:
        driver_connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}").close()


def transact(engine: Engine, change: Callable[[Connection], T]) -> T:
    """Run a change in a transaction of its own, retried after serialization failures.

    With the isolation levels SERIALIZABLE and REPEATABLE READ, any statement and the
    commit may fail.
    """
    last: BaseException | None = None
    for _ in range(_MAX_ATTEMPTS):
        try:
            with transaction(engine) as connection:
                return change(connection)
        except DBAPIError as exc:
            if not is_serialization_failure(exc):
                raise
            last = exc
    reason = "" if last is None else f"; the database says: {driver_message(last)}"
    raise StorageError(f"others write the same rows all the time, and nothing was written{reason}")

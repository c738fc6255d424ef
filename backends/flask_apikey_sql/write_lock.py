"""The write lock of a SQLite file of our own."""

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

SQLITE_BUSY_TIMEOUT = 15.0
"""Default seconds to wait for another process that writes to the same SQLite file."""

POLLS_FOR_LOCK = "flask_apikey_polls_for_lock"
"""Execution option of engines on a SQLite file of their own: seconds to wait for the lock."""

_LONGEST_PAUSE = 0.002
_SHORT_PAUSE = 0.0001


def begin_immediate(connection: Connection, timeout: float) -> None:
    """Begin a transaction that writes, as soon as no other connection writes.

    SQLite's own pauses grow to 100 ms, so that some writers wait for seconds under
    load. Here one waiting writer polls often and takes over at once, while the others
    poll seldom.

    Args:
        connection: A connection without a transaction.
        timeout: Seconds to wait.

    Raises:
        sqlite3.OperationalError: The database was locked all the time, or cannot be written.
    """
    driver_connection: Any = connection.connection.dbapi_connection
    driver_connection.execute("PRAGMA busy_timeout = 0").close()
    try:
        if not _begins(driver_connection):
            _poll(driver_connection, time.monotonic() + timeout)
    finally:
        driver_connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}").close()


def _poll(driver_connection: Any, deadline: float) -> None:
    _, _, file = driver_connection.execute("PRAGMA database_list").fetchone()
    with _queue(Path(file).parent) as is_next:
        while not _begins(driver_connection, last=time.monotonic() > deadline):
            # Random pauses spread the other writers.
            time.sleep(_SHORT_PAUSE if is_next() else random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # no secret


def _begins(driver_connection: Any, *, last: bool = False) -> bool:
    try:
        driver_connection.execute("BEGIN IMMEDIATE").close()
    except sqlite3.OperationalError as exc:
        if str(exc) != "database is locked" or last:
            raise
        return False
    return True


@contextmanager
def _queue(folder: Path) -> Iterator[Callable[[], bool]]:
    """Provide a function that returns True if this writer is the next one.

    The next writer holds an advisory lock on the folder. Nothing but the length of
    pauses depends on it, and no writer is the next one where there is no such lock.
    """
    try:
        import fcntl  # noqa: PLC0415  # Windows has none

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield lambda: False
        return

    def is_next() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    try:
        yield is_next
    finally:
        os.close(descriptor)

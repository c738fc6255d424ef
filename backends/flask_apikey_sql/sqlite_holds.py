"""SQLite connections that a thread holds while it changes keys.

A SQLite file has one writer at a time. A thread that has written to the file in a transaction
of the application would wait for itself, so its changes are refused at once.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import Connection, event
from sqlalchemy.pool import Pool

from flask_apikey.core.errors import StorageError

PATIENCE = 1.0
"""Seconds to wait for a lock that the current thread may hold itself."""

_THREAD = "flask_apikey_thread"

_records: WeakValueDictionary[int, Any] = WeakValueDictionary()


class Hold(IntEnum):
    """The most that the current thread holds of a SQLite file, outside of this library."""

    NOTHING = 0
    CONNECTION = 1
    """A connection, which may have an unfinished query."""
    TRANSACTION = 2
    """A transaction that the application began itself, which may have written."""
    WRITES = 3
    """A transaction that has written."""


def watch() -> None:
    """Note from now on which thread uses a SQLite connection of a SQLAlchemy pool."""
    if not event.contains(Pool, "checkout", note_thread):
        event.listen(Pool, "checkout", note_thread)
        event.listen(Pool, "checkin", release_thread)


def note_thread(driver_connection: object, record: Any, _proxy: object) -> None:
    """Note the thread of a connection."""
    if isinstance(driver_connection, sqlite3.Connection):
        # Looked up in its module, because gevent replaces it there.
        record.info[_THREAD] = threading.get_ident()
        _records[id(record)] = record


def release_thread(_driver_connection: object, record: Any) -> None:
    """Forget the thread of a connection, before another thread can take it from the pool."""
    record.info.pop(_THREAD, None)


def forget_thread(connection: Connection) -> None:
    """Do not count a connection as held by the thread that opened it, because a look-up keeps it."""
    connection.info.pop(_THREAD, None)


def is_ours(listener: object) -> bool:
    """Return True for a listener of this module. It matters to connections of the application only."""
    return listener is note_thread or listener is release_thread


def hold_of(path: str) -> Hold:
    """Return what the current thread holds of a file."""
    return max((_hold(connection) for connection in _held() if _is_on(connection, path)), default=Hold.NOTHING)


def refusal() -> StorageError:
    """Return the error for a change while the thread itself keeps the file locked."""
    return StorageError(
        "an open transaction of this request or thread has written to the same SQLite file, which has one writer at a "
        "time: commit it first (db.session.commit()), or keep the keys in another file with APIKEY_STORAGE_URI"
    )


def _held() -> Iterator[sqlite3.Connection]:
    thread = threading.get_ident()
    for reference in _records.valuerefs():
        record = reference()
        if record is not None and record.in_use and record.info.get(_THREAD) == thread:
            yield record.dbapi_connection


def _hold(connection: sqlite3.Connection) -> Hold:
    if not connection.in_transaction:
        return Hold.CONNECTION
    # Python begins a transaction before the first write. Without its help, the application may begin one to read.
    is_python = connection.isolation_level is not None and getattr(connection, "autocommit", -1) == -1
    return Hold.WRITES if is_python else Hold.TRANSACTION


def _is_on(connection: sqlite3.Connection, path: str) -> bool:
    with suppress(sqlite3.Error, OSError):
        files = [file for _, _, file in connection.cursor().execute("PRAGMA database_list") if file]
        return any(os.path.samefile(file, path) for file in files)  # noqa: PTH121  # both are str
    return False

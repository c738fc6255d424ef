"""Limits on the wait for a database that does not answer.

A server that hangs keeps its connections open, so only a limit in this process ends the wait.
"""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine, event

from flask_apikey_sql.connections import Connections

DEFAULT_TIMEOUT = 5.0
_MIN_CONNECT_TIMEOUT_OF_LIBPQ = 2
_RETRY_WITHIN = 1.0

_is_ours: ContextVar[bool] = ContextVar("flask_apikey_is_ours", default=False)
_is_unlimited: ContextVar[bool] = ContextVar("flask_apikey_is_unlimited", default=False)


@dataclass
class Timeout:
    """Seconds to wait for a connection, and for each answer."""

    seconds: float = DEFAULT_TIMEOUT


_timeouts: "WeakKeyDictionary[Engine, Timeout]" = WeakKeyDictionary()


def limit_own_engine(engine: Engine, timeout: Timeout) -> None:
    """Limit all waits of an engine that belongs to this library."""
    _timeouts[engine] = timeout
    event.listen(engine, "connect", lambda connection, _record: _limit(connection, timeout.seconds))


def limit_engine(engine: Engine, timeout: Timeout) -> None:
    """Limit the waits for statements of this library, on an engine of the application."""
    if engine not in _timeouts:
        event.listen(engine, "do_connect", partial(_connect_for_us, timeout))
        _timeouts[engine] = timeout


def connect_options(dialect: Dialect, timeout: Timeout) -> Mapping[str, Any]:
    """Return the options of a driver that limit a new connection."""
    seconds = timeout.seconds
    if dialect.driver == "psycopg":
        return {"connect_timeout": max(ceil(seconds), _MIN_CONNECT_TIMEOUT_OF_LIBPQ)}
    if dialect.driver == "pymysql":
        return {"connect_timeout": seconds, "read_timeout": seconds, "write_timeout": seconds}
    return {}


def limit_lookups(engine: Engine, connection: Connection) -> None:
    """Limit the waits on a connection of a look-up."""
    timeout = _timeouts.get(engine)
    if timeout is not None:
        _limit(connection.connection.dbapi_connection, timeout.seconds)


@contextmanager
def connecting_for_us() -> Iterator[None]:
    """Limit the time for new connections of an application's engine."""
    token = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(token)


def is_connecting_for_us() -> bool:
    """Return True while a connection of an application's engine is made for this library."""
    return _is_ours.get()


@contextmanager
def unlimited() -> Iterator[None]:
    """Let statements take their time, as for the creation of an index."""
    token = _is_unlimited.set(True)
    try:
        yield
    finally:
        _is_unlimited.reset(token)


@contextmanager
def connected(connections: Connections) -> Iterator[Connection]:
    """Provide a connection with limited waits."""
    with connections.turn, _limited(connections) as connection:
        if connections.may_be_stale and not _answers(connection):
            # The server or the network may have closed all idle connections.
            connections.close()
        else:
            yield connection
            return
    with connections.turn, _limited(connections) as connection:
        yield connection


@contextmanager
def _limited(connections: Connections) -> Iterator[Connection]:
    with connecting_for_us():
        connection = connections.connect()
    with connection:
        timeout = _timeouts.get(connections.engine)
        undo = _do_nothing
        if timeout is not None:
            driver_connection = connection.connection.dbapi_connection
            undo = _limit(driver_connection, None if _is_unlimited.get() else timeout.seconds)
        try:
            yield connection
        finally:
            undo()


def _answers(connection: Connection) -> bool:
    """Ping the server. Raises the error of the driver if that took long, because a timeout must not double."""
    started_at = monotonic()
    try:
        return connection.dialect.do_ping(connection.connection.dbapi_connection)  # type: ignore[arg-type]  # it is open
    except Exception:
        connection.invalidate()
        if monotonic() - started_at > _RETRY_WITHIN:
            raise
        return False


def _connect_for_us(timeout: Timeout, dialect: Dialect, _record: object, arguments: Any, options: Any) -> Any:
    if not _is_ours.get():
        return None
    ours = dict(connect_options(dialect, timeout))
    if dialect.driver == "psycopg":
        # Without it, psycopg returns bytes from a database with the encoding SQL_ASCII.
        ours["client_encoding"] = "utf8"
    connection = dialect.connect(*arguments, **{**ours, **options})
    if dialect.driver == "pymysql":
        # The handshake needs them. Later statements may be those of the application.
        _set_timeouts_of_pymysql(connection, options.get("read_timeout"), options.get("write_timeout"))
    return connection


def _limit(connection: Any, seconds: float | None) -> Callable[[], None]:
    """Limit the wait for each answer on a connection of a driver. Returns a function that restores its own limit."""
    psycopg, pymysql = sys.modules.get("psycopg"), sys.modules.get("pymysql")
    if psycopg is not None and isinstance(connection, psycopg.Connection):
        before = vars(connection).get("wait")
        connection.wait = partial(_wait_for_psycopg, connection, seconds)
        return partial(_restore_wait_of_psycopg, connection, before)
    if pymysql is not None and isinstance(connection, pymysql.connections.Connection):
        undo = partial(_set_timeouts_of_pymysql, connection, connection._read_timeout, connection._write_timeout)  # noqa: SLF001  # no public attribute
        _set_timeouts_of_pymysql(connection, seconds, seconds)
        return undo
    return _do_nothing


def _do_nothing() -> None:
    pass


def _restore_wait_of_psycopg(connection: Any, before: Any) -> None:
    if before is None:
        del connection.wait
    else:
        connection.wait = before


def _set_timeouts_of_pymysql(connection: Any, read: float | None, write: float | None) -> None:
    connection._read_timeout, connection._write_timeout = read, write  # noqa: SLF001  # no public attribute


def _wait_for_psycopg(
    connection: Any, seconds: float | None, statement: Generator[Any, Any, Any], *arguments: Any, **options: Any
) -> Any:
    if seconds is not None:
        statement = _until(monotonic() + seconds, connection, statement)
    return type(connection).wait(connection, statement, *arguments, **options)


def _until(deadline: float, connection: Any, statement: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run the steps of a statement until a deadline."""
    try:
        state = next(statement)
        while True:
            # psycopg sends 0 every tenth of a second in which nothing arrived.
            ready = yield state
            if not ready and monotonic() > deadline:
                connection.pgconn.finish()
                raise sys.modules["psycopg"].OperationalError("the server did not answer in time")
            state = statement.send(ready)
    except StopIteration as result:
        return result.value

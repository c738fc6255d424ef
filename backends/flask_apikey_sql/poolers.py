"""Connections behind a pooler, such as pgbouncer in transaction mode."""

from typing import Any

from sqlalchemy import Engine, event

from flask_apikey_sql.timeouts import is_connecting_for_us


def prepare_nothing_behind_a_pooler(engine: Engine, *, is_shared: bool) -> None:
    """Let psycopg prepare no statement behind a pooler, which may change the server's process.

    Args:
        engine: The engine.
        is_shared: True to leave the connections of the application alone.
    """
    listener = _prepare_nothing_for_us if is_shared else _prepare_nothing
    if engine.dialect.driver == "psycopg" and not event.contains(engine, "connect", listener):
        # Before the listener of SQLAlchemy that runs the first statements.
        event.listen(engine, "connect", listener, insert=True)


def _prepare_nothing_for_us(connection: Any, record: object) -> None:
    if is_connecting_for_us():
        _prepare_nothing(connection, record)


def _prepare_nothing(connection: Any, _record: object) -> None:
    if connection.prepare_threshold is None:
        return
    (process,) = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    connection.rollback()
    # A pooler makes up the number of its own connections.
    if process != connection.info.backend_pid:
        connection.prepare_threshold = None

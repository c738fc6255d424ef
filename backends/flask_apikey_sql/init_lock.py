"""Creation of tables by one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.connections import Connections
from flask_apikey_sql.errors import driver_message, is_forbidden
from flask_apikey_sql.sqlite_holds import Hold, refusal
from flask_apikey_sql.timeouts import connected
from flask_apikey_sql.transactions import transaction

_NAME = "flask_apikey_init"
_NUMBER = 0x666C6B61
_TIMEOUT = 60


@contextmanager
def exclusive(connections: Connections) -> Iterator[Connection]:
    """Provide a connection in a transaction that excludes other processes.

    Uses advisory locks on PostgreSQL and MySQL, and the file lock on SQLite. Other
    databases rely on their own handling of concurrent DDL.
    """
    match connections.engine.dialect.name:
        case "postgresql":
            with transaction(connections) as connection:
                _lock_postgresql(connection)
                yield connection
        case "mysql" | "mariadb":
            with connected(connections) as connection:
                is_locked = _lock_mysql(connection)
                try:
                    yield connection
                finally:
                    if is_locked:
                        # An error of a lost connection must not be replaced.
                        with suppress(DBAPIError):
                            connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _NAME})
                            connection.commit()
        case "sqlite":
            if connections.hold() is Hold.WRITES:
                raise refusal()
            with connected(connections) as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.exec_driver_sql("ROLLBACK")
                    raise
                connection.exec_driver_sql("COMMIT")
        case _:
            with transaction(connections) as connection:
                yield connection


def _lock_postgresql(connection: Connection) -> None:
    # Defaults of the server are made for shorter transactions.
    connection.execute(text(f"SET LOCAL lock_timeout = '{_TIMEOUT}s'"))
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    try:
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _NUMBER})
    except DBAPIError as exc:
        if not is_forbidden(exc):
            raise
        raise StorageError(
            f"{driver_message(exc)}: GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) to the role that runs "
            "'flask apikey init'"
        ) from None


def _lock_mysql(connection: Connection) -> bool:
    """Wait for the lock.

    Returns:
        False if the server has no such lock, as some clusters and proxies. Tables and indexes that
        another process creates at the same time are then left to it.
    """
    try:
        granted = connection.scalar(text("SELECT GET_LOCK(:name, :timeout)"), {"name": _NAME, "timeout": _TIMEOUT})
    except DBAPIError as exc:
        if exc.connection_invalidated:
            raise
        return False
    if granted == 0:
        raise StorageError(f"another process has been preparing the tables for {_TIMEOUT} seconds")
    return granted is not None

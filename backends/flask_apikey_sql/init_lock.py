"""Creation of tables by one process at a time, and a check for missing ones."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Table, inspect, text

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.connections import Connections
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
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _NUMBER})
                yield connection
        case "mysql" | "mariadb":
            with connected(connections) as connection:
                granted = connection.scalar(
                    text("SELECT GET_LOCK(:name, :timeout)"), {"name": _NAME, "timeout": _TIMEOUT}
                )
                if granted != 1:
                    raise StorageError(f"another process has been preparing the tables for {_TIMEOUT} seconds")
                try:
                    yield connection
                finally:
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


def require_columns(connection: Connection, tables: Iterable[Table]) -> None:
    """Raise if a table lacks a column."""
    missing = [part.removeprefix("column ") for part in missing_parts(connection, tables) if part.startswith("column ")]
    if missing:
        raise StorageError(
            f"the tables are of another version, and lack the columns {', '.join(missing)}: add them with a migration, "
            "or use an empty database"
        )


def missing_parts(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """List tables, columns and indexes that the database lacks."""
    inspector = inspect(connection)
    for table in tables:
        # Inspectors ignore the connection's schema_translate_map.
        schema = connection.schema_for_object(table)
        if not inspector.has_table(table.name, schema=schema):
            yield f"table {table.name}"
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name, schema=schema)}
        yield from (f"column {table.name}.{each.name}" for each in table.columns if each.name not in columns)
        indexes = {index["name"] for index in inspector.get_indexes(table.name, schema=schema)}
        yield from sorted(f"index {index.name}" for index in table.indexes if index.name not in indexes)

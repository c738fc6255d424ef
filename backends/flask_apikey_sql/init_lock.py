"""One process at a time prepares the tables."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.transactions import transaction

_NAME = "flask_apikey_init"
_NUMBER = 0x666C6B61
_TIMEOUT = 60


@contextmanager
def exclusive(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other process is in at the same time.

    PostgreSQL and MySQL have advisory locks, SQLite locks the file. Elsewhere the
    database's own handling of concurrent DDL must do.
    """
    match engine.dialect.name:
        case "postgresql":
            with transaction(engine) as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _NUMBER})
                yield connection
        case "mysql" | "mariadb":
            with engine.connect() as connection:
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
            with engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.exec_driver_sql("ROLLBACK")
                    raise
                connection.exec_driver_sql("COMMIT")
        case _:
            with transaction(engine) as connection:
                yield connection

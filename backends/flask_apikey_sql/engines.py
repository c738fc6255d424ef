"""Engines from URIs, and SQLite files."""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Dialect, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import QueuePool

from flask_apikey.core.errors import ConfigurationError, StorageError, StorageMissing
from flask_apikey.core.text import visible
from flask_apikey_sql.lookup_connections import MAX_AGE
from flask_apikey_sql.poolers import prepare_nothing_behind_a_pooler
from flask_apikey_sql.sessions import prepare_sessions
from flask_apikey_sql.timeouts import Timeout, connect_options, limit_own_engine
from flask_apikey_sql.uris import driver_of, driver_options, is_in_memory, malformed, named_options, sqlite_timeout
from flask_apikey_sql.write_lock import SQLITE_BUSY_TIMEOUT, WRITE_TIMEOUT


class EngineSource(Protocol):
    """An object that provides an engine inside an application context, such as Flask-SQLAlchemy's."""

    @property
    def engine(self) -> Engine:
        """The application's default engine."""


def make_engine(url: URL, timeout: Timeout | None = None) -> Engine:
    """Create an engine. Does not connect.

    Raises:
        ConfigurationError: The driver or an option of the URL cannot be used.
    """
    _dialect, driver = driver_of(url)
    url, connect_args = driver_options(url, driver)
    if url.get_backend_name() == "sqlite":
        connect_args["timeout"] = sqlite_timeout(url, SQLITE_BUSY_TIMEOUT)
    if is_in_memory(url):
        return memory_engine()
    try:
        engine = create_engine(
            url, connect_args=connect_args, pool_pre_ping=True, pool_recycle=MAX_AGE, hide_parameters=True
        )
    except ArgumentError:
        raise malformed() from None
    except ValueError:
        raise ConfigurationError(f"{_refused_options(url)}: one has a value that cannot be used") from None
    if url.get_backend_name() == "sqlite":
        engine.update_execution_options(**{WRITE_TIMEOUT: connect_args["timeout"]})
        file = sqlite_file(engine)
        if file is not None:
            event.listen(engine, "do_connect", partial(_require_file, file))
    prepare_nothing_behind_a_pooler(engine, is_shared=False)
    prepare_sessions(engine, is_shared=False)
    timeout = timeout or Timeout()
    limit_own_engine(engine, timeout)
    event.listen(engine, "do_connect", partial(_connect, url, timeout))
    return engine


def sqlite_file(engine: Engine) -> str | None:
    """Return the SQLite file that an engine opens by path. None for other databases and ``file:`` URIs."""
    if (engine.dialect.name, engine.dialect.driver) != ("sqlite", "pysqlite") or is_in_memory(engine.url):
        return None
    (file,), options = engine.dialect.create_connect_args(engine.url)
    return None if options.get("uri") and file.startswith("file:") else str(file)


def is_missing(file: str) -> bool:
    """Return True if the file does not exist. Other errors are left to SQLite."""
    try:
        Path(file).stat()
    except OSError as exc:
        return isinstance(exc, FileNotFoundError | NotADirectoryError)
    return False


def make_file(file: str) -> None:
    """Create an empty SQLite file that only its owner can read and write. SQLite gives its log the same mode."""
    try:
        # Only a new file: closing one releases the locks that SQLite holds on it in this process.
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        sqlite3.connect(file).close()
    except (OSError, sqlite3.Error) as exc:
        reason = "its folder does not exist" if is_missing(str(Path(file).parent)) else _reason(exc)
        raise StorageError(f"the SQLite file {visible(file)} cannot be made: {reason}") from None


def use_write_ahead_log(engine: Engine) -> None:
    """Let the readers and the writer of a SQLite database work at the same time: https://www.sqlite.org/wal.html."""
    if engine.dialect.name == "sqlite" and not is_in_memory(engine.url):
        # The switch fails while another process uses the file. A later initialisation retries it.
        with suppress(OperationalError), engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _reason(exc: Exception) -> str:
    return (isinstance(exc, OSError) and exc.strerror) or str(exc)


def _require_file(file: str, *_: object) -> None:
    # SQLite would create an empty file, even for a read.
    if is_missing(file):
        raise StorageMissing(
            f"the SQLite file {visible(file)} does not exist: correct its path, or make it with 'flask apikey init'"
        )


def _connect(
    url: URL,
    timeout: Timeout,
    dialect: Dialect,
    _record: object,
    arguments: Sequence[Any],
    options: Mapping[str, Any],
) -> Any:
    try:
        return dialect.connect(*arguments, **{**connect_options(dialect, timeout), **options})
    except (TypeError, ValueError, AttributeError):
        # Drivers raise these for unknown options and invalid values.
        del arguments, options  # hold the password
        if not url.query:
            raise
        problem = f"{_refused_options(url)}: the database driver does not take them"
        del url  # its options may hold a password
    raise StorageError(problem)


def _refused_options(url: URL) -> str:
    return f"the options of the storage URI ({named_options(url)}) are refused"


def memory_engine() -> Engine:
    """Create a private in-memory database with a single connection."""
    return create_engine(
        "sqlite://",
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False},
        hide_parameters=True,
    )

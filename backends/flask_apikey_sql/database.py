"""The database of a backend, opened once in each process."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TypeVar
from weakref import finalize

from sqlalchemy import Connection, Engine, MetaData, Table
from sqlalchemy.pool import QueuePool

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.processes import PerProcess
from flask_apikey_sql.connections import Connections, in_this_process
from flask_apikey_sql.engines import EngineSource, memory_engine
from flask_apikey_sql.errors import storage_errors
from flask_apikey_sql.lookup import KeyLookup, MemoryLookup
from flask_apikey_sql.poolers import prepare_nothing_behind_a_pooler
from flask_apikey_sql.sessions import prepare_sessions, reading
from flask_apikey_sql.sqlite_files import SQLiteFile, watched_path
from flask_apikey_sql.timeouts import Timeout, limit_engine
from flask_apikey_sql.transactions import transact
from flask_apikey_sql.uris import is_in_memory

T = TypeVar("T")

Context = Callable[[], AbstractContextManager[object]]


class OpenDatabase:
    """The connections of one process. They are closed with this object, or at exit."""

    def __init__(
        self,
        engine: Engine,
        lookup: KeyLookup | MemoryLookup,
        file: SQLiteFile | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        self.engine = engine
        self.lookup = lookup
        self.file = file
        self.connections = Connections(engine, None if file is None else file.path, is_shared=is_shared)
        self.close = finalize(self, in_this_process(partial(_close, lookup, self.connections)))


class Database:
    """The database that the parts of a backend share. The first of its tables is the one of keys."""

    def __init__(
        self,
        source: Engine | EngineSource,
        context: Context,
        tables: Sequence[Table],
        metadata: MetaData,
        timeout: Timeout,
        *,
        is_shared: bool,
    ) -> None:
        self.opened = PerProcess(
            partial(_open, source, context, tables, metadata, timeout, made_in=os.getpid(), is_shared=is_shared)
        )

    @contextmanager
    def connections(self) -> Iterator[Connections]:
        """Provide connections for changes. Errors of the driver become `StorageError`."""
        with storage_errors():
            opened = self.opened.get()
            if opened.file is not None:
                opened.file.check()
            yield opened.connections
            if opened.file is not None:
                opened.file.note_log()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Provide a connection to read from. Errors of the driver become `StorageError`."""
        with self.connections() as connections, reading(connections) as connection:
            yield connection

    def transact(self, change: Callable[[Connection], T]) -> T:
        """Run a change in a transaction of its own. Errors of the driver become `StorageError`."""
        with self.connections() as connections:
            return transact(connections, change)


def _open(
    source: Engine | EngineSource,
    context: Context,
    tables: Sequence[Table],
    metadata: MetaData,
    timeout: Timeout,
    *,
    made_in: int,
    is_shared: bool,
) -> OpenDatabase:
    engine = _engine(source, context)
    if is_in_memory(engine.url):
        engine = memory_engine()
        metadata.create_all(engine, tables=tables, checkfirst=False)
        return OpenDatabase(engine, MemoryLookup(engine, tables[0]))
    if os.getpid() != made_in:
        # Connections in the pool belong to the parent process.
        engine.dispose(close=False)
    limit_engine(engine, timeout)
    if is_shared:
        prepare_nothing_behind_a_pooler(engine, is_shared=True)
        prepare_sessions(engine, is_shared=True)
    path = watched_path(engine)
    # The connections of the look-up go with the pool that is disposed.
    file = None if path is None else SQLiteFile(path, engine.dispose)
    if file is not None and isinstance(engine.pool, QueuePool):
        # Idle connections of the application may be on a file that was replaced before.
        engine.dispose()
    return OpenDatabase(engine, KeyLookup(engine, tables[0], file, timeout), file, is_shared=is_shared)


def _close(lookup: KeyLookup | MemoryLookup, connections: Connections) -> None:
    lookup.close()
    connections.close()


def _engine(source: Engine | EngineSource, context: Context) -> Engine:
    if isinstance(source, Engine):
        return source
    try:
        with context():
            return source.engine
    except (RuntimeError, KeyError) as exc:
        raise ConfigurationError(
            f"{type(source).__name__} has no engine for this application: call its init_app too"
        ) from exc

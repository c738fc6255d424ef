"""The backend: the storage contract in SQL."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar, cast
from weakref import finalize

from sqlalchemy import URL, Connection, Delete, Engine, MetaData, Table, Update, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, Conflict, StorageError
from flask_apikey.core.model.history import ChainedEvent, LifecycleEvent
from flask_apikey.core.model.keys import Cursor, StoredKey
from flask_apikey.core.storage.contract import Backend, ContextBound, Inspectable, KeepsHistory, KeyFilter
from flask_apikey.core.times import to_microseconds
from flask_apikey_sql.engines import (
    EngineSource,
    is_in_memory,
    is_missing,
    make_engine,
    make_file,
    memory_engine,
    parse_uri,
    sqlite_file,
)
from flask_apikey_sql.errors import storage_error, storage_errors
from flask_apikey_sql.history import append, append_all, events_table, read
from flask_apikey_sql.init_lock import exclusive
from flask_apikey_sql.inspection import missing_parts
from flask_apikey_sql.lookup import KeyLookup
from flask_apikey_sql.queries import listing, position_of
from flask_apikey_sql.rotation import ReplacesSeals, rotation_table
from flask_apikey_sql.tables import DamagedRow, from_row, keys_table, readable, to_record_columns, to_row
from flask_apikey_sql.transactions import transact
from flask_apikey_sql.usage import Usage
from flask_apikey_sql.usage_methods import CountsUsage
from flask_apikey_sql.usage_tables import UsageTables, usage_tables

T = TypeVar("T")

Context = Callable[[], AbstractContextManager[object]]


class SQLBackend(Backend, ContextBound, Inspectable, KeepsHistory, ReplacesSeals, CountsUsage):
    """Keeps keys in a SQL database.

    Args:
        source: A Flask-SQLAlchemy object, a SQLAlchemy engine, or a URI.
        metadata: Where to define the table, for migration tools to see it. By
            default that of a Flask-SQLAlchemy object, else one of our own.

    Raises:
        ConfigurationError: `source` is none of these, or its driver is not installed.

    An in-memory SQLite database lives in one connection, which belongs to the
    application. Keys are then kept in an in-memory database of our own, which is
    prepared on first use and ends with the process.
    """

    def __init__(self, source: str | URL | Engine | EngineSource, *, metadata: MetaData | None = None) -> None:
        self._owns_engine = isinstance(source, str | URL)
        if isinstance(source, str | URL):
            source = make_engine(parse_uri(source))
            finalize(self, _in_this_process(source.dispose))
        elif not isinstance(source, Engine) and not hasattr(type(source), "engine"):
            # type() and not the object itself, whose property fails outside an application context.
            raise ConfigurationError(
                f"SQLBackend takes a Flask-SQLAlchemy object, an engine or a URI, not {type(source).__name__}"
            )
        self._source: Engine | EngineSource = source
        self._file = sqlite_file(source) if self._owns_engine and isinstance(source, Engine) else None
        if metadata is None:
            metadata = getattr(source, "metadata", None)
        self._metadata = metadata if isinstance(metadata, MetaData) else MetaData()
        self._keys = keys_table(self._metadata)
        self._events = events_table(self._metadata)
        self._rotation = rotation_table(self._metadata)
        self._usage_tables = usage_tables(self._metadata)
        self._tables = [self._keys, self._events, self._rotation, *self._usage_tables.all]
        self._context: Context = nullcontext
        self._made_in = os.getpid()
        self._databases: dict[int, _Database] = {}

    @classmethod
    def from_uri(cls, uri: str) -> "SQLBackend":
        """See `Backend.from_uri`."""
        return cls(uri)

    @classmethod
    def from_client(cls, client: object) -> "SQLBackend":
        """See `Backend.from_client`: a Flask-SQLAlchemy object or an engine."""
        return cls(cast("Engine | EngineSource", client))

    def bound(self, context: Context) -> "SQLBackend":
        """See `ContextBound.bound`. A backend on an engine needs no context and stays itself."""
        if isinstance(self._source, Engine):
            return self
        backend = SQLBackend(self._source, metadata=self._metadata)
        backend._context = context
        return backend

    def init_storage(self) -> None:
        """See `Backend.init_storage`."""
        database = self._database()
        if self._file is not None and is_missing(self._file):
            make_file(self._file)
        with storage_errors(*database.errors), exclusive(database.engine) as connection:
            self._metadata.create_all(connection, tables=self._tables)

    def missing_parts(self) -> Sequence[str]:
        """See `Inspectable.missing_parts`."""
        if self._file is not None and is_missing(self._file):
            return [f"table {table.name}" for table in self._tables]
        database = self._database()
        with storage_errors(*database.errors), database.engine.connect() as connection:
            return list(missing_parts(connection, self._tables))

    def ping(self) -> None:
        """See `Backend.ping`."""
        database = self._database()
        with storage_errors(*database.errors), database.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """See `Backend.close`. An engine that was given stays open."""
        database = self._databases.pop(os.getpid(), None)
        if database is not None:
            database.close()
            if self._owns_engine:
                database.engine.dispose()

    def add(self, key: StoredKey) -> None:
        """See `Backend.add`."""
        self._add([key])

    def add_many(self, keys: Sequence[StoredKey]) -> None:
        """See `Backend.add_many`: all or none."""
        if keys:
            self._add(keys)

    def get(self, key_id: str) -> StoredKey | None:
        """See `Backend.get`."""
        database = self._database()
        try:
            row = database.lookup(key_id)
        except database.errors as exc:
            raise storage_error(exc) from None
        try:
            return None if row is None else from_row(row)
        except DamagedRow as exc:
            raise StorageError(str(exc)) from exc

    def find(self, key_filter: KeyFilter, *, after: Cursor | None, limit: int) -> Sequence[StoredKey]:
        """See `Backend.find`. Rows that cannot be read are reported and left out."""
        database = self._database()
        found: list[StoredKey] = []
        position = None if after is None else (to_microseconds(after.created_at), after.id)
        while len(found) < limit:
            wanted = limit - len(found)
            with storage_errors(*database.errors), database.engine.connect() as connection:
                rows = connection.execute(listing(self._keys, key_filter, after=position, limit=wanted)).all()
            found += readable(rows)
            if len(rows) < wanted:
                break
            position = position_of(rows[-1])
        return found

    def update(self, key: StoredKey, *, expected_version: int, keep_seal: bool = False) -> None:
        """See `Backend.update`."""
        self._change(self._replacement(key, keep_seal=keep_seal), key.record.id, expected_version)

    def delete(self, key_id: str, *, expected_version: int) -> None:
        """See `Backend.delete`."""
        self._change(self._keys.delete(), key_id, expected_version)

    def add_recorded(self, key: StoredKey, event: LifecycleEvent) -> None:
        """See `KeepsHistory.add_recorded`."""
        self._add([key], event)

    def update_recorded(
        self, key: StoredKey, *, expected_version: int, event: LifecycleEvent, keep_seal: bool = False
    ) -> None:
        """See `KeepsHistory.update_recorded`."""
        self._change(self._replacement(key, keep_seal=keep_seal), key.record.id, expected_version, event)

    def delete_recorded(self, key_id: str, *, expected_version: int, event: LifecycleEvent) -> None:
        """See `KeepsHistory.delete_recorded`."""
        self._change(self._keys.delete(), key_id, expected_version, event)

    def record(self, event: LifecycleEvent) -> None:
        """See `KeepsHistory.record`."""
        self._transact(lambda connection: append(connection, self._events, event))

    def events(self, *, after: int, limit: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
        """See `KeepsHistory.events`."""
        database = self._database()
        with storage_errors(*database.errors), database.engine.connect() as connection:
            return read(connection, self._events, after=after, limit=limit, key_id=key_id)

    def append_events(self, events: Sequence[ChainedEvent]) -> None:
        """See `KeepsHistory.append_events`."""
        if events:
            self._transact(lambda connection: append_all(connection, self._events, events))

    @contextmanager
    def _usage(self) -> Iterator[Usage]:
        database = self._database()
        with storage_errors(*database.errors):
            yield database.usage

    def _add(self, keys: Sequence[StoredKey], event: LifecycleEvent | None = None) -> None:
        rows = [to_row(key) for key in keys]

        def insert(connection: Connection) -> None:
            connection.execute(self._keys.insert(), rows)
            self._append(connection, event)

        database = self._database()
        with storage_errors(*database.errors):
            try:
                transact(database.engine, insert)
            except IntegrityError:
                # Whatever else somebody demands of a row is refused with the same error.
                stored = self._first_stored(database.engine, keys)
                if stored is None:
                    raise
                raise AlreadyExists(f"a key with the id {stored} exists already") from None

    def _first_stored(self, engine: Engine, keys: Sequence[StoredKey]) -> str | None:
        column = self._keys.c.id
        with engine.connect() as connection:
            ids = (connection.scalar(select(column).where(column == key.record.id)) for key in keys)
            return next((key_id for key_id in ids if key_id is not None), None)

    def _replacement(self, key: StoredKey, *, keep_seal: bool) -> Update:
        return self._keys.update().values(to_record_columns(key.record) if keep_seal else to_row(key))

    def _change(
        self, statement: Update | Delete, key_id: str, expected_version: int, event: LifecycleEvent | None = None
    ) -> None:
        columns = self._keys.c
        at_version = statement.where(columns.id == key_id, columns.version == expected_version)

        def change(connection: Connection) -> None:
            if connection.execute(at_version).rowcount != 1:
                raise Conflict(f"key {key_id} is no longer at version {expected_version}")
            self._append(connection, event)

        self._transact(change)

    def _append(self, connection: Connection, event: LifecycleEvent | None) -> None:
        if event is not None:
            append(connection, self._events, event)

    def _transact(self, change: Callable[[Connection], T]) -> T:
        database = self._database()
        with storage_errors(*database.errors):
            return transact(database.engine, change)

    def _database(self) -> "_Database":
        process = os.getpid()
        database = self._databases.get(process)
        if database is None:
            # setdefault is atomic: threads that come here together get the same one.
            database = self._databases.setdefault(process, self._open())
        return database

    def _open(self) -> "_Database":
        engine = self._engine()
        if is_in_memory(engine.url):
            database = _Database(memory_engine(), self._keys, self._usage_tables, keep_connections=False)
            self._metadata.create_all(database.engine, tables=self._tables)
            return database
        if os.getpid() != self._made_in:
            # Connections in the pool belong to the process that this one was forked from.
            engine.dispose(close=False)
        return _Database(engine, self._keys, self._usage_tables, keep_connections=True)

    def _engine(self) -> Engine:
        if isinstance(self._source, Engine):
            return self._source
        try:
            with self._context():
                return self._source.engine
        except (RuntimeError, KeyError) as exc:
            raise ConfigurationError(
                f"{type(self._source).__name__} has no engine for this application: call its init_app too"
            ) from exc


class _Database:
    """What one process has open. It is closed at the latest when nobody has it any more, or the process ends."""

    def __init__(self, engine: Engine, keys: Table, usage: UsageTables, *, keep_connections: bool) -> None:
        self.engine = engine
        self.lookup = KeyLookup(engine, keys, keep_connections=keep_connections)
        self.close = finalize(self, _in_this_process(self.lookup.close))
        self.usage = Usage(engine, usage, keys)
        self.errors: tuple[type[BaseException], ...] = (SQLAlchemyError, engine.dialect.loaded_dbapi.Error, OSError)


def _in_this_process(close: Callable[[], object]) -> Callable[[], None]:
    """What closes connections, unless in a process that was forked since: there they are still those of the parent."""
    process = os.getpid()

    def close_here() -> None:
        if os.getpid() == process:
            close()

    return close_here

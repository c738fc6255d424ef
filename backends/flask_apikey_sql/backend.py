"""The backend: the storage contract in SQL."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from sqlalchemy import URL, ColumnElement, Engine, MetaData, Row, Table, and_, or_, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, Conflict, StorageError
from flask_apikey.core.records import Cursor, StoredKey
from flask_apikey.core.storage import Backend, ContextBound, KeyFilter
from flask_apikey.core.times import to_microseconds
from flask_apikey_sql.engines import EngineSource, is_in_memory, make_engine, memory_engine, parse_uri
from flask_apikey_sql.failures import storage_error, storage_errors
from flask_apikey_sql.init_lock import exclusive
from flask_apikey_sql.lookup import KeyLookup
from flask_apikey_sql.tables import DamagedRow, from_row, keys_table, readable, to_row

Context = Callable[[], AbstractContextManager[object]]


class SQLBackend(Backend, ContextBound):
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
        elif not isinstance(source, Engine) and not hasattr(type(source), "engine"):
            # type() and not the object itself, whose property fails outside an application context.
            raise ConfigurationError(
                f"SQLBackend takes a Flask-SQLAlchemy object, an engine or a URI, not {type(source).__name__}"
            )
        self._source: Engine | EngineSource = source
        if metadata is None:
            metadata = getattr(source, "metadata", None)
        self._table = keys_table(metadata if isinstance(metadata, MetaData) else MetaData())
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
        backend = SQLBackend(self._source, metadata=self._table.metadata)
        backend._context = context
        return backend

    def init_storage(self) -> None:
        """See `Backend.init_storage`."""
        database = self._database()
        with storage_errors(*database.errors), exclusive(database.engine) as connection:
            self._table.metadata.create_all(connection, tables=[self._table])

    def ping(self) -> None:
        """See `Backend.ping`."""
        database = self._database()
        with storage_errors(*database.errors), database.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """See `Backend.close`. An engine that was given stays open."""
        database = self._databases.pop(os.getpid(), None)
        if database is not None:
            database.lookup.close()
            if self._owns_engine:
                database.engine.dispose()

    def add(self, key: StoredKey) -> None:
        """See `Backend.add`."""
        database = self._database()
        with storage_errors(*database.errors):
            try:
                with database.engine.begin() as connection:
                    connection.execute(self._table.insert(), to_row(key))
            except IntegrityError as exc:
                if self.get(key.record.id) is None:
                    raise
                raise AlreadyExists(f"a key with the id {key.record.id} exists already") from exc

    def add_many(self, keys: Sequence[StoredKey]) -> None:
        """See `Backend.add_many`: all or none."""
        database = self._database()
        with storage_errors(*database.errors):
            try:
                with database.engine.begin() as connection:
                    connection.execute(self._table.insert(), [to_row(key) for key in keys])
            except IntegrityError as exc:
                raise AlreadyExists("one of the keys exists already") from exc

    def get(self, key_id: str) -> StoredKey | None:
        """See `Backend.get`."""
        database = self._database()
        try:
            row = database.lookup(key_id)
        except database.errors as exc:
            raise storage_error(exc) from exc
        try:
            return None if row is None else from_row(row)
        except DamagedRow as exc:
            raise StorageError(str(exc)) from exc

    def find(self, key_filter: KeyFilter, *, after: Cursor | None, limit: int) -> Sequence[StoredKey]:
        """See `Backend.find`. Rows that cannot be read are reported and left out."""
        found: list[StoredKey] = []
        position = None if after is None else (to_microseconds(after.created_at), after.id)
        while len(found) < limit:
            wanted = limit - len(found)
            rows = self._rows(key_filter, position, wanted)
            found += readable(rows)
            if len(rows) < wanted:
                break
            position = (rows[-1].created_at, rows[-1].id)
        return found

    def update(self, key: StoredKey, *, expected_version: int) -> None:
        """See `Backend.update`."""
        self._change(self._table.update().values(to_row(key)), key.record.id, expected_version)

    def delete(self, key_id: str, *, expected_version: int) -> None:
        """See `Backend.delete`."""
        self._change(self._table.delete(), key_id, expected_version)

    def _rows(self, key_filter: KeyFilter, position: tuple[int, str] | None, limit: int) -> Sequence[Row[Any]]:
        database = self._database()
        columns = self._table.c
        statement = (
            select(self._table)
            .where(*_conditions(self._table, key_filter), *_behind(self._table, position))
            .order_by(columns.created_at, columns.id)
            .limit(limit)
        )
        with storage_errors(*database.errors), database.engine.connect() as connection:
            return connection.execute(statement).all()

    def _change(self, statement: Any, key_id: str, expected_version: int) -> None:
        database = self._database()
        columns = self._table.c
        with storage_errors(*database.errors), database.engine.begin() as connection:
            result = connection.execute(statement.where(columns.id == key_id, columns.version == expected_version))
            if result.rowcount != 1:
                raise Conflict(f"key {key_id} is no longer at version {expected_version}")

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
            database = _Database(memory_engine(), self._table, keep_connections=False)
            self._table.metadata.create_all(database.engine, tables=[self._table])
            return database
        if os.getpid() != self._made_in:
            # Connections in the pool belong to the process that this one was forked from.
            engine.dispose(close=False)
        return _Database(engine, self._table, keep_connections=True)

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
    """What one process has open."""

    def __init__(self, engine: Engine, table: Table, *, keep_connections: bool) -> None:
        self.engine = engine
        self.lookup = KeyLookup(engine, table, keep_connections=keep_connections)
        self.errors: tuple[type[BaseException], ...] = (SQLAlchemyError, engine.dialect.loaded_dbapi.Error, OSError)


def _conditions(table: Table, key_filter: KeyFilter) -> list[ColumnElement[bool]]:
    columns = table.c
    conditions: list[ColumnElement[bool]] = []
    if key_filter.owner is not None:
        conditions.append(columns.owner == key_filter.owner)
    if key_filter.revoked is not None:
        conditions.append(columns.revoked_at.is_not(None) if key_filter.revoked else columns.revoked_at.is_(None))
    if key_filter.expires_after is not None:
        moment = to_microseconds(key_filter.expires_after)
        conditions.append(or_(columns.expires_at.is_(None), columns.expires_at > moment))
    if key_filter.expires_by is not None:
        conditions.append(columns.expires_at <= to_microseconds(key_filter.expires_by))
    if key_filter.ended_by is not None:
        moment = to_microseconds(key_filter.ended_by)
        conditions.append(or_(columns.revoked_at <= moment, columns.expires_at <= moment))
    return conditions


def _behind(table: Table, position: tuple[int, str] | None) -> list[ColumnElement[bool]]:
    if position is None:
        return []
    created_at, key_id = position
    columns = table.c
    # The first condition is implied by the second, and is what the index can use.
    return [
        columns.created_at >= created_at,
        or_(columns.created_at > created_at, and_(columns.created_at == created_at, columns.id > key_id)),
    ]

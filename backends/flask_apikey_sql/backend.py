"""The storage contract in SQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from copy import copy
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast
from weakref import finalize

from sqlalchemy import URL, Connection, Engine, MetaData, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.schema import BLANK_SCHEMA
from typing_extensions import override

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, Conflict, raise_alone
from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.model.keys import Cursor, DamagedKey, StoredKey
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.times import to_microseconds
from flask_apikey_sql.changes import DatabaseTime, SQLChanges
from flask_apikey_sql.connections import Connections, in_this_process
from flask_apikey_sql.creation import create_missing, missing_parts
from flask_apikey_sql.database import Context, Database
from flask_apikey_sql.engines import (
    EngineSource,
    is_missing,
    make_engine,
    make_file,
    sqlite_file,
    use_write_ahead_log,
)
from flask_apikey_sql.errors import storage_error, storage_errors
from flask_apikey_sql.history import SQLHistory, events_table
from flask_apikey_sql.init_lock import exclusive
from flask_apikey_sql.migrated import metadata_of_database, unknown_tables
from flask_apikey_sql.queries import listing, number, scanning
from flask_apikey_sql.quotas import SQLQuotas, quotas_table
from flask_apikey_sql.rotation import SQLRotation, rotation_table
from flask_apikey_sql.sessions import reading
from flask_apikey_sql.tables import NOT_PRUNED, from_any_row, from_row, keys_table, readable, to_row
from flask_apikey_sql.timeouts import Timeout, unlimited
from flask_apikey_sql.uris import is_in_memory, parse_uri, refuse_asynchronous
from flask_apikey_sql.usage import SQLUsage
from flask_apikey_sql.usage_tables import usage_tables

_PAGE = 1_000


class SQLBackend(Backend):
    """Keeps keys in a SQL database.

    Args:
        source: A Flask-SQLAlchemy object, a SQLAlchemy engine, a URI, or the path of a SQLite file.
        metadata: The metadata that gets the tables, for migration tools. By default
            that of a Flask-SQLAlchemy object, or else a new one.

    Raises:
        ConfigurationError: `source` is none of these, or its driver is not installed or asynchronous.

    An in-memory SQLite database has a single connection, which belongs to the
    application. Keys then go to a separate in-memory database, which is created on
    first use and ends with the process.
    """

    history: SQLHistory
    usage: SQLUsage
    rotation: SQLRotation
    quotas: SQLQuotas
    changes: SQLChanges

    def __init__(self, source: str | URL | Path | Engine | EngineSource, *, metadata: MetaData | None = None) -> None:
        self._timeout = Timeout()
        self._owns_engine = isinstance(source, str | URL | Path)
        if isinstance(source, Path):
            # Not as text, because SQLAlchemy 2.1 decodes the paths of URIs, and 2.0 does not.
            source = URL.create("sqlite", database=str(source.absolute()))
        if isinstance(source, str | URL):
            try:
                source = make_engine(parse_uri(source), self._timeout)
            except ConfigurationError as exc:
                del source  # may hold a password
                raise_alone(exc)
            finalize(self, in_this_process(source.dispose))
        elif isinstance(source, Engine):
            refuse_asynchronous(source.dialect)
        elif isinstance(synchronous := getattr(source, "sync_engine", None), Engine):
            refuse_asynchronous(synchronous.dialect)
        elif not hasattr(type(source), "engine"):
            # type(), because the property itself fails outside an application context.
            raise ConfigurationError(
                f"SQLBackend takes a Flask-SQLAlchemy object, an engine or a URI, not {type(source).__name__}"
            )
        self._source: Engine | EngineSource = source
        self._file = sqlite_file(source) if self._owns_engine and isinstance(source, Engine) else None
        if metadata is None:
            metadata = getattr(source, "metadata", None)
        self._metadata = metadata if isinstance(metadata, MetaData) else MetaData()
        self._keys = keys_table(self._metadata)
        self._connect_parts(nullcontext)

    def _connect_parts(self, context: Context) -> None:
        events, rotation = events_table(self._metadata), rotation_table(self._metadata)
        usage, quotas = usage_tables(self._metadata), quotas_table(self._metadata)
        self._tables = [self._keys, events, rotation, *usage, quotas]
        self._database = Database(
            self._source, context, self._tables, self._metadata, self._timeout, is_shared=not self._owns_engine
        )
        self._opened = self._database.opened
        self.history = SQLHistory(self._database, events)
        self.usage = SQLUsage(self._database, usage, self._keys)
        self.rotation = SQLRotation(self._database, rotation, self._keys)
        self.quotas = SQLQuotas(self._database, quotas)
        self.changes = SQLChanges(self._database, self._keys)

    @classmethod
    @override
    def from_uri(cls, uri: str) -> "SQLBackend":
        return cls(uri)

    @classmethod
    @override
    def from_client(cls, client: object) -> "SQLBackend":
        return cls(cast("Path | Engine | EngineSource", client))

    @override
    def for_application(self, context: Context) -> "SQLBackend":
        if isinstance(self._source, Engine):
            return self
        # Without an engine, the application may be initialised later.
        with suppress(RuntimeError, KeyError), context():
            refuse_asynchronous(self._source.engine.dialect)
        backend = copy(self)
        backend._connect_parts(context)  # noqa: SLF001  # `backend` is of this class: its own method
        return backend

    @override
    def show_tables_to(self, client: object) -> None:
        for metadata in metadata_of_database(client, self._opened.get().engine):
            for define in (keys_table, events_table, rotation_table, usage_tables, quotas_table):
                define(metadata, self._keys.schema or BLANK_SCHEMA)

    @override
    @storage_errors()
    def tables_unknown_to(self, client: object) -> Sequence[str]:
        return list(unknown_tables(client, {table.name for table in self._tables}))

    @property
    @override
    def is_in_memory(self) -> bool:
        return is_in_memory(self._opened.get().engine.url)

    @property
    @override
    def file(self) -> Path | None:
        file = sqlite_file(self._opened.get().engine)
        return None if file is None else Path(file)

    @override
    def limit_waits(self, timeout: timedelta) -> None:
        self._timeout.seconds = timeout.total_seconds()

    @override
    @unlimited()
    def init_storage(self) -> None:
        with self._database.connections() as connections:
            if is_in_memory(connections.engine.url):
                return  # The tables were created when the database was opened.
            if self._file is not None and is_missing(self._file):
                make_file(self._file)
            if self._owns_engine:
                use_write_ahead_log(connections.engine)
            with exclusive(connections) as connection:
                create_missing(connection, self._tables)

    @override
    def missing_parts(self) -> Sequence[str]:
        if self._file is not None and is_missing(self._file):
            return [f"table {table.name}" for table in self._tables]
        with self._database.connect() as connection:
            return list(missing_parts(connection, self._tables))

    @override
    def ping(self) -> None:
        with self._database.connect() as connection:
            connection.execute(text("SELECT 1"))

    @override
    def close(self) -> None:
        """Close all connections. An engine of the application stays open."""
        opened = self._opened.pop()
        if opened is not None:
            opened.close()
            if self._owns_engine:
                opened.engine.dispose()

    @override
    def add(self, key: StoredKey, *, event: LifecycleEvent | None = None) -> None:
        self._insert([key], () if event is None else (event,))

    @override
    def add_many(self, keys: Sequence[StoredKey], *, events: Sequence[LifecycleEvent] = ()) -> None:
        """Store all new keys and their events, or none."""
        if keys:
            self._insert(keys, events)

    @override
    def get(self, key_id: str) -> StoredKey | None:
        try:
            row = self._opened.get().lookup(key_id)
        except ConfigurationError:
            raise
        except Exception as exc:  # noqa: BLE001  # drivers raise errors of Python too
            error = storage_error(exc)
        else:
            return None if row is None else from_row(row)
        # Not in the handler: the error must not refer to the frames of the driver.
        raise error.with_traceback(None)

    @override
    def get_many(self, key_ids: Sequence[str]) -> Mapping[str, StoredKey]:
        try:
            rows = self._opened.get().lookup.many(key_ids)
        except ConfigurationError:
            raise
        except Exception as exc:  # noqa: BLE001  # drivers raise errors of Python too
            error = storage_error(exc)
        else:
            return {row[0]: from_row(row) for row in rows}
        # Not in the handler: the error must not refer to the frames of the driver.
        raise error.with_traceback(None)

    @override
    def find(
        self, key_filter: KeyFilter, *, after: Cursor | None, limit: int, newest_first: bool = False
    ) -> Sequence[StoredKey]:
        """List matching keys. Unreadable rows are logged and left out."""
        found: list[StoredKey] = []
        position = None if after is None else (to_microseconds(after.created_at), after.id)
        while len(found) < limit:
            wanted = limit - len(found)
            with self._database.connect() as connection:
                statement = listing(self._keys, key_filter, after=position, limit=wanted, newest_first=newest_first)
                rows = connection.execute(statement).all()
            found += readable(rows)
            if len(rows) < wanted:
                break
            position = rows[-1].created_at, rows[-1].id
        return found

    @override
    def scan(self, key_filter: KeyFilter) -> Iterator[StoredKey | DamagedKey]:
        after = ""
        while True:
            with self._database.connect() as connection:
                rows = connection.execute(scanning(self._keys, key_filter, after=after, limit=_PAGE)).all()
            yield from map(from_any_row, rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1].id

    @override
    def count(self, key_filter: KeyFilter) -> int:
        with self._database.connect() as connection:
            return int(connection.scalars(number(self._keys, key_filter)).one())

    @override
    def update(
        self, key: StoredKey, *, expected_version: int, expected_seal: str, event: LifecycleEvent | None = None
    ) -> None:
        columns = self._keys.c
        key_id = key.record.id
        statement = (
            self._keys.update()
            .where(columns.id == key_id, columns.version == expected_version, columns.seal == expected_seal)
            .values({**to_row(key), "changed_at": DatabaseTime()})
        )

        def change(connection: Connection) -> None:
            if connection.execute(statement).rowcount != 1:
                raise Conflict(f"key {key_id} is no longer at version {expected_version}")

        with self._database.connections() as connections:
            self.history.transact(connections, () if event is None else (event,), change)

    @override
    def revoke_unsealed(self, key_id: str, *, revoked_at: datetime, reason: str | None) -> bool:
        columns = self._keys.c
        statement = (
            self._keys.update()
            .where(columns.id == key_id, columns.pruned_at == NOT_PRUNED)
            .values(revoked_at=to_microseconds(revoked_at), revocation_reason=reason, changed_at=DatabaseTime())
        )
        return self._database.transact(lambda connection: connection.execute(statement).rowcount) == 1

    def _insert(self, keys: Sequence[StoredKey], events: Sequence[LifecycleEvent]) -> None:
        rows = [to_row(key) for key in keys]

        def insert(connection: Connection) -> None:
            try:
                connection.execute(self._keys.insert(), rows)
            except IntegrityError as exc:
                raise _Rejected from exc

        with self._database.connections() as connections:
            try:
                self.history.transact(connections, events, insert)
            except _Rejected as exc:
                # Constraints of the application raise IntegrityError too.
                stored = self._first_stored(connections, keys)
                if stored is None and exc.__cause__ is not None:
                    raise exc.__cause__ from None
                raise AlreadyExists(f"a key with the id {stored} exists already") from None

    def _first_stored(self, connections: Connections, keys: Sequence[StoredKey]) -> str | None:
        column = self._keys.c.id
        with reading(connections) as connection:
            ids = (connection.scalar(select(column).where(column == key.record.id)) for key in keys)
            return next((key_id for key_id in ids if key_id is not None), None)


class _Rejected(Exception):
    """The table of keys rejected a row. The cause is the error of the driver."""

"""Look-ups follow what is configured on the engine and on its pool."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.pool import NullPool, StaticPool

from flask_apikey import APIKeys, StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.lookup_connections import MAX_AGE
from flask_apikey_sql.uris import parse_uri
from tests.support.storages import POSTGRESQL, named_servers, new_database

TENANTS = ("tenant_a", "tenant_b")


class Connections:
    """The driver connections that an engine has opened."""

    def __init__(self, engine):
        self._open = {}
        self.opened = self.most = 0
        sa.event.listen(engine, "connect", self._opened)
        for event in ("close", "close_detached"):
            sa.event.listen(engine, event, self._closed)

    @property
    def open(self):
        return len(self._open)

    def _opened(self, connection, *_):
        self._open[id(connection)] = connection
        self.opened += 1
        self.most = max(self.most, self.open)

    def _closed(self, connection, *_):
        self._open.pop(id(connection), None)


@pytest.fixture
def make_engine(sql_uri):
    engines = []

    def make(**options):
        engines.append(sa.create_engine(parse_uri(sql_uri), **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def schemas(make_engine, tmp_path):
    """Create a schema for each tenant. Return a function that makes engines see them."""
    engine = make_engine()
    is_sqlite = engine.dialect.name == "sqlite"

    def attach(connection, *_):
        for tenant in TENANTS:
            connection.execute(f"ATTACH '{tmp_path}/{tenant}.db' AS {tenant}")

    def see(engine):
        if is_sqlite:
            sa.event.listen(engine, "connect", attach)
        return engine

    if not is_sqlite:
        with engine.begin() as connection:
            for tenant in TENANTS:
                connection.execute(sa.text(f"CREATE SCHEMA {tenant}"))
    yield see
    if engine.dialect.name == "mysql":
        with engine.begin() as connection:
            for tenant in TENANTS:
                connection.execute(sa.text(f"DROP SCHEMA {tenant}"))


def translated(tenant):
    return {"schema_translate_map": {None: tenant}}


def with_execution_options(make_engine, tenant):
    return make_engine(execution_options=translated(tenant))


def with_option_engine(make_engine, tenant):
    return make_engine().execution_options(**translated(tenant))


def with_later_options(make_engine, tenant):
    engine = make_engine()
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        backend.get(new_id())
        engine.update_execution_options(**translated(tenant))
    return engine


@pytest.mark.parametrize("configured", [with_execution_options, with_option_engine, with_later_options])
def test_tenants_of_one_database_are_separate(make_engine, schemas, configured):
    engines = [schemas(make_engine()), *(schemas(configured(make_engine, tenant)) for tenant in TENANTS)]
    backends = [SQLBackend(engine) for engine in engines]
    keys = [stored_key() for _ in backends]
    for backend, key in zip(backends, keys, strict=True):
        if backend is not backends[0] or configured is not with_later_options:
            assert "table flask_apikey_keys" in backend.missing_parts()
        backend.init_storage()
        assert backend.missing_parts() == []
        backend.add(key)
    for backend, own in zip(backends, keys, strict=True):
        assert [backend.get(key.record.id) for key in keys] == [key if key is own else None for key in keys]
        backend.close()


def test_options_that_change_after_a_lookup(make_engine, schemas):
    engine = schemas(make_engine())
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        key = stored_key()
        backend.add(key)
        assert backend.get(key.record.id) == key
        engine.update_execution_options(**translated(TENANTS[0]))
        backend.init_storage()
        assert backend.get(key.record.id) is None


def test_engine_options_of_flask_sqlalchemy(sql_uri, schemas, fernet_key):
    def make(tenant):
        app = Flask(tenant)
        app.config.update(
            APIKEY_FERNET_KEY=fernet_key,
            SQLALCHEMY_DATABASE_URI=parse_uri(sql_uri),
            SQLALCHEMY_ENGINE_OPTIONS={"execution_options": translated(tenant)},
        )
        db = SQLAlchemy(app)
        with app.app_context():
            schemas(db.engine)
        return app, db, APIKeys(app)

    (first, first_db, first_keys), (second, second_db, second_keys) = map(make, TENANTS)
    with first.app_context():
        first_keys.init_storage()
        issued = first_keys.create(name="ci")
        assert first_keys.verify(issued.key).accepted
    with second.app_context():
        second_keys.init_storage()
        assert not second_keys.verify(issued.key).accepted
    with first.app_context():
        first_keys.revoke(issued.record.id)
        assert not first_keys.verify(issued.key).accepted
    for app, db, api_keys in ((first, first_db, first_keys), (second, second_db, second_keys)):
        api_keys.close()
        with app.app_context():
            db.engine.dispose()


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after the first look-up"])
def test_statement_events_see_lookups(make_engine, is_late):
    seen = []

    def rewrite(connection, cursor, statement, parameters, context, executemany):
        seen.append(statement)
        return f"{statement} /* traced */", parameters

    engine = make_engine()
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        if is_late:
            backend.get(new_id())
        sa.event.listen(engine, "before_cursor_execute", rewrite, retval=True)
        for _ in range(2):
            seen.clear()
            assert backend.get(new_id()) is None
            assert any("flask_apikey_keys" in statement for statement in seen)


def test_driver_events_see_lookups(make_engine):
    engine, seen = make_engine(), []
    sa.event.listen(engine, "do_execute", lambda cursor, statement, parameters, context: seen.append(statement))
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        seen.clear()
        backend.get(new_id())
    assert any("flask_apikey_keys" in statement for statement in seen)


def test_engine_that_echoes_logs_lookups(make_engine, caplog):
    with closing(SQLBackend(make_engine(echo=True))) as backend:
        backend.init_storage()
        caplog.clear()
        key_id = new_id()
        backend.get(key_id)
    assert key_id in caplog.text


@pytest.mark.parametrize("event", ["checkout", "checkin", "reset", "begin", "engine_connect"])
def test_events_of_each_checkout_and_transaction(make_engine, event):
    engine, seen = make_engine(), []
    sa.event.listen(engine, event, lambda *_: seen.append(event))
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        seen.clear()
        for _ in range(3):
            backend.get(new_id())
    assert len(seen) == 3


def test_transaction_events_configure_lookups(schemas, make_engine):
    """Row-level security is configured like this."""
    engine = schemas(make_engine())
    if engine.dialect.name != "postgresql":
        pytest.skip("only PostgreSQL has settings of a transaction")
    sa.event.listen(
        engine, "begin", lambda connection: connection.exec_driver_sql(f"SET LOCAL search_path TO {TENANTS[0]}")
    )
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        key = stored_key()
        backend.add(key)
        assert backend.get(key.record.id) == key


def test_dispose_closes_the_connections_of_lookups(make_engine):
    engine = make_engine()
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        connections = Connections(engine)
        engine.dispose()
        backend.get(new_id())
        assert connections.open == 1
        engine.dispose()
        assert connections.open == 0
        backend.get(new_id())
        assert (connections.open, connections.opened) == (1, 2)


@pytest.mark.parametrize("variable", named_servers(POSTGRESQL))
def test_disposed_database_can_be_dropped(variable):
    with new_database(variable) as uri:
        engine = sa.create_engine(parse_uri(uri))
        administrator = sa.create_engine(engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with closing(SQLBackend(engine)) as backend, administrator.connect() as connection:
            backend.init_storage()
            backend.get(new_id())
            engine.dispose()
            connection.execute(sa.text(f"DROP DATABASE {engine.url.database}"))
            connection.execute(sa.text(f"CREATE DATABASE {engine.url.database}"))
        administrator.dispose()


def test_close_of_the_extension_closes_the_connections_of_lookups(sql_uri, make_app):
    app = make_app(APIKEY_STORAGE_URI=sql_uri)
    api_keys = APIKeys(app)
    with app.app_context():
        api_keys.init_storage()
        backend = app.extensions["apikey"].backend
        connections = Connections(backend._source)
        api_keys.verify(api_keys.create(name="ci").key)
        assert connections.open > 0
    api_keys.close()
    assert connections.open == 0


@pytest.mark.parametrize(
    ("options", "age"), [({}, MAX_AGE), ({"pool_recycle": 7}, 7), ({"pool_recycle": 3600}, MAX_AGE)]
)
def test_connections_are_replaced_at_the_age_of_the_pool(make_engine, monkeypatch, options, age):
    engine = make_engine(**options)
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        connections = Connections(engine)
        engine.dispose()
        backend.get(new_id())
        backend.get(new_id())
        assert connections.opened == 1
        for seconds, opened in ((age - 1, 1), (age + 1, 2)):
            monkeypatch.setattr("flask_apikey_sql.lookup.monotonic", partial(later, seconds))
            backend.get(new_id())
            assert (connections.open, connections.opened) == (1, opened)


def later(seconds):
    return time.monotonic() + seconds


def test_no_more_connections_than_the_size_of_the_pool(make_engine):
    engine = make_engine(pool_size=3)
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        engine.dispose()
        connections = Connections(engine)
        with ThreadPoolExecutor(20) as pool:
            assert [*pool.map(backend.get, [new_id() for _ in range(400)])] == [None] * 400
        assert 1 <= connections.most <= 3


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"pool_size": 2, "pool_timeout": 0.05}, 2),
        ({"pool_size": 0, "pool_timeout": 0.05}, 5),
        ({"poolclass": NullPool}, 5),
        ({"poolclass": StaticPool}, 1),
    ],
    ids=["queue", "queue without limit", "no pool", "one connection"],
)
def test_busy_connections_are_a_storage_error(make_engine, monkeypatch, options, limit):
    monkeypatch.setattr("flask_apikey_sql.lookup.MAX_WAIT", 0.05)
    engine = make_engine(**options)
    started, finish = threading.Semaphore(0), threading.Event()

    def wait(*_):
        started.release()
        assert finish.wait(30)

    with closing(SQLBackend(engine)) as backend, ThreadPoolExecutor(limit) as pool:
        backend.init_storage()
        sa.event.listen(engine, "before_cursor_execute", wait)
        busy = [pool.submit(backend.get, new_id()) for _ in range(limit)]
        for _ in busy:
            assert started.acquire(timeout=30)
        with pytest.raises(StorageError, match=f"all {limit} connections for look-ups were busy for 0.05 seconds"):
            backend.get(new_id())
        finish.set()
        assert [each.result() for each in busy] == [None] * limit
        assert backend.get(new_id()) is None


def test_connection_in_use_at_disposal_is_closed_after_it(make_engine):
    engine = make_engine()
    started, finish = threading.Event(), threading.Event()

    def wait(*_):
        started.set()
        assert finish.wait(30)

    with closing(SQLBackend(engine)) as backend, ThreadPoolExecutor(1) as pool:
        backend.init_storage()
        engine.dispose()
        connections = Connections(engine)
        sa.event.listen(engine, "before_cursor_execute", wait)
        busy = pool.submit(backend.get, new_id())
        assert started.wait(30)
        engine.dispose()
        assert connections.open == 1
        finish.set()
        assert busy.result() is None
        assert connections.open == 0


def test_lookup_needs_no_connection_of_the_pool(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=5)
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
            assert backend.get(new_id()) is None

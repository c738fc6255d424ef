"""Changes and counts while the request holds connections or a transaction of the application."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from threading import Barrier

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.pool import AssertionPool, Pool, StaticPool

from flask_apikey import APIKeys, StorageError, require_api_key
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.sqlite_holds import PATIENCE, Hold
from flask_apikey_sql.uris import parse_uri
from tests.support.waiting import in_thread

THREADS = 4


@pytest.fixture
def scene(tmp_path, fernet_key):
    """Create an application that keeps a table of its own beside the keys."""
    apps = []

    def make(uri=f"sqlite:///{tmp_path}/app.db", **config):
        app = Flask("app", instance_path=str(tmp_path))
        app.config.update(TESTING=True, APIKEY_FERNET_KEY=fernet_key, SQLALCHEMY_DATABASE_URI=uri, **config)
        db = SQLAlchemy(app)

        class Note(db.Model):
            id = db.Column(db.Integer, primary_key=True)

        api_keys = APIKeys(app)
        with app.app_context():
            db.create_all()
            api_keys.init_storage()
        apps.append((app, db, api_keys))
        return app, db, api_keys, Note

    yield make
    for app, db, api_keys in apps:
        api_keys.close()
        with app.app_context():
            db.engine.dispose()


def test_pool_that_requests_hold(scene, sql_uri):
    app, db, api_keys, _ = scene(
        parse_uri(sql_uri),
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": THREADS, "max_overflow": 0, "pool_timeout": 1},
        APIKEY_USAGE="sync",
    )
    everybody = Barrier(THREADS, timeout=30)

    @app.post("/")
    @require_api_key
    def view():
        db.session.execute(sa.text("SELECT 1"))
        everybody.wait()
        issued = api_keys.create(name="made in a view")
        api_keys.roll(issued.record.id)
        api_keys.revoke(issued.record.id)
        # Nobody releases a connection before everybody has made a change.
        everybody.wait()
        return ""

    with app.app_context():
        key = api_keys.create(name="ci").key
    with ThreadPoolExecutor(THREADS) as pool:
        posts = pool.map(lambda _: app.test_client().post("/", headers={"X-API-Key": key}), range(THREADS))
        assert [answer.status_code for answer in posts] == [200] * THREADS
    with app.app_context():
        assert api_keys.usage(by="key").total == THREADS


@pytest.mark.parametrize("keys_uri", [None, "sqlite:///{}/app.db"], ids=["same engine", "same file"])
def test_change_in_the_transaction_of_the_request(scene, tmp_path, keys_uri):
    config = {} if keys_uri is None else {"APIKEY_STORAGE_URI": keys_uri.format(tmp_path)}
    app, db, api_keys, note = scene(**config)
    with app.app_context():
        issued = api_keys.create(name="ci")
        db.session.add(note(id=1))
        db.session.flush()
        begun = time.monotonic()
        for change in (
            lambda: api_keys.create(name="x"),
            lambda: api_keys.revoke(issued.record.id),
            lambda: api_keys.roll(issued.record.id),
            api_keys.init_storage,
        ):
            with pytest.raises(StorageError, match=r"commit it first \(db.session.commit\(\)\), or keep"):
                change()
        assert time.monotonic() - begun < PATIENCE
        assert api_keys.verify(issued.key)
        db.session.commit()
        api_keys.revoke(issued.record.id)


def test_change_in_a_transaction_of_core(scene):
    app, db, api_keys, note = scene()
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.insert(note.__table__).values(id=1))
        with pytest.raises(StorageError, match="commit it first"):
            api_keys.create(name="x")


def test_change_in_a_transaction_that_the_application_begins(scene):
    app, db, api_keys, note = scene()
    with app.app_context():
        sa.event.listen(db.engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
        sa.event.listen(db.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        db.engine.dispose()
        with db.engine.connect() as connection:
            # Otherwise even readers keep a writer from committing.
            connection.connection.dbapi_connection.execute("PRAGMA journal_mode=WAL")
        db.session.execute(sa.select(note)).all()
        # This transaction only reads.
        api_keys.create(name="x")
        db.session.rollback()
        db.session.add(note(id=1))
        db.session.flush()
        begun = time.monotonic()
        with pytest.raises(StorageError, match="locked"):
            api_keys.create(name="x")
        assert time.monotonic() - begun < 3 * PATIENCE


def test_change_during_a_query(scene):
    app, db, api_keys, note = scene()
    with app.app_context():
        db.session.add_all([note(id=number) for number in range(9)])
        db.session.commit()
        rows = db.session.execute(sa.text("SELECT id FROM note"))
        rows.fetchone()
        begun = time.monotonic()
        with pytest.raises(StorageError, match="locked"):
            api_keys.create(name="x")
        assert time.monotonic() - begun < 3 * PATIENCE
        rows.close()
        api_keys.create(name="x")


def test_transaction_of_another_thread_is_waited_for(scene):
    app, db, api_keys, note = scene()
    has_written, is_waiting = threading.Event(), threading.Event()

    def write():
        with app.app_context():
            db.session.add(note(id=1))
            db.session.flush()
            has_written.set()
            is_waiting.wait(30)
            db.session.commit()

    with in_thread(write), app.app_context():
        assert has_written.wait(30)
        sa.event.listen(db.engine, "begin", lambda _: is_waiting.set(), once=True)
        api_keys.create(name="x")


@pytest.mark.parametrize("make_source", [str, sa.create_engine])
def test_lookup_shortens_no_wait_of_its_thread(tmp_path, make_source):
    with closing(SQLBackend(make_source(f"sqlite:///{tmp_path}/keys.db"))) as backend:
        backend.init_storage()
        backend.get("A" * 16)
        assert backend._opened.get().connections.hold() is Hold.NOTHING


def test_transaction_on_another_file(scene, tmp_path):
    app, db, api_keys, note = scene(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/keys.db")
    with app.app_context():
        db.session.add(note(id=1))
        db.session.flush()
        api_keys.create(name="x")


def test_sync_count_does_not_wait_for_a_flush_that_waits(scene, caplog):
    app, db, api_keys, note = scene(APIKEY_USAGE="sync")
    with app.app_context():
        key = api_keys.create(name="ci").key
    recorder = app.extensions["apikey"].usage

    @app.post("/")
    @require_api_key
    def view():
        db.session.add(note(id=1))
        db.session.flush()
        return ""

    begun = time.monotonic()
    flight = recorder._recorders.get()._single_flight
    is_flushing, may_end = threading.Event(), threading.Event()

    def attempt():
        is_flushing.set()
        return may_end.wait(30)

    with in_thread(flight.run, attempt):
        assert is_flushing.wait(30)
        assert app.test_client().post("/", headers={"X-API-Key": key}).status_code == 200
        may_end.set()
    assert time.monotonic() - begun < 30
    assert "left a transaction open on the same SQLite file: commit it" in caplog.text
    assert recorder.flush()
    with app.app_context():
        assert api_keys.usage(by="key").total == 1


@pytest.mark.parametrize("pool", [StaticPool, AssertionPool])
def test_pool_of_a_single_connection(tmp_path, pool):
    uri, options = f"sqlite:///{tmp_path}/keys.db", {"check_same_thread": False}
    engine = sa.create_engine(uri, poolclass=pool, connect_args=options)
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        everybody = Barrier(THREADS, timeout=30)

        def change(connection):
            connection.execute(sa.text("UPDATE flask_apikey_keys SET name = 'x'"))
            # Without a turn for each thread, others change keys in this transaction.
            with suppress(threading.BrokenBarrierError):
                everybody.wait(0.05)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda _: backend._database.transact(change), range(THREADS)))
        assert everybody.broken
    engine.dispose()


def test_connection_that_another_thread_takes_is_not_held(tmp_path):
    with closing(SQLBackend(f"sqlite:///{tmp_path}/keys.db")) as backend:
        backend.init_storage()
        connections = backend._database.opened.get().connections
        holds = []

        def note_hold(connection, _record, _proxy):
            connection.execute("BEGIN IMMEDIATE")
            holds.append(mine.submit(connections.hold).result(30))

        with ThreadPoolExecutor(1) as mine, ThreadPoolExecutor(1) as other:
            mine.submit(backend.add, stored_key()).result(30)
            sa.event.listen(Pool, "checkout", note_hold, insert=True)
            try:
                other.submit(lambda: connections.connect().close()).result(30)
            finally:
                sa.event.remove(Pool, "checkout", note_hold)
    assert holds == [Hold.NOTHING]


def test_disposed_engine_closes_idle_connections_of_changes(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/keys.db")
    opened = []
    sa.event.listen(engine, "connect", lambda connection, _: opened.append(connection))
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        backend.add(stored_key())
        assert engine.pool.checkedin() == 0
        engine.dispose()
        for connection in opened:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                connection.execute("SELECT 1")
        backend.add(stored_key())

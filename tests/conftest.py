"""Shared fixtures: an application on an in-memory database, a frozen clock, API keys, servers."""

import os
import socket
from contextlib import ExitStack
from typing import ClassVar

import pytest
import redis
from flask import Flask
from hypothesis import is_hypothesis_test, settings
from jinja2 import BytecodeCache
from sqlalchemy import MetaData

from flask_apikey import APIKeys
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import utc_now
from flask_apikey.testing import APIKeyClient, FrozenClock
from flask_apikey_sql import SQLBackend
from tests.support.memcached_server import running_memcached
from tests.support.redis_server import RedisServer
from tests.support.storages import MONGODB, MYSQL, POSTGRESQL, named_servers, new_database
from tests.support.stored_usage import StoredUsage
from tests.support.wire_server import emptied, running_wire_server

settings.register_profile("suite", database=None, deadline=None, max_examples=100)
settings.load_profile("suite")


MARKERS = {
    "process": {
        "browser",
        "installed",
        "race",
        "terminal",
        "wire_server",
        "redis_server",
        "redis_client",
        "memcached_uri",
    },
    "server": {"wire_server", "redis_server", "redis_client", "memcached_uri", "MongoDB", POSTGRESQL, MYSQL, MONGODB},
}


def pytest_configure(config):
    """Give every test process databases of its own on the servers that the environment names."""
    starts_no_tests = config.getoption("numprocesses", None) or config.option.collectonly
    if starts_no_tests:
        return
    databases = ExitStack()
    config.add_cleanup(databases.close)
    for variable in named_servers(POSTGRESQL, MYSQL, MONGODB):
        os.environ[variable] = databases.enter_context(new_database(variable))


def pytest_collection_modifyitems(items):
    """Mark tests by their fixtures and parameters. Other tests carry their markers themselves."""
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        needs = {*item.fixturenames, *(value for value in parameters if isinstance(value, str))}
        for marker, names in MARKERS.items():
            if needs & names:
                item.add_marker(marker)
        if is_hypothesis_test(getattr(item, "obj", None)):
            # Coverage slows generated examples most, and written examples reach the same lines.
            item.add_marker("no_cover")


class WatchedBackend(Backend):
    """A real backend with a record of look-ups, injected failures and injected steps.

    Attributes:
        looked_up: Ids of all look-ups.
        failure: The exception that every method raises, or None.
        before_next_update: A function to call before the next update, or None.
    """

    def __init__(self, inner):
        self.inner = inner
        self.looked_up = []
        self.failure = None
        self.before_next_update = None

    @classmethod
    def from_uri(cls, uri):
        return cls(SQLBackend.from_uri(uri))

    def get(self, key_id):
        self.looked_up.append(key_id)
        self._fail()
        return self.inner.get(key_id)

    def update(self, key, *, expected_version, expected_seal, event=None):
        self._fail()
        step, self.before_next_update = self.before_next_update, None
        if step is not None:
            step()
        self.inner.update(key, expected_version=expected_version, expected_seal=expected_seal)

    def revoke_unsealed(self, key_id, *, revoked_at, reason):
        self._fail()
        return self.inner.revoke_unsealed(key_id, revoked_at=revoked_at, reason=reason)

    def scan(self, key_filter):
        return self.inner.scan(key_filter)

    def add(self, key, *, event=None):
        self._fail()
        self.inner.add(key)

    def find(self, key_filter, *, after, limit, newest_first=False):
        return self.inner.find(key_filter, after=after, limit=limit, newest_first=newest_first)

    def count(self, key_filter):
        return self.inner.count(key_filter)

    def init_storage(self):
        self.inner.init_storage()

    def ping(self):
        self._fail()
        self.inner.ping()

    def close(self):
        self.inner.close()

    def _fail(self):
        if self.failure is not None:
            raise self.failure


@pytest.fixture(autouse=True)
def _terminal_width(monkeypatch):
    """Output that fits the terminal must not depend on the terminal of the test run."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def prune(fernet_key):
    """Function that makes a tombstone of a key of a `WatchedBackend`."""

    def prune(backend, key_id):
        repository = KeyRepository(backend.inner, FernetKeyring(fernet_key), utc_now)
        repository.remove(repository.get(key_id))

    return prune


@pytest.fixture(autouse=True, scope="session")
def _statements_compiled_once():
    """Create the tables of in-memory databases from a script, because SQLAlchemy compiles each statement anew."""
    create_all, scripts = MetaData.create_all, {}

    def create(metadata, bind, tables=None, *, checkfirst=True):
        if checkfirst or tables is None:
            create_all(metadata, bind, tables, checkfirst)
            return
        names = tuple(table.fullname for table in tables)
        with bind.connect() as connection:
            if names in scripts:
                connection.connection.driver_connection.executescript(scripts[names])
            else:
                create_all(metadata, connection, tables, checkfirst)
                created = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
                scripts[names] = ";".join(created.scalars())
                connection.commit()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetaData, "create_all", create)
        yield


@pytest.fixture(scope="session")
def wire_server(tmp_path_factory):
    """A MongoDB wire server, shared by the tests of a process."""
    with running_wire_server(tmp_path_factory.mktemp("mongodb")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """A Redis server, shared by the tests of a process."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_client(redis_server):
    """A client of the shared Redis server, which is empty."""
    with redis.Redis(port=redis_server.port, decode_responses=False) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def memcached_uri():
    """The URI of a Memcached server, shared by the tests of a process."""
    with running_memcached() as uri:
        yield uri


@pytest.fixture(scope="session")
def fernet_key():
    return generate_fernet_key()


@pytest.fixture
def clock():
    return FrozenClock()


class CompiledTemplates(BytecodeCache):
    """Templates compiled once a process, and not for each application."""

    compiled: ClassVar[dict[str, bytes]] = {}

    def load_bytecode(self, bucket):
        if bucket.key in self.compiled:
            bucket.bytecode_from_string(self.compiled[bucket.key])

    def dump_bytecode(self, bucket):
        self.compiled[bucket.key] = bucket.bytecode_to_string()


@pytest.fixture
def make_app(fernet_key, tmp_path):
    """Create configured applications without APIKeys."""
    apps = []

    def make(**config):
        app = Flask(f"app{len(apps)}", instance_path=str(tmp_path / f"instance{len(apps)}"))
        app.test_client_class = APIKeyClient
        app.jinja_options = {**app.jinja_options, "bytecode_cache": CompiledTemplates()}
        app.config.update(
            TESTING=True,
            APIKEY_FERNET_KEY=fernet_key,
            APIKEY_STORAGE_URI="sqlite:///:memory:",
            APIKEY_MIN_FAILURE_TIME=0,
        )
        app.config.update(config)
        apps.append(app)
        return app

    yield make
    for app in apps:
        state = app.extensions.get("apikey")
        if state is not None:
            state.close()


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def api_keys(app, clock):
    return APIKeys(app, clock=clock)


@pytest.fixture
def issue(app, api_keys):
    """Issue a key for the application."""

    def issue(name="ci", **attributes):
        with app.app_context():
            return api_keys.create(name=name, **attributes)

    return issue


@pytest.fixture
def client(app, api_keys):
    return app.test_client()


@pytest.fixture
def backend():
    """A watched backend, to pass to APIKeys."""
    watched = WatchedBackend(SQLBackend("sqlite:///:memory:"))
    yield watched
    watched.close()


@pytest.fixture
def storage():
    """A backend on an empty, initialised database."""
    storage = SQLBackend("sqlite:///:memory:")
    storage.init_storage()
    yield storage
    storage.close()


@pytest.fixture(params=["sqlite", *named_servers(POSTGRESQL, MYSQL)])
def sql_uri(request, tmp_path):
    """The URI of an empty database, on SQLite and on each SQL server that the environment names."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/keys.db"
    else:
        with new_database(request.param) as uri:
            yield uri


@pytest.fixture
def counted(storage):
    """Store usage as requests do."""
    return StoredUsage(storage)


@pytest.fixture
def unused_port():
    """A port without a listener."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(params=["sqlite", "wire_server", *named_servers(POSTGRESQL, MYSQL, MONGODB)])
def any_storage_uri(request, tmp_path):
    """URI of an empty storage of each kind: SQLite, MongoDB's wire protocol, and the servers of the environment."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/any.db"
    elif request.param == "wire_server":
        yield emptied(request.getfixturevalue("wire_server").uri)
    else:
        with new_database(request.param) as uri:
            yield uri

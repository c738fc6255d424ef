"""Isolation levels, and retries after serialization failures."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from flask_apikey import StorageError
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.testing.contracts.fixtures import update
from flask_apikey.testing.contracts.history import require_history
from flask_apikey.testing.contracts.rotation import ROTATION
from flask_apikey.testing.samples import NOW, changed, recorded, stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.history import EVENTS_TABLE
from flask_apikey_sql.uris import parse_uri
from tests.support.keys import Lifecycle
from tests.support.storages import MYSQL, POSTGRESQL, named_servers, new_database
from tests.support.stored import all_keys

WORKERS = 4
ROUNDS = 5


class Refusal(Exception):
    """An error with the attribute of PostgreSQL's driver."""

    def __init__(self, sqlstate):
        super().__init__("could not serialize access due to concurrent update")
        self.sqlstate = sqlstate


@pytest.fixture
def refused(tmp_path):
    """A backend, and a function that makes its next statements or commits fail."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/keys.db")
    refusals = []

    def refuse(event_name, sqlstate, times):
        refusals.extend([OperationalError("", {}, Refusal(sqlstate))] * times)

        def raise_once(*_arguments):
            if refusals:
                raise refusals.pop()

        sa.event.listen(engine, event_name, raise_once)

    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        yield backend, refuse
    engine.dispose()


WRITES = {
    "add": lambda backend, key, new: backend.add(new, event=recorded(new)[1]),
    "add many": lambda backend, key, new: backend.add_many([new]),
    "update": lambda backend, key, new: update(backend, key, changed(key), recorded(changed(key))[1]),
    "revoke unsealed": lambda backend, key, new: backend.revoke_unsealed(key.record.id, revoked_at=NOW, reason=None),
    "append": lambda backend, key, new: backend.history.append([recorded(key)[1]]),
    "put rotation": lambda backend, key, new: backend.rotation.put(ROTATION, expected_version=0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("refused_at", ["before_cursor_execute", "commit"])
def test_serialization_failure_is_retried(refused, write, refused_at):
    backend, refuse = refused
    key, new = stored_key(), stored_key()
    backend.add(key)
    refuse(refused_at, "40001", 3)
    write(backend, key, new)


@pytest.mark.parametrize("refused_at", ["before_cursor_execute", "commit"])
def test_retries_are_limited(refused, refused_at):
    backend, refuse = refused
    refuse(refused_at, "40001", 10_000)
    with pytest.raises(StorageError, match=r"others write the same rows all the time.*could not serialize access"):
        backend.add(stored_key())


def test_other_errors_are_not_retried(refused):
    backend, refuse = refused
    refuse("before_cursor_execute", "53100", 1)
    key = stored_key()
    with pytest.raises(StorageError):
        backend.add(key)
    assert backend.get(key.record.id) is None


def made_so(url):
    return sa.create_engine(url, isolation_level="AUTOCOMMIT")


def set_so(url):
    return sa.create_engine(url).execution_options(isolation_level="AUTOCOMMIT")


@pytest.mark.parametrize("make", [made_so, set_so])
def test_changes_are_atomic_on_an_autocommit_engine(sql_uri, make):
    def fail(_connection, _cursor, statement, *_):
        if statement.startswith(f"INSERT INTO {EVENTS_TABLE}"):
            raise RuntimeError("no room for events")

    with closing(SQLBackend(engine := make(parse_uri(sql_uri)))) as backend:
        backend.init_storage()
        key = stored_key()
        backend.add(key)
        sa.event.listen(engine, "before_cursor_execute", fail)
        new, event = recorded(changed(key, name="changed"))
        another, of_another = recorded(stored_key())
        for change in (
            lambda: backend.add(another, event=of_another),
            lambda: backend.add_many([another], events=[of_another]),
            lambda: update(backend, key, new, event),
        ):
            with pytest.raises(StorageError, match="RuntimeError"):
                change()
        assert all_keys(backend) == [key]
        engine.dispose()


HAS_SNAPSHOTS = {
    "mysql": "SHOW VARIABLES LIKE 'innodb_snapshot_isolation'",
    "postgresql": "SELECT 1 WHERE false",
}


def refuse_rows_that_changed(connection, _record):
    with closing(connection.cursor()) as cursor:
        cursor.execute("SET SESSION innodb_snapshot_isolation = ON")


@pytest.fixture(params=named_servers(POSTGRESQL, MYSQL))
def uri(request):
    with new_database(request.param) as uri:
        yield uri


@pytest.fixture(params=["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
def isolated(uri, request):
    """A backend on an engine with another isolation level than the default."""
    engine = sa.create_engine(parse_uri(uri), isolation_level=request.param)
    with engine.connect() as connection:
        # MariaDB's default since 11.8.
        if connection.exec_driver_sql(HAS_SNAPSHOTS[engine.dialect.name]).all():
            sa.event.listen(engine, "connect", refuse_rows_that_changed)
    engine.dispose()
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        yield backend
    engine.dispose()


def test_concurrent_changes_at_any_isolation_level(isolated):
    lifecycle = Lifecycle(isolated, FernetKeyring(generate_fernet_key()))
    shared = lifecycle.create(name="shared").record.id
    barrier = Barrier(WORKERS, timeout=60)

    def work(worker):
        try:
            for number in range(ROUNDS):
                barrier.wait()
                lifecycle.update(shared, name=f"{worker}-{number}")
                barrier.wait()
                lifecycle.create(name="another")
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))
    keys = all_keys(isolated)
    assert len(keys) == 1 + WORKERS * ROUNDS
    assert isolated.get(shared).record.version == 1 + WORKERS * ROUNDS
    for key in keys:
        require_history(isolated, key)

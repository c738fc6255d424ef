"""Outages and lock timeouts of SQL servers."""

import os
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_apikey import APIKeys, StorageError, require_api_key
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import UsageField, UsageFilter
from flask_apikey.testing.contracts.usage import batch_of, label_of
from flask_apikey.testing.tcp_proxy import TCPProxy
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.uris import parse_uri
from tests.support.storages import MYSQL, POSTGRESQL, named_servers


@pytest.fixture(params=named_servers(POSTGRESQL, MYSQL))
def server_uri(request):
    return os.environ[request.param]


@pytest.fixture
def line(server_uri):
    line = TCPProxy(server_uri)
    yield line
    line.close()


@pytest.fixture
def app(line, fernet_key):
    app = Flask(__name__)
    app.config.update(
        TESTING=True, APIKEY_FERNET_KEY=fernet_key, APIKEY_STORAGE_URI=line.uri, APIKEY_MIN_FAILURE_TIME=0
    )
    api_keys = APIKeys(app)

    @app.get("/")
    @require_api_key
    def view():
        return "open"

    with app.app_context():
        api_keys.init_storage()
        app.key = api_keys.create(name="ci").key
    yield app
    app.extensions["apikey"].backend.close()


def test_requests_during_and_after_an_outage(app, line, caplog):
    client = app.test_client()

    def get():
        return client.get("/", headers={"X-API-Key": app.key})

    assert get().status_code == 200
    line.cut()
    for _ in range(2):
        refused = get()
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
    assert "event=storage outcome=failure" in caplog.text
    assert app.key not in caplog.text
    line.mend()
    assert get().status_code == 200


def test_lock_timeout_of_the_uri_applies_to_counts(server_uri):
    url = parse_uri(server_uri)
    patience = {"postgresql": {"options": "-c lock_timeout=500"}}.get(
        url.get_backend_name(), {"init_command": "SET innodb_lock_wait_timeout = 1"}
    )
    backend, engine = SQLBackend(url.update_query_dict(patience)), sa.create_engine(url)
    backend.init_storage()
    label, writer = label_of(new_id()), new_id()
    backend.usage.add(batch_of({label: 1}, writer=writer))
    locked = sa.text("UPDATE flask_apikey_usage SET count = 7 WHERE key_id = :key_id")
    with engine.connect() as connection:
        connection.execute(locked, {"key_id": label.key_id})
        with pytest.raises(StorageError, match=r"(?i)^the database failed: .*lock (wait )?timeout"):
            backend.usage.add(batch_of({label: 1}, writer=writer, number=2))
    backend.usage.add(batch_of({label: 1}, writer=writer, number=2))
    assert backend.usage.sum(UsageField.KEY, UsageFilter(key_ids=[label.key_id])) == {label.key_id: 2}
    backend.close()
    engine.dispose()


def test_timeout_applies_to_statements_of_this_library_only(server_uri):
    url = parse_uri(server_uri)
    pause = sa.text("SELECT pg_sleep(0.8)" if url.get_backend_name() == "postgresql" else "SELECT SLEEP(0.8)")
    engine = sa.create_engine(url)
    backend = SQLBackend(engine)
    backend.limit_waits(timedelta(milliseconds=200))
    with (
        pytest.raises(StorageError, match=r"did not answer in time|timed out"),
        backend._database.connect() as connection,
    ):
        connection.execute(pause)
    backend.ping()
    with engine.connect() as connection:
        connection.execute(pause)
    backend.close()
    engine.dispose()

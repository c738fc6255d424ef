"""A server that goes away and comes back."""

import os

import pytest
from flask import Flask

from flask_apikey import APIKeys, require_api_key
from flask_apikey.testing.line import Line

SERVERS = {
    "PostgreSQL": os.environ.get("FLASK_APIKEY_TEST_POSTGRESQL_URI"),
    "MySQL": os.environ.get("FLASK_APIKEY_TEST_MYSQL_URI"),
}


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.skipif(uri is None, reason=f"no URI of a {name} server is set"))
        for name, uri in SERVERS.items()
    ]
)
def server_uri(request):
    return SERVERS[request.param]


@pytest.fixture
def line(server_uri):
    line = Line(server_uri)
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


def test_requests_are_refused_while_the_server_is_away_and_served_once_it_is_back(app, line, caplog):
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


def test_a_line_that_was_cut_in_between_costs_no_request(app, line):
    client = app.test_client()
    assert client.get("/", headers={"X-API-Key": app.key}).status_code == 200
    line.cut()
    line.mend()
    assert client.get("/", headers={"X-API-Key": app.key}).status_code == 200


def test_changes_work_once_the_server_is_back(app, line):
    api_keys = app.extensions["apikey"].extension
    line.cut()
    line.mend()
    with app.app_context():
        issued = api_keys.create(name="after")
        assert api_keys.revoke(issued.record.id).revoked_at is not None

"""A server that goes away and comes back."""

import os
import socket
import threading
from contextlib import suppress

import pytest
from flask import Flask
from sqlalchemy import make_url

from flask_apikey import APIKeys, require_api_key

SERVERS = {
    "PostgreSQL": os.environ.get("FLASK_APIKEY_TEST_POSTGRESQL_URI"),
    "MySQL": os.environ.get("FLASK_APIKEY_TEST_MYSQL_URI"),
}


class Line:
    """A TCP line to a server, which can be cut and mended."""

    def __init__(self, host, port):
        self._server = (host, port)
        self._sockets = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        self._is_cut = True
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self):
        self._is_cut = False

    def close(self):
        self.cut()
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_cut:
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                self._sockets |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self._sockets.discard(each)
            each.close()


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.skipif(uri is None, reason=f"no URI of a {name} server is set"))
        for name, uri in SERVERS.items()
    ]
)
def server_url(request):
    return make_url(SERVERS[request.param])


@pytest.fixture
def line(server_url):
    line = Line(server_url.host, server_url.port)
    yield line
    line.close()


@pytest.fixture
def app(server_url, line, fernet_key):
    app = Flask(__name__)
    uri = server_url.set(host="127.0.0.1", port=line.port).render_as_string(hide_password=False)
    app.config.update(TESTING=True, APIKEY_FERNET_KEY=fernet_key, APIKEY_STORAGE_URI=uri, APIKEY_MIN_FAILURE_TIME=0)
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
    assert "could not be checked" in caplog.text
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

"""Connections to PostgreSQL under gevent, with hundreds of requests at the same moment."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_apikey import APIKeys
from flask_apikey.core.model.keystring import DEFAULT_PREFIX, mint, new_id
from flask_apikey_sql.uris import parse_uri
from tests.support.serving import TIMEOUT, running
from tests.support.storages import POSTGRESQL, named_servers, new_database

pytest.importorskip("gevent")

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

JUNK = 300
CONNECTIONS_OF_A_PROCESS = {"APIKEY_STORAGE_URI": 20, "SQLALCHEMY_DATABASE_URI": 35}
"""As docs/guides/storage.rst says of keys given by URI, and of keys on an engine of the application."""

COMMAND = (sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--bind", "127.0.0.1:{port}")


@pytest.fixture(params=named_servers(POSTGRESQL))
def uri(request: pytest.FixtureRequest) -> Iterator[str]:
    with new_database(request.param) as uri:
        yield uri


@contextmanager
def most_connections(uri: str) -> Iterator[list[int]]:
    """Yield a list that gets the largest number of connections that the database had."""
    url = parse_uri(uri)
    engine = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    statement = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
    stop, most = threading.Event(), [0]

    def watch() -> None:
        with engine.connect() as connection:
            while not stop.wait(0.005):
                most[0] = max(most[0], connection.scalar(statement, {"name": url.database}) or 0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()
        engine.dispose()


def statuses_at_once(port: int, path: str, keys: list[str]) -> list[bytes]:
    """Send a request with each key, before any answer is read."""
    with ExitStack() as stack:
        connections = []
        for key in keys:
            connections.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT)))
            connections[-1].sendall(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n".encode()
            )
        return [each.makefile("rb").readline().split()[1] for each in connections]


@pytest.mark.parametrize(
    ("workers", "setting", "path"),
    [
        (1, "APIKEY_STORAGE_URI", "/route0/1"),
        (4, "APIKEY_STORAGE_URI", "/route0/1"),
        (1, "SQLALCHEMY_DATABASE_URI", "/changing"),
    ],
)
def test_junk_keys_exhaust_no_connections(
    workers: int, setting: str, path: str, uri: str, make_app: Callable[..., Flask], fernet_key: str, tmp_path: Path
) -> None:
    api_keys = APIKeys(app := make_app(APIKEY_STORAGE_URI=uri))
    with app.app_context():
        api_keys.init_storage()
        valid = api_keys.create(name="ci").key
    api_keys.close()
    # Newer versions of gunicorn put a control socket into the home directory of the user otherwise.
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    environment = {
        "PYTHONPATH": ":".join(path for path in (str(Path(__file__).parents[2]), *sys.path) if path),
        "COUNTED_APIKEY_FERNET_KEY": fernet_key,
        f"COUNTED_{setting}": parse_uri(uri).render_as_string(hide_password=False),
        "COUNTED_APIKEY_ENFORCE_HTTPS": "false",
    }
    command = (*COMMAND, "--workers", str(workers), "tests.support.counted_app:create_app()")
    with running(command, tmp_path, environment) as server, most_connections(uri) as most:
        junk = [mint(DEFAULT_PREFIX, new_id()) for _ in range(JUNK)]
        answers = statuses_at_once(server.port, path, [key for each in junk for key in (each, valid)])
        assert set(answers[::2]) <= {b"401", b"429"}
        assert set(answers[1::2]) == {b"200"}
    assert 0 < most[0] <= workers * CONNECTIONS_OF_A_PROCESS[setting]

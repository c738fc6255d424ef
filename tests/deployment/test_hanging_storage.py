"""Storage servers that hang: stopped with SIGSTOP, while their kernel still accepts connections."""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from sqlalchemy import Engine, create_engine

from flask_apikey import StorageError
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql.uris import parse_uri
from scripts import servers
from tests.core.usage.test_usage_under_load import IS_FULL, THREADS, Clients, CountedApp
from tests.support.storages import MYSQL, POSTGRESQL, named_servers

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

HANGING = 10 if IS_FULL else 4
TIMEOUT = 1
MARGIN = 4.0
"""Time for a loaded machine, and for the second attempt of a driver."""

SERVERS: dict[str, type[servers.Server]] = {
    POSTGRESQL: servers.PostgreSQL,
    MYSQL: servers.MariaDB,
    "MongoDB wire server": servers.MongoDB,
}


class StoppableServer:
    """A server of its own, so that other tests do not hang."""

    def __init__(self, server: servers.Server) -> None:
        self.uri = server.uri
        assert server._process is not None
        self._process = server._process.pid

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the server and its child processes, and continue them on exit."""
        children = Path(f"/proc/{self._process}/task/{self._process}/children").read_text().split()
        processes = [self._process, *map(int, children)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)


@pytest.fixture(scope="module", params=["MongoDB wire server", *named_servers(POSTGRESQL, MYSQL)])
def server(request: pytest.FixtureRequest) -> Iterator[StoppableServer]:
    with ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="flask-apikey-hanging-"))
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        base.chmod(0o755)
        directory = base / "server"
        directory.mkdir(mode=0o700)
        server = SERVERS[request.param](directory)
        stack.callback(server.stop)
        server.start()
        yield StoppableServer(server)


def _client(uri: str) -> Engine | MongoClient[Any]:
    if uri.startswith("mongodb"):
        return MongoClient(uri)
    # Without a ping, for which SQLAlchemy itself waits.
    return create_engine(parse_uri(uri))


def test_hanging_server_is_given_up(server: StoppableServer) -> None:
    client = _client(server.uri)
    with ExitStack() as stack:
        stack.callback(client.close if isinstance(client, MongoClient) else client.dispose)
        given = type(backend_for(server.uri)).from_client(client)
        backends = [stack.enter_context(closing(backend)) for backend in (backend_for(server.uri), given)]
        for backend in backends:
            backend.limit_waits(timedelta(seconds=TIMEOUT))
        key = stored_key()
        backends[0].init_storage()
        backends[0].add(key)
        calls: list[Callable[[], object]] = []
        for backend in backends:
            calls += [partial(backend.get, key.record.id)] * 2
        calls.append(backends[0].ping)
        if isinstance(client, Engine):
            calls.append(given.ping)
        for call in calls:
            call()
        with server.stopped():
            for call in calls:
                started_at = time.monotonic()
                with pytest.raises(StorageError):
                    call()
                assert time.monotonic() - started_at < TIMEOUT + MARGIN
        for backend in backends:
            assert backend.get(key.record.id) == key


def test_hanging_storage_holds_no_thread_for_long(server: StoppableServer, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    counted = CountedApp(server.uri, tmp_path, APIKEY_STORAGE_TIMEOUT=f"{TIMEOUT}s")
    open_times = []
    with counted.serving(*THREADS) as web, Clients(web, counted.key, pause=0.05) as clients:
        clients.wait_for(100)
        with server.stopped():
            refusals = sum(clients.refused.values())
            end = time.monotonic() + HANGING
            while time.monotonic() < end:
                started_at = time.monotonic()
                assert web.request("GET", "/open").status == HTTPStatus.OK
                open_times.append(time.monotonic() - started_at)
                threading.Event().wait(0.1)
            # Answered at once, and not each after a timeout.
            assert sum(clients.refused.values()) - refusals > 5 * HANGING / TIMEOUT * 8
            answered_before = time.monotonic()
        clients.wait_for(100)
        assert time.monotonic() - answered_before < TIMEOUT + MARGIN
    assert max(open_times) < TIMEOUT + MARGIN, open_times
    assert clients.unanswered == {}
    assert clients.refused.keys() == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert clients.slowest_refusal < TIMEOUT + MARGIN
    assert counted.by_endpoint() == clients.answered

"""Counts match responses: under load, with killed processes and storage outages.

``FLASK_APIKEY_TEST_LOAD=full`` sends 20,000 requests, with outages of ten seconds.
"""

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import ClassVar

import pytest
from flask import Flask

from flask_apikey import APIKeys
from flask_apikey.core.model.keys import IssuedKey
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.core.model.usage import UsageField, UsageFilter, UsageOutcome
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.testing.tcp_proxy import TCPProxy
from tests.support.counted_app import ROUTES
from tests.support.serving import TIMEOUT, Server, running
from tests.support.storages import MONGODB, MYSQL, POSTGRESQL, named_servers, new_database
from tests.support.wire_server import WireServer, emptied

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

IS_FULL = os.environ.get("FLASK_APIKEY_TEST_LOAD") == "full"
REQUESTS = 20_000 if IS_FULL else 800
OUTAGE = 10.0 if IS_FULL else 1.0
PATIENCE = 10 * TIMEOUT if IS_FULL else TIMEOUT
CLIENTS = 16
PAUSE = 0 if IS_FULL else 0.05
INTERVAL = "1s"
QUICK_MONGODB = "directConnection=true&serverSelectionTimeoutMS=500"

GUNICORN = ("-m", "gunicorn", "--bind", "127.0.0.1:{port}", "tests.support.counted_app:create_app()")
THREADS = (*GUNICORN, "--worker-class", "gthread", "--workers", "2", "--threads", "4")
WAITRESS = (
    "-c",
    # Background jobs of a shell ignore SIGINT, and so do the processes they start.
    "import signal, waitress.runner; signal.signal(signal.SIGINT, signal.default_int_handler); waitress.runner.run()",
    *("--listen", "127.0.0.1:{port}", "--call", "tests.support.counted_app:create_app"),
)
UWSGI = ("-c", "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])")
UWSGI_OPTIONS = (
    *("--http-socket", "127.0.0.1:{port}", "--module", "tests.support.counted_app:create_app()"),
    *("--master", "--processes", "2"),
    # Advised by uWSGI's documentation: --die-on-term aborts running requests.
    *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
)


class Clients:
    """Requests from many threads, each on its own connection.

    Args:
        server: The server.
        key: The key of every request.
        requests: Number of requests; None continues until the context ends.
        pause: Seconds between the requests of a thread.

    Attributes:
        answered: Requests answered with 200, by URL rule.
        refused: Requests answered otherwise, by status.
        unanswered: Requests without a response, by URL rule.
        answer_times: Monotonic time of each response with 200.
        slowest_refusal: Longest time until another response.
    """

    def __init__(self, server: Server, key: str, requests: int | None = None, *, pause: float = 0) -> None:
        self.answered: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.answer_times: list[float] = []
        self.slowest_refusal = 0.0
        self._server = server
        self._headers = {"Authorization": f"Api-Key {key}"}
        self._remaining = requests
        self._pause = pause
        self._lock = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send_requests, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Clients":  # noqa: PYI034 - typing.Self needs Python 3.11
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if self._remaining is None or exc_type is not None:
            self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answers: int) -> None:
        """Wait until this many more requests are answered with 200."""
        with self._lock:
            target = len(self.answer_times) + answers
            assert self._lock.wait_for(lambda: len(self.answer_times) >= target, PATIENCE), "the server hangs"

    def _send_requests(self, number: int) -> None:
        while not self._stop.is_set() and self._claim_request():
            route = number % ROUTES
            number += 1
            started_at = time.monotonic()
            try:
                status = self._server.request("GET", f"/route{route}/{number}", headers=self._headers).status
            except (OSError, HTTPException):
                status = None
            rule = f"/route{route}/<int:number>"
            with self._lock:
                if status is None:
                    self.unanswered[rule] += 1
                elif status == HTTPStatus.OK:
                    self.answered[rule] += 1
                    self.answer_times.append(time.monotonic())
                else:
                    self.refused[status] += 1
                    self.slowest_refusal = max(self.slowest_refusal, time.monotonic() - started_at)
                self._lock.notify_all()
            self._stop.wait(self._pause)

    def _claim_request(self) -> bool:
        with self._lock:
            if self._remaining is None:
                return True
            self._remaining -= 1
            return self._remaining >= 0


class CountedApp:
    """The application on a storage, and its stored counts.

    Args:
        uri: URI of the storage.
        directory: Working directory of the servers.
        settings: More settings of the application.

    Attributes:
        attributes: Further attributes of the key.
    """

    attributes: ClassVar[dict[str, str]] = {}

    def __init__(self, uri: str, directory: Path, **settings: object) -> None:
        self._directory = directory
        self._settings = {
            "APIKEY_FERNET_KEY": generate_fernet_key(),
            "APIKEY_STORAGE_URI": uri,
            "APIKEY_ENFORCE_HTTPS": False,
            "APIKEY_MIN_FAILURE_TIME": 0,
            "APIKEY_AUDIT_LOGGING": False,
            "APIKEY_USAGE_FLUSH_INTERVAL": INTERVAL,
            **settings,
        }
        self._uri = uri
        self.key = self._issue_key().key

    def serving(self, *arguments: str) -> AbstractContextManager[Server]:
        """Start a server: Python with these arguments."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FLASK_", "COUNTED_"))}
        path = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
        settings = {f"COUNTED_{name}": json.dumps(value) for name, value in self._settings.items()}
        return running([sys.executable, *arguments], self._directory, {**inherited, "PYTHONPATH": path, **settings})

    def by_endpoint(self, outcome: UsageOutcome = UsageOutcome.ACCEPTED) -> dict[str | int, int]:
        """Return the stored counts by endpoint."""
        with closing(backend_for(self._uri)) as backend:
            assert backend.usage is not None
            return dict(backend.usage.sum(UsageField.ENDPOINT, UsageFilter(outcome=outcome)))

    def _issue_key(self) -> IssuedKey:
        app = Flask(__name__)
        app.config.update(self._settings)
        api_keys = APIKeys(app)
        with app.app_context():
            api_keys.init_storage()
            issued = api_keys.create(name="ci", **self.attributes)
        app.extensions["apikey"].close()
        return issued


@pytest.fixture(params=["SQLite", "MongoDB wire server", *named_servers(POSTGRESQL, MYSQL, MONGODB)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "SQLite":
        yield f"sqlite:///{tmp_path / 'keys.db'}"
    elif request.param == "MongoDB wire server":
        yield emptied(request.getfixturevalue("wire_server").uri)
    elif request.param == MONGODB:
        yield emptied(os.environ[MONGODB])
    else:
        with new_database(request.param) as uri:
            yield uri


@pytest.fixture(autouse=True)
def _no_control_socket(tmp_path: Path) -> None:
    # Newer versions of gunicorn create one in the home directory.
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")


def test_sync_survives_killed_workers(uri: str, tmp_path: Path) -> None:
    counted = CountedApp(uri, tmp_path, APIKEY_USAGE="sync")
    with counted.serving(*THREADS) as server, Clients(server, counted.key) as clients:
        clients.wait_for(REQUESTS // 4)
        kill_workers(server)
        clients.wait_for(REQUESTS // 8)
    by_endpoint = counted.by_endpoint()
    assert sum(clients.unanswered.values()) > 0
    for rule, answered in clients.answered.items():
        assert answered <= by_endpoint[rule] <= answered + clients.unanswered[rule]


def test_buffered_counts_that_were_flushed_survive_a_kill(uri: str, tmp_path: Path) -> None:
    counted = CountedApp(uri, tmp_path)
    with counted.serving(*THREADS) as server, Clients(server, counted.key, pause=PAUSE) as clients:
        clients.wait_for(CLIENTS)
        flushed = sum(clients.answered.values())
        deadline = time.monotonic() + PATIENCE
        while sum(counted.by_endpoint().values()) < flushed:
            clients.wait_for(1)
            assert time.monotonic() < deadline, "no flush"
        kill_workers(server)
        before_restart = sum(clients.answered.values())
        clients.wait_for(REQUESTS // 8)
    answered, stored = sum(clients.answered.values()), sum(counted.by_endpoint().values())
    # Up to one response per client was in flight.
    assert answered - stored <= before_restart - flushed + CLIENTS
    assert stored <= answered + sum(clients.unanswered.values())


class Outage:
    """A storage with an outage on demand.

    Attributes:
        uri: URI for the application.
    """

    uri: str

    def begin(self) -> None:
        """Begin the outage."""
        raise NotImplementedError

    def end(self) -> None:
        """End the outage."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the storage."""


class LockedFile(Outage):
    """Outage of SQLite, which has no server: a lock held by another connection."""

    def __init__(self, path: Path) -> None:
        self.uri = f"sqlite:///{path}"
        self._path = path

    def begin(self) -> None:
        self._connection = sqlite3.connect(self._path)
        self._connection.execute("BEGIN EXCLUSIVE")

    def end(self) -> None:
        self._connection.close()


class KilledServer(Outage):
    """Outage of a server that is killed and restarted."""

    def __init__(self, directory: Path) -> None:
        self._server = WireServer(directory)
        self._server.start()
        self.uri = f"{self._server.uri}?{QUICK_MONGODB}"
        self.begin, self.end, self.close = self._server.kill, self._server.start, self._server.kill


class CutTCPProxy(Outage):
    """Outage of a server whose connections are cut."""

    def __init__(self, uri: str) -> None:
        line = TCPProxy(uri)
        self.uri = f"{line.uri}?{QUICK_MONGODB}" if uri.startswith("mongodb") else line.uri
        self.begin, self.end, self.close = line.cut, line.mend, line.close


@pytest.fixture(params=["SQLite", "MongoDB wire server", *named_servers(POSTGRESQL, MYSQL, MONGODB)])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outage]:
    with ExitStack() as stack:
        if request.param == "SQLite":
            outage: Outage = LockedFile(tmp_path / "keys.db")
        elif request.param == "MongoDB wire server":
            outage = KilledServer(tmp_path)
        elif request.param == MONGODB:
            outage = CutTCPProxy(emptied(os.environ[MONGODB]))
        else:
            outage = CutTCPProxy(stack.enter_context(new_database(request.param)))
        yield stack.enter_context(closing(outage))


def test_storage_outage_neither_loses_nor_doubles(outage: Outage, tmp_path: Path) -> None:
    counted = CountedApp(outage.uri, tmp_path)
    with counted.serving(*THREADS) as server, Clients(server, counted.key, pause=PAUSE) as clients:
        clients.wait_for(REQUESTS // 2)
        outage.begin()
        threading.Event().wait(OUTAGE)
        outage.end()
        clients.wait_for(REQUESTS // 2)
    assert clients.unanswered == {}
    assert clients.refused.keys() <= {503}
    assert len(clients.answered) == ROUTES
    assert counted.by_endpoint() == clients.answered
    assert counted.by_endpoint(UsageOutcome.REFUSED) == {}


@pytest.mark.parametrize(
    ("needed", "command", "stop"),
    [
        pytest.param("gunicorn", (*GUNICORN, "--workers", "2"), signal.SIGTERM, id="gunicorn sync"),
        pytest.param("gunicorn", (*THREADS, "--preload"), signal.SIGTERM, id="gunicorn preload"),
        pytest.param(
            "gevent", (*GUNICORN, "--worker-class", "gevent", "--workers", "2"), signal.SIGTERM, id="gunicorn gevent"
        ),
        # waitress does not handle SIGTERM, which kills it.
        pytest.param("waitress", WAITRESS, signal.SIGINT, id="waitress"),
        pytest.param("pyuwsgi", (*UWSGI, *UWSGI_OPTIONS), signal.SIGTERM, id="uWSGI"),
        pytest.param(
            "pyuwsgi",
            (*UWSGI, *UWSGI_OPTIONS, "--enable-threads", "--threads", "4"),
            signal.SIGTERM,
            id="uWSGI with threads",
        ),
    ],
)
def test_servers_flush_on_stop(needed: str, command: tuple[str, ...], stop: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip(needed)
    counted = CountedApp(f"sqlite:///{tmp_path / 'keys.db'}", tmp_path)
    with counted.serving(*command) as server:
        with Clients(server, counted.key, REQUESTS // 4) as clients:
            pass
        server.stop(by=stop)
        assert sum(clients.answered.values()) == REQUESTS // 4, server.output
        assert counted.by_endpoint() == clients.answered, server.output


def kill_workers(server: Server) -> None:
    """Kill the children of the server's main process."""
    process = server.process.pid
    workers = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    assert workers
    for worker in workers:
        os.kill(int(worker), signal.SIGKILL)

"""The life of a key under gunicorn: two workers with four threads, under requests from several threads."""

import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from flask import Flask

from flask_apikey import APIKeys
from tests.support.serving import TIMEOUT, Answer, Server, Site
from tests.support.storages import MONGODB, MYSQL, POSTGRESQL, named_servers, new_database
from tests.support.wire_server import emptied

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

GUNICORN = (
    *("gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--workers", "2", "--threads", "4"),
    *("--graceful-timeout", "5", "example_app:create_app()"),
)
THREADS = 2
ENOUGH = 30
SCOPE = "catalogue:read"

NAMED_SERVERS = named_servers(POSTGRESQL, MYSQL, MONGODB)


class Traffic:
    """Requests with one key from several threads, as fast as the server answers, until exit.

    Args:
        server: The server that gets the requests.
        key: The key that they present.
    """

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._answers: list[tuple[Answer, float]] = []
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send_requests) for _ in range(THREADS)]

    def __enter__(self) -> "Traffic":  # noqa: PYI034 - typing.Self needs Python 3.11
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failure:
            raise self._failure

    def verdicts(self, *, since: float = 0, until: float = float("inf")) -> set[str]:
        """Return the verdicts on requests that began after `since` and were answered before `until`."""
        with self._changed:
            return {answer.verdict for answer, end in self._answers if since < answer.started_at and end < until}

    def wait(self) -> float:
        """Wait for answers to requests that begin after this call, and return the time of the call."""
        now = time.monotonic()
        with self._changed:
            arrived = self._changed.wait_for(lambda: self._failure or self._started_since(now) >= ENOUGH, TIMEOUT)
        if self._failure:
            raise self._failure
        assert arrived, f"no {ENOUGH} answers in {TIMEOUT} seconds"
        return now

    def _started_since(self, moment: float) -> int:
        return sum(answer.started_at > moment for answer, _ in self._answers)

    def _send_requests(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._server.get("/books", self._key)
            except (OSError, HTTPException) as exc:
                answer, self._failure = None, exc
            with self._changed:
                if answer is not None:
                    self._answers.append((answer, time.monotonic()))
                self._changed.notify_all()
            if answer is None:
                return


@pytest.fixture(params=["the database of the books", "SQLite of its own", "MongoDB wire server", *NAMED_SERVERS])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    """The storage URI of the example; None for its default."""
    if request.param == "the database of the books":
        yield None
    elif request.param == "SQLite of its own":
        yield f"sqlite:///{tmp_path / 'keys.db'}"
    elif request.param == "MongoDB wire server":
        yield emptied(request.getfixturevalue("wire_server").uri)
    else:
        with new_database(request.param) as uri:
            yield uri


@pytest.fixture
def site(uri: str | None, fernet_key: str, tmp_path: Path) -> Site:
    environment = {
        "FLASK_APIKEY_FERNET_KEY": fernet_key,
        "FLASK_APIKEY_ENFORCE_HTTPS": "false",
        # The replaced secrets are sent more often than a client may fail.
        "FLASK_APIKEY_FAILURE_LIMIT": "null",
    }
    site = Site(tmp_path, {**environment, **({"FLASK_APIKEY_STORAGE_URI": uri} if uri else {})})
    # Newer versions of gunicorn put a control socket into the home directory of the user otherwise.
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    site.flask("catalogue", "init")
    return site


@pytest.fixture
def operator(site: Site, uri: str | None, make_app: Callable[..., Flask]) -> Iterator[APIKeys]:
    """The keys of the example, managed in the process of the tests."""
    app = make_app(APIKEY_STORAGE_URI=uri or f"sqlite:///{site.instance / 'catalogue.db'}")
    api_keys = APIKeys(app)
    with app.app_context():
        api_keys.init_storage()
        yield api_keys


def test_verdicts_during_create_roll_and_revoke(site: Site, operator: APIKeys) -> None:
    with site.serving(*GUNICORN) as server:
        bystander = operator.create(name="bystander", scopes=[SCOPE])
        with Traffic(server, bystander.key) as untouched:
            created = operator.create(name="ci", scopes=[SCOPE])
            key_id = created.record.id
            with Traffic(server, created.key) as first:
                first.wait()

                rolled = operator.roll(key_id, grace="24h")
                with Traffic(server, rolled.key) as second:
                    second.wait()
                    first.wait()

                    before_roll = time.monotonic()
                    rolled_again = operator.roll(key_id)
                    after_roll = first.wait()
                    second.wait()
                    assert first.verdicts(until=before_roll) == {"ok"}
                    assert second.verdicts(until=before_roll) == {"ok"}
                    assert first.verdicts(since=after_roll) == {"invalid_key"}
                    assert second.verdicts(since=after_roll) == {"invalid_key"}

                with Traffic(server, rolled_again.key) as third:
                    third.wait()
                    before_revocation = time.monotonic()
                    operator.revoke(key_id)
                    after_revocation = third.wait()
                    assert third.verdicts(until=before_revocation) == {"ok"}
                    assert third.verdicts(since=after_revocation) == {"key_revoked"}
                    assert third.verdicts() == {"ok", "key_revoked"}
            untouched.wait()
        assert untouched.verdicts() == {"ok"}

"""The life of a key under gunicorn: two worker processes of four threads, asked from several threads all the while."""

import os
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.support.serving import TIMEOUT, Answer, Server, Site
from tests.support.storages import MONGODB, MYSQL, POSTGRESQL, named_servers, new_database
from tests.support.wire_server import emptied

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

GUNICORN = (
    *("gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--workers", "2", "--threads", "4"),
    *("--graceful-timeout", "5", "example_app:create_app()"),
)
THREADS = 2
A_WHILE = 30

ASKED_FOR = named_servers(POSTGRESQL, MYSQL, MONGODB)


class Traffic:
    """Requests with one key from several threads, as fast as they are answered, until it is left.

    Args:
        server: Who is asked.
        key: The key.
    """

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._answers: list[Answer] = []
        self._failure: Exception | None = None
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(THREADS)]

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
        """What became of the requests that were begun between two moments."""
        with self._news:
            return {answer.verdict for answer in self._answers if since < answer.asked_at < until}

    def go_on(self) -> float:
        """Return when requests that were begun after this call are answered; gives the moment of the call."""
        now = time.monotonic()
        with self._news:
            came = self._news.wait_for(lambda: self._failure or self._begun_since(now) >= A_WHILE, TIMEOUT)
        if self._failure:
            raise self._failure
        assert came, f"no {A_WHILE} answers in {TIMEOUT} seconds"
        return now

    def _begun_since(self, moment: float) -> int:
        return sum(answer.asked_at > moment for answer in self._answers)

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._server.get("/books", self._key)
            except (OSError, HTTPException) as exc:
                answer, self._failure = None, exc
            with self._news:
                if answer is not None:
                    self._answers.append(answer)
                self._news.notify_all()
            if answer is None:
                return


@pytest.fixture(params=["the database of the books", "SQLite of its own", "MongoDB wire server", *ASKED_FOR])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that tells the example where to keep its keys; a SQL server gets a new database for it."""
    if request.param == "the database of the books":
        yield {}
    elif request.param == "SQLite of its own":
        yield {"FLASK_APIKEY_STORAGE_URI": f"sqlite:///{tmp_path / 'keys.db'}"}
    elif request.param == "MongoDB wire server":
        yield {"FLASK_APIKEY_STORAGE_URI": emptied(request.getfixturevalue("wire_server").uri)}
    elif request.param == MONGODB:
        yield {"FLASK_APIKEY_STORAGE_URI": emptied(os.environ[MONGODB])}
    else:
        with new_database(request.param) as uri:
            yield {"FLASK_APIKEY_STORAGE_URI": uri}


@pytest.fixture
def site(storage: dict[str, str], tmp_path: Path) -> Site:
    environment = {"FLASK_APIKEY_FERNET_KEY": Fernet.generate_key().decode(), "FLASK_APIKEY_ENFORCE_HTTPS": "false"}
    site = Site(tmp_path, {**environment, **storage})
    # Or newer versions of gunicorn would put a socket into the home directory of whoever runs the tests.
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    site.flask("catalogue", "init")
    site.flask("apikey", "init")
    return site


def test_valid_keys_pass_and_ended_ones_do_not_while_keys_are_made_rolled_and_revoked(site: Site) -> None:
    with site.serving(*GUNICORN) as server:
        bystander = site.apikey("create", "bystander", "--scope", "catalogue:read")
        with Traffic(server, bystander["key"]) as untouched:
            created = site.apikey("create", "ci", "--scope", "catalogue:read")
            with Traffic(server, created["key"]) as first:
                first.go_on()

                rolled = site.apikey("roll", created["id"], "--grace", "24h")
                with Traffic(server, rolled["key"]) as second:
                    second.go_on()
                    first.go_on()

                    before_roll = time.monotonic()
                    rolled_again = site.apikey("roll", created["id"], "--grace", "0s", "--yes")
                    after_roll = first.go_on()
                    second.go_on()
                    assert first.verdicts(until=before_roll) == {"ok"}
                    assert second.verdicts(until=before_roll) == {"ok"}
                    assert first.verdicts(since=after_roll) == {"invalid_key"}
                    assert second.verdicts(since=after_roll) == {"invalid_key"}

                with Traffic(server, rolled_again["key"]) as third:
                    third.go_on()
                    before_revocation = time.monotonic()
                    site.flask("apikey", "revoke", created["id"], "--yes")
                    after_revocation = third.go_on()
                    assert third.verdicts(until=before_revocation) == {"ok"}
                    assert third.verdicts(since=after_revocation) == {"key_revoked"}
                    assert third.verdicts() == {"ok", "key_revoked"}
            untouched.go_on()
        assert untouched.verdicts() == {"ok"}

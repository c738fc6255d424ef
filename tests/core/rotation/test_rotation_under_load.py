"""Rotations of the Fernet key under load, killed, and concurrent with each other and with changes of keys.

FLASK_APIKEY_TEST_ROTATED_KEYS sets the number of keys, and FLASK_APIKEY_TEST_ROTATION_KILLS how often a run is killed.
From 10,000 keys on, nothing waits: clients send requests without a pause, and runs have no rate.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone

import pytest
from flask import Flask

from flask_apikey import APIKeys, StorageError
from flask_apikey.core.keys.authenticator import Authenticator, Verdict
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.model import keystring
from flask_apikey.core.model.history import CREATED, LifecycleEvent
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.sealed_rows import sealed_row
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, digest
from flask_apikey.core.rotation.status import RotationStage
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey.core.storage.registry import backend_for
from tests.core.rotation.conftest import DAY, NEW, NEW_PRINT, OLD
from tests.support.serving import TIMEOUT, Site
from tests.support.storages import MONGODB, POSTGRESQL, named_servers, new_database
from tests.support.stored import all_keys
from tests.support.wire_server import emptied

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

KEYS = int(os.environ.get("FLASK_APIKEY_TEST_ROTATED_KEYS", "200"))
KILLS = int(os.environ.get("FLASK_APIKEY_TEST_ROTATION_KILLS", "2"))
IS_FULL_SIZE = KEYS >= 10_000
RATE = () if IS_FULL_SIZE else ("--rate", str(KEYS // 2))
# Slow enough to leave keys for every kill, even when the storage answers late.
RATE_WHEN_KILLED = ("--rate", str(max(1, KEYS // (4 * KILLS))))
CLIENTS = 4 if IS_FULL_SIZE else 2
PATIENCE = 1800 if IS_FULL_SIZE else TIMEOUT
BETWEEN_REQUESTS = 0 if IS_FULL_SIZE else 0.03
BETWEEN_CHANGES = 0.02 if IS_FULL_SIZE else 0.1

GUNICORN = (
    *("gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--workers", "2", "--threads", "4"),
    *("--graceful-timeout", "30", "example_app:create_app()"),
)
GUNICORN_SETTINGS = """
control_socket_disable = True

def post_worker_init(worker):
    worker.log.info("Ready with pid: %s", worker.pid)
"""
REQUESTS_BETWEEN_STEPS = 20
SCOPE = "catalogue:read"
ROTATED = FernetKeyring(NEW)
"""Fernet keys after the rotation."""


@pytest.fixture(params=["SQLite", "MongoDB", *named_servers(POSTGRESQL)])
def uri(request, tmp_path):
    """URI of an empty storage."""
    if request.param == "SQLite":
        yield f"sqlite:///{tmp_path / 'keys.db'}"
    elif request.param == "MongoDB":
        yield emptied(os.environ.get(MONGODB) or request.getfixturevalue("wire_server").uri)
    else:
        with new_database(request.param) as uri:
            yield uri


@pytest.fixture
def backend(uri):
    with closing(backend_for(uri)) as backend:
        backend.init_storage()
        yield backend


@pytest.fixture
def issued(backend):
    """Key strings by id, of keys sealed under the old Fernet key."""
    ring = FernetKeyring(OLD)
    issued_at = datetime.now(timezone.utc) - DAY
    issued, stored, events = {}, [], []
    for number in range(KEYS):
        at = issued_at + timedelta(microseconds=number)
        record = APIKey(
            id=keystring.new_id(),
            prefix="fak",
            name=f"key {number}",
            scopes=frozenset({SCOPE}),
            created_at=at,
            updated_at=at,
        )
        issued[record.id] = keystring.mint("fak", record.id)
        events.append(LifecycleEvent(key_id=record.id, number=1, at=at, event=CREATED))
        stored.append(sealed_row(record, events[-1].hash, SealedSecrets((digest(issued[record.id]),)), ring))
    for start in range(0, KEYS, 1000):
        page = slice(start, start + 1000)
        backend.add_many(stored[page], events=events[page])
    return issued


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN_SETTINGS)
    site.instance.mkdir()
    return site


class Credential:
    """A key string, and the verdict expected on it."""

    def __init__(self, key):
        self.key = key
        self.verdict = "ok"
        self.changed_at = None
        self._is_changing = False

    def allowed(self, begun_at):
        """Return the verdicts allowed on a request that began at a moment and was answered just now."""
        if self.changed_at is not None and begun_at > self.changed_at:
            return {self.verdict}
        return {"ok", self.verdict} if self._is_changing else {"ok"}

    @contextmanager
    def changing_to(self, verdict):
        self.verdict = verdict
        self._is_changing = True
        yield
        self.changed_at = time.monotonic()


class Background:
    """Threads that repeat a step inside a ``with`` block. A failed step fails the test."""

    threads = 1

    def __enter__(self):
        self._stop = threading.Event()
        self.failure = None
        self._threads = [threading.Thread(target=self._repeat) for _ in range(self.threads)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.failure is not None and exc_info[0] is None:
            raise self.failure

    def _repeat(self):
        try:
            while not self._stop.is_set():
                self.step()
        except Exception as exc:  # noqa: BLE001 - raised again in the thread of the test
            self.failure = exc


class Traffic(Background):
    """Requests with random keys, each compared with the expected verdict."""

    threads = CLIENTS

    def __init__(self, server, credentials):
        self._server = server
        self._credentials = credentials
        self._answered = threading.Condition()
        self.verdicts = Counter()
        self.wrong = []

    def step(self):
        credential = random.choice(self._credentials)  # noqa: S311 - selects a key, makes no secret
        answer = self._server.get("/books", credential.key)
        is_right = answer.verdict in credential.allowed(answer.started_at)
        with self._answered:
            self.verdicts[answer.verdict] += 1
            if not is_right:
                self.wrong.append((answer.verdict, credential.verdict, answer.body))
            self._answered.notify_all()
        self._stop.wait(BETWEEN_REQUESTS)

    def wait(self):
        """Wait until a number of requests was answered."""
        with self._answered:
            total = self.verdicts.total() + REQUESTS_BETWEEN_STEPS
            done = self._answered.wait_for(lambda: self.failure or self.verdicts.total() >= total, PATIENCE)
        if self.failure is not None:
            raise self.failure
        assert done, f"fewer than {REQUESTS_BETWEEN_STEPS} answers in {PATIENCE} seconds"


class Operator(Background):
    """A process that creates, updates, rolls and revokes keys, each key once."""

    def __init__(self, settings, issued, credentials):
        self._between_changes = threading.Lock()
        self._credentials = credentials
        self._credential_of = dict(zip(issued, credentials, strict=True))
        self._unchanged = random.sample(list(issued), len(issued) // 2)
        self._changes = itertools.cycle([self._create, self._roll, self._revoke, self._update, self._replace])
        self.changes = Counter()
        self._start(settings)

    def step(self):
        change = next(self._changes)
        with self._between_changes, self._app.app_context():
            if change == self._create:
                change()
            elif self._unchanged:
                change(self._unchanged.pop())
        self.changes[change.__name__.strip("_")] += 1
        self._stop.wait(BETWEEN_CHANGES)

    def restart(self, settings):
        with self._between_changes:
            self.close()
            self._start(settings)

    def close(self):
        self._app.extensions["apikey"].close()

    def _start(self, settings):
        self._app = Flask("operator")
        self._app.config.update(settings)
        self._api_keys = APIKeys(self._app)

    def _create(self):
        self._credentials.append(Credential(self._api_keys.create(name="new", scopes=[SCOPE]).key))

    def _update(self, key_id):
        self._api_keys.update(key_id, name="renamed")

    def _roll(self, key_id):
        self._credentials.append(Credential(self._api_keys.roll(key_id, grace=DAY).key))

    def _replace(self, key_id):
        with self._credential_of[key_id].changing_to("invalid_key"):
            rolled = self._api_keys.roll(key_id)
        self._credentials.append(Credential(rolled.key))

    def _revoke(self, key_id):
        with self._credential_of[key_id].changing_to("key_revoked"):
            self._api_keys.revoke(key_id)


class Deployment:
    """Two workers of gunicorn and an operator, restarted one after another."""

    def __init__(self, site, uri):
        self._site = site
        self._uri = uri

    def configure(self, primary, *fallbacks):
        settings = {
            "APIKEY_FERNET_KEY": primary,
            "APIKEY_FERNET_KEY_FALLBACKS": fallbacks,
            "APIKEY_STORAGE_URI": self._uri,
            "APIKEY_ENFORCE_HTTPS": False,
        }
        (self._site.instance / "config.json").write_text(json.dumps(settings))
        return settings

    def roll_out(self, server, operator, traffic, primary, *fallbacks):
        settings = self.configure(primary, *fallbacks)
        first, second = self.workers(server)
        self._restart_worker(server, first)
        traffic.wait()
        operator.restart(settings)
        traffic.wait()
        self._restart_worker(server, second)
        traffic.wait()

    def workers(self, server):
        """Return the process ids of the two latest workers."""
        wait_for(lambda: len(self._ready(server)) >= 2)
        return self._ready(server)[-2:]

    def _restart_worker(self, server, process_id):
        number = len(self._ready(server))
        os.kill(process_id, signal.SIGTERM)
        wait_for(lambda: len(self._ready(server)) > number)

    def _ready(self, server):
        return [int(process_id) for process_id in re.findall(r"Ready with pid: (\d+)", server.output)]


def wait_for(condition):
    begun = time.monotonic()
    deadline = begun + PATIENCE
    while not condition():
        elapsed = time.monotonic() - begun
        assert time.monotonic() < deadline
        # A slow storage must have time for the other processes.
        time.sleep(max(0.01, elapsed))
        begun = time.monotonic()


def start_run(site, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "example_app", "apikey", "rotation", "run", "--json", *options],
        cwd=site.directory,
        env=site.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def verdicts_on(backend, ring, keys):
    authenticator = Authenticator(backend, ring)
    return [authenticator.authenticate(Credentials(key), None).verdict for key in keys]


def seals_under_new(backend):
    return {key.record.id: key.seal.token for key in all_keys(backend) if key.seal.fingerprint == NEW_PRINT}


def count_under_new(backend):
    """Return the number of keys sealed under the new Fernet key; 0 while the storage is too busy to answer."""
    with suppress(StorageError):
        return backend.rotation.count_seals().get(NEW_PRINT, 0)
    return 0


@pytest.fixture
def promoted(site, uri, backend, issued):
    """The rotation as a promoted process sees it, started and configured for commands."""
    Deployment(site, uri).configure(NEW, OLD)
    FernetRotation(backend, FernetKeyring(OLD, [NEW])).start()
    return FernetRotation(backend, FernetKeyring(NEW, [OLD]))


def test_rotation_under_load(site, uri, backend, issued):
    deployment = Deployment(site, uri)
    credentials = [Credential(key) for key in issued.values()]
    operator = Operator(deployment.configure(OLD), issued, credentials)
    site.flask("catalogue", "init")
    with closing(operator), site.serving(*GUNICORN) as server:
        deployment.workers(server)
        with Traffic(server, credentials) as traffic:
            traffic.wait()
            with operator:
                deployment.roll_out(server, operator, traffic, OLD, NEW)
                assert site.apikey("rotation", "start")["stage"] == "started"
                deployment.roll_out(server, operator, traffic, NEW, OLD)
                report = site.apikey("rotation", "run", *RATE)
                traffic.wait()
                assert report["remaining"] == 0
                assert report["resealed"] > KEYS // 3
                assert site.apikey("rotation", "finish")["stage"] == "finished"
                deployment.roll_out(server, operator, traffic, NEW)
            traffic.wait()
        assert traffic.wrong == []
        assert set(operator.changes) == {"create", "roll", "revoke", "update", "replace"}
        codes = {Verdict.ACCEPTED: "ok", Verdict.WRONG_SECRET: "invalid_key", Verdict.REVOKED: "key_revoked"}
        verdicts = verdicts_on(backend, ROTATED, [each.key for each in credentials])
        assert [codes[verdict] for verdict in verdicts] == [each.verdict for each in credentials]
        assert backend.rotation.count_seals() == {NEW_PRINT: KEYS + operator.changes["create"]}
        assert FernetRotation(backend, ROTATED).status().stage is RotationStage.NONE
    print(f"{traffic.verdicts.total()} requests, {dict(traffic.verdicts)}; changes: {dict(operator.changes)}")  # noqa: T201 - shown by -rP


def test_killed_runs_lose_nothing_and_reseal_nothing_twice(site, backend, issued, promoted):
    def settled_seals():
        """Return seals and status once the server has finished the statements of killed clients."""
        while True:
            before, status, after = seals_under_new(backend), promoted.status(), seals_under_new(backend)
            if before == after:
                return after, status

    sealed = {}
    for killed in range(KILLS):
        share = max(1, (KEYS - len(sealed)) // (KILLS - killed + 1))
        enough = len(sealed) + random.randint(1, share)  # noqa: S311 - the moment of the kill
        run = start_run(site, *RATE_WHEN_KILLED)
        wait_for(lambda run=run, enough=enough: count_under_new(backend) >= enough or run.poll() is not None)
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL, "the run ended before the kill: raise the number of keys"
        before, (sealed, status) = sealed, settled_seals()
        assert len(sealed) >= enough
        assert before.items() <= sealed.items()
        remaining = KEYS - len(sealed)
        stage = RotationStage.PROMOTED if remaining else RotationStage.RESEALED
        assert (status.stage, status.remaining) == (stage, remaining)
    assert set(verdicts_on(backend, FernetKeyring(NEW, [OLD]), issued.values())) == {Verdict.ACCEPTED}
    report = site.apikey("rotation", "run")
    assert (report["resealed"], report["remaining"]) == (KEYS - len(sealed), 0)
    assert sealed.items() <= seals_under_new(backend).items()
    assert promoted.finish().remaining == 0
    assert set(verdicts_on(backend, ROTATED, issued.values())) == {Verdict.ACCEPTED}

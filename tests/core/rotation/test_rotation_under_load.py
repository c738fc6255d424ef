"""Rotations of the Fernet key while everything goes on, and while they are killed, doubled and interfered with.

FLASK_APIKEY_TEST_ROTATED_KEYS says how many keys are rotated, and FLASK_APIKEY_TEST_ROTATION_KILLS how often a run
is killed. From 10,000 keys on nothing waits: clients ask as fast as they are answered, and runs have no rate.
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
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone

import pytest
from flask import Flask

from flask_apikey import APIKeys, StorageError
from flask_apikey.core.keys.authenticator import Authenticator, Verdict
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.model import keystring
from flask_apikey.core.model.keys import APIKey, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, digest, generate_fernet_key
from flask_apikey.core.rotation.status import RotationStage
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey.core.storage.contract import backend_for
from tests.support.serving import TIMEOUT, Site
from tests.support.storages import MONGODB, POSTGRESQL, named_servers, new_database
from tests.support.wire_server import emptied, running_wire_server

pytestmark = pytest.mark.load

KEYS = int(os.environ.get("FLASK_APIKEY_TEST_ROTATED_KEYS", "200"))
KILLS = int(os.environ.get("FLASK_APIKEY_TEST_ROTATION_KILLS", "2"))
IS_FULL_SIZE = KEYS >= 10_000
RATE = () if IS_FULL_SIZE else ("--rate", str(KEYS // 2))
# So slow that keys are left for every kill, however late a storage tells how many are done.
RATE_WHEN_KILLED = ("--rate", str(max(1, KEYS // (4 * KILLS))))
CLIENTS = 4 if IS_FULL_SIZE else 2
PATIENCE = 1800 if IS_FULL_SIZE else TIMEOUT
BETWEEN_REQUESTS = 0 if IS_FULL_SIZE else 0.01
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
A_WHILE = 20
DAY = timedelta(days=1)
SCOPE = "catalogue:read"


@pytest.fixture(scope="module")
def wire_server(tmp_path_factory):
    with running_wire_server(tmp_path_factory.mktemp("mongodb")) as server:
        yield server


@pytest.fixture(params=["SQLite", "MongoDB", *named_servers(POSTGRESQL)])
def uri(request, tmp_path):
    """The URI of an empty storage."""
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
def old():
    return generate_fernet_key()


@pytest.fixture
def new():
    return generate_fernet_key()


@pytest.fixture
def issued(backend, old):
    """Key strings by id, of keys that were issued long before."""
    ring = FernetKeyring(old)
    began = datetime.now(timezone.utc) - DAY
    issued, stored = {}, []
    for number in range(KEYS):
        made = began + timedelta(microseconds=number)
        record = APIKey(
            id=keystring.new_id(), prefix="fak", name=f"key {number}", scopes={SCOPE}, created_at=made, updated_at=made
        )
        issued[record.id] = keystring.mint("fak", record.id)
        stored.append(StoredKey(record, ring.seal(SealedSecrets((digest(issued[record.id]),)))))
    for start in range(0, KEYS, 1000):
        backend.add_many(stored[start : start + 1000])
    return issued


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN_SETTINGS)
    site.instance.mkdir()
    return site


class Credential:
    """A key string and what is to become of it."""

    def __init__(self, key):
        self.key = key
        self.verdict = "ok"
        self.changing_at = self.changed_at = None

    def allowed(self, begun):
        """The verdicts on a request that was begun at a moment and has just been answered."""
        if self.changing_at is None:
            return {"ok"}
        if self.changed_at is not None and begun > self.changed_at:
            return {self.verdict}
        return {"ok", self.verdict}

    def changes_to(self, verdict):
        self.verdict = verdict
        self.changing_at = time.monotonic()

    def has_changed(self):
        self.changed_at = time.monotonic()


class Background:
    """Something that is done again and again in threads until it is left; a failure there is one of the test."""

    threads = 1

    def __enter__(self):
        self._stop = threading.Event()
        self.failure = None
        self._threads = [threading.Thread(target=self._go_on) for _ in range(self.threads)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.failure is not None and exc_info[0] is None:
            raise self.failure

    def _go_on(self):
        try:
            while not self._stop.is_set():
                self.step()
        except Exception as exc:  # noqa: BLE001 - it is raised where the test waits
            self.failure = exc


class Traffic(Background):
    """Requests with keys that are drawn at random, each judged by what it should be answered."""

    threads = CLIENTS

    def __init__(self, server, credentials):
        self._server = server
        self._credentials = credentials
        self._news = threading.Condition()
        self.verdicts = Counter()
        self.wrong = []

    def step(self):
        credential = random.choice(self._credentials)  # noqa: S311 - which key is presented, not what it is
        answer = self._server.get("/books", credential.key)
        is_right = answer.verdict in credential.allowed(answer.asked_at)
        with self._news:
            self.verdicts[answer.verdict] += 1
            if not is_right:
                self.wrong.append((answer.verdict, credential.verdict, answer.body))
            self._news.notify_all()
        self._stop.wait(BETWEEN_REQUESTS)

    def go_on(self):
        """Return when a number of requests was answered after this call."""
        with self._news:
            wanted = self.verdicts.total() + A_WHILE
            done = self._news.wait_for(lambda: self.failure or self.verdicts.total() >= wanted, PATIENCE)
        if self.failure is not None:
            raise self.failure
        assert done, f"no {A_WHILE} answers in {PATIENCE} seconds"


class Operator(Background):
    """A process of the deployment in which keys are created, changed, rolled and revoked."""

    def __init__(self, settings, issued, credentials):
        self._between_changes = threading.Lock()
        self._credentials = credentials
        self._of = dict(zip(issued, credentials, strict=True))
        self._untouched = iter(random.sample(list(issued), len(issued) // 2))
        self._changes = itertools.cycle([self._create, self._roll, self._revoke, self._update, self._replace])
        self.changes = Counter()
        self._start(settings)

    def step(self):
        change = next(self._changes)
        with self._between_changes, self._app.app_context():
            change()
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

    def _update(self):
        for key_id in itertools.islice(self._untouched, 1):
            self._api_keys.update(key_id, name="renamed")

    def _roll(self):
        for key_id in itertools.islice(self._untouched, 1):
            self._credentials.append(Credential(self._api_keys.roll(key_id, grace=DAY).key))

    def _replace(self):
        for key_id in itertools.islice(self._untouched, 1):
            self._of[key_id].changes_to("invalid_key")
            rolled = self._api_keys.roll(key_id)
            self._of[key_id].has_changed()
            self._credentials.append(Credential(rolled.key))

    def _revoke(self):
        for key_id in itertools.islice(self._untouched, 1):
            self._of[key_id].changes_to("key_revoked")
            self._api_keys.revoke(key_id)
            self._of[key_id].has_changed()


class Deployment:
    """Two workers of gunicorn and an operator, which are restarted one after another."""

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
        one, other = self.workers(server)
        self._restart_worker(server, one)
        traffic.go_on()
        operator.restart(settings)
        traffic.go_on()
        self._restart_worker(server, other)
        traffic.go_on()

    def workers(self, server):
        """The process ids of the two workers that started last."""
        wait_for(lambda: len(self._ready(server)) >= 2)
        return self._ready(server)[-2:]

    def _restart_worker(self, server, process_id):
        before = len(self._ready(server))
        os.kill(process_id, signal.SIGTERM)
        wait_for(lambda: len(self._ready(server)) > before)

    def _ready(self, server):
        return [int(process_id) for process_id in re.findall(r"Ready with pid: (\d+)", server.output)]


def wait_for(condition):
    begun = time.monotonic()
    deadline = begun + PATIENCE
    while not condition():
        asked_for = time.monotonic() - begun
        assert time.monotonic() < deadline
        # A storage that is slow to answer is to have time for the others.
        time.sleep(max(0.01, asked_for))
        begun = time.monotonic()


def test_no_client_notices_a_rotation_under_load(site, uri, backend, issued, old, new):
    deployment = Deployment(site, uri)
    credentials = [Credential(key) for key in issued.values()]
    operator = Operator(deployment.configure(old), issued, credentials)
    site.flask("catalogue", "init")
    with closing(operator), site.serving(*GUNICORN) as server:
        deployment.workers(server)
        with Traffic(server, credentials) as traffic:
            traffic.go_on()
            with operator:
                deployment.roll_out(server, operator, traffic, old, new)
                assert site.apikey("rotation", "start")["stage"] == "started"
                deployment.roll_out(server, operator, traffic, new, old)
                report = report_of(start_run(site, *RATE))
                traffic.go_on()
                assert report["remaining"] == 0
                assert report["resealed"] > KEYS // 3
                assert site.apikey("rotation", "finish")["stage"] == "finished"
                deployment.roll_out(server, operator, traffic, new)
            traffic.go_on()
        assert traffic.wrong == []
        assert set(operator.changes) == {"create", "roll", "revoke", "update", "replace"}
        assert [each.verdict for each in credentials] == list(codes_on(backend, FernetKeyring(new), credentials))
        assert dict(backend.count_seals()) == {FernetKeyring(new).fingerprint: KEYS + operator.changes["create"]}
        assert FernetRotation(backend, FernetKeyring(new)).status().stage is RotationStage.NONE
    print(f"{traffic.verdicts.total()} requests, {dict(traffic.verdicts)}; changes: {dict(operator.changes)}")  # noqa: T201


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


def report_of(run):
    printed, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0
    return json.loads(printed)


@pytest.fixture
def promoted(site, uri, backend, issued, old, new):
    """What a process has that was promoted, once the rotation is started."""
    Deployment(site, uri).configure(new, old)
    FernetRotation(backend, FernetKeyring(old, [new])).start()
    ring = FernetKeyring(new, [old])
    return FernetRotation(backend, ring)


def codes_on(backend, ring, credentials):
    codes = {Verdict.ACCEPTED: "ok", Verdict.WRONG_SECRET: "invalid_key", Verdict.REVOKED: "key_revoked"}
    authenticator = Authenticator(backend, ring)
    return (codes[authenticator.authenticate(Credentials(each.key), None).verdict] for each in credentials)


def verdicts_on(backend, ring, keys):
    authenticator = Authenticator(backend, ring)
    return {authenticator.authenticate(Credentials(key), None).verdict for key in keys}


def seals_under(backend, fingerprint):
    return {key.record.id: key.seal.token for key in backend.all_keys() if key.seal.fingerprint == fingerprint}


def number_under(backend, fingerprint):
    """How many keys are sealed under a Fernet key, as far as a storage says that is busy with more important things."""
    with suppress(StorageError):
        return backend.count_seals().get(fingerprint, 0)
    return 0


def settled(backend, fingerprint, rotation):
    """What is sealed under a Fernet key, and the status: a server still carries out what the dead have sent."""
    while True:
        before, status, after = seals_under(backend, fingerprint), rotation.status(), seals_under(backend, fingerprint)
        if before == after:
            return after, status


def test_a_run_that_is_killed_again_and_again_loses_nothing_and_seals_nothing_twice(
    site, backend, issued, promoted, old, new
):
    target = FernetKeyring(new).fingerprint
    sealed = {}
    killed = 0
    while killed < KILLS:
        left = KEYS - len(sealed)
        at_most = max(1, left // (KILLS - killed + 1))
        enough = len(sealed) + random.randint(1, at_most)  # noqa: S311 - when it is killed
        run = start_run(site, *RATE_WHEN_KILLED)
        wait_for(lambda run=run, enough=enough: number_under(backend, target) >= enough or run.poll() is not None)
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL, "there are too few keys to kill it so often"
        killed += 1
        now, status = settled(backend, target, promoted)
        assert len(now) >= enough
        assert sealed.items() <= now.items()
        sealed = now
        assert (status.stage, status.remaining) == (
            RotationStage.PROMOTED if len(sealed) < KEYS else RotationStage.RESEALED,
            KEYS - len(sealed),
        )
    assert verdicts_on(backend, FernetKeyring(new, [old]), issued.values()) == {Verdict.ACCEPTED}
    report = report_of(start_run(site))
    assert (report["resealed"], report["remaining"]) == (KEYS - len(sealed), 0)
    assert sealed.items() <= seals_under(backend, target).items()
    assert promoted.finish().remaining == 0
    assert verdicts_on(backend, FernetKeyring(new), issued.values()) == {Verdict.ACCEPTED}


def test_two_runs_at_once_and_a_roll_of_every_key_meanwhile(site, uri, backend, issued, promoted, old, new):
    app = Flask("operator")
    app.config.update(APIKEY_FERNET_KEY=new, APIKEY_FERNET_KEY_FALLBACKS=[old], APIKEY_STORAGE_URI=uri)
    api_keys = APIKeys(app)
    with_grace, without_grace, latest = [], [], []
    runs = [start_run(site, *RATE) for _ in range(2)]
    target = FernetKeyring(new).fingerprint
    wait_for(lambda: number_under(backend, target) > 0)
    with app.app_context():
        for number, key_id in enumerate(random.sample(list(issued), len(issued))):
            grace = DAY if number % 2 else timedelta(0)
            latest.append(api_keys.roll(key_id, grace=grace).key)
            (with_grace if grace else without_grace).append(issued[key_id])
    app.extensions["apikey"].close()
    reports = [report_of(run) for run in runs]
    assert [report["remaining"] for report in reports] == [0, 0]
    assert sum(report["resealed"] for report in reports) <= KEYS
    assert dict(backend.count_seals()) == {target: KEYS}
    alone = FernetKeyring(new)
    assert verdicts_on(backend, alone, latest) == {Verdict.ACCEPTED}
    assert verdicts_on(backend, alone, with_grace) == {Verdict.ACCEPTED}
    assert verdicts_on(backend, alone, without_grace) == {Verdict.WRONG_SECRET}
    assert {key.record.version for key in backend.all_keys()} == {2}

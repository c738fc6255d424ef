"""Responses to clients at each stage of a rotation; docs/guides/rotation.rst has a table of them."""

import logging
from datetime import timedelta

import pytest

from flask_apikey import APIKeys, require_api_key
from flask_apikey.core.model.keystring import checksum
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key

OLD, NEW = generate_fernet_key(), generate_fernet_key()
OLD_PRINT, NEW_PRINT = (FernetKeyring(key).fingerprint for key in (OLD, NEW))
HOUR = timedelta(hours=1)

at_every_stage = pytest.mark.parametrize(
    "steps", [(), ("start",), ("start", "run"), ("start", "run", "finish")], ids=["before", "start", "run", "finish"]
)


class Worker:
    """Process of a deployment on a shared storage."""

    def __init__(self, app, clock):
        self.app = app
        self.api_keys = APIKeys(app, clock=clock)

        @app.get("/")
        @require_api_key
        def view():
            return "ok"

    def answer(self, key):
        return self.app.test_client().get("/", headers={"Authorization": f"Api-Key {key}"})

    def code(self, key):
        answer = self.answer(key)
        return "ok" if answer.status_code == 200 else answer.json["code"]

    def create(self, **attributes):
        with self.app.app_context():
            return self.api_keys.create(name="ci", **attributes)

    def roll(self, key_id, **options):
        with self.app.app_context():
            return self.api_keys.roll(key_id, **options)

    def revoke(self, key_id):
        with self.app.app_context():
            return self.api_keys.revoke(key_id)

    def rotate(self, *steps, **options):
        with self.app.app_context():
            for step in steps:
                getattr(self.api_keys.rotation, step)(**options)


@pytest.fixture
def worker(make_app, tmp_path, clock):
    def worker(primary, *fallbacks):
        app = make_app(
            APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/keys.db",
            APIKEY_FERNET_KEY=primary,
            APIKEY_FERNET_KEY_FALLBACKS=list(fallbacks),
        )
        return Worker(app, clock)

    return worker


@pytest.fixture
def before(worker):
    before = worker(OLD)
    with before.app.app_context():
        before.api_keys.init_storage()
    return before


@pytest.fixture
def added(worker, before):
    return worker(OLD, NEW)


@pytest.fixture
def promoted(worker, before):
    return worker(NEW, OLD)


@pytest.fixture
def key(before):
    return before.create().key


def wrong(key):
    """Return a well-formed key with the same id and another secret."""
    body = key[:-7] + ("A" if key[-7] != "A" else "B")
    return body + checksum(body)


def codes(key, *workers):
    return [worker.code(key) for worker in workers]


def test_new_fernet_key_is_added_to_some_processes(before, added, key):
    later = added.create().key
    for each in (key, later):
        assert codes(each, before, added) == ["ok", "ok"]


def test_some_processes_are_promoted(added, promoted, key):
    added.rotate("start")
    for each in (key, added.create().key, promoted.create().key):
        assert codes(each, added, promoted) == ["ok", "ok"]


def test_keys_are_resealed(added, promoted, key):
    """Processes that saw a key before the run see its new seal."""
    added.rotate("start")
    assert codes(key, added, promoted) == ["ok", "ok"]
    promoted.rotate("run")
    assert codes(key, added, promoted) == ["ok", "ok"]
    assert codes(wrong(key), added, promoted) == ["invalid_key", "invalid_key"]


def test_old_fernet_key_is_removed(worker, added, promoted, key):
    added.rotate("start")
    later = added.create().key
    promoted.rotate("run", "finish")
    for each in (key, later):
        assert codes(each, promoted, worker(NEW)) == ["ok", "ok"]


def test_new_fernet_key_is_missing(before, added, promoted, key, caplog):
    caplog.set_level(logging.INFO, logger="flask_apikey")
    added.rotate("start")
    promoted.rotate("run")
    answer = before.answer(key)
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    (event,) = [record for record in caplog.records if getattr(record, "event", None) == "storage"]
    assert (event.levelname, event.outcome, event.key_id) == ("ERROR", "failure", key.split("_")[-2])
    assert NEW_PRINT in event.reason
    assert key not in caplog.text
    # The secret cannot be checked, so a wrong one gets the same answer.
    assert before.code(wrong(key)) == "unavailable"
    assert added.code(key) == "ok"


def test_old_fernet_key_is_removed_too_early(worker, before, key):
    too_early = worker(NEW)
    assert too_early.code(key) == "unavailable"
    assert too_early.code(too_early.create().key) == "ok"
    assert worker(NEW, OLD).code(key) == "ok"


@at_every_stage
def test_wrong_secret(added, promoted, key, steps):
    promoted.rotate(*steps)
    assert codes(wrong(key), added, promoted) == ["invalid_key", "invalid_key"]


@at_every_stage
def test_revoked_key(added, promoted, before, steps):
    revoked, revoked_later = before.create(), before.create()
    before.revoke(revoked.record.id)
    promoted.rotate(*steps)
    added.revoke(revoked_later.record.id)
    for each in (revoked, revoked_later):
        assert codes(each.key, added, promoted) == ["key_revoked", "key_revoked"]


@at_every_stage
def test_key_rolled_with_grace(added, promoted, before, clock, steps):
    issued = before.create()
    promoted.rotate(*steps)
    rolled = added.roll(issued.record.id, grace=HOUR)
    for each in (issued, rolled):
        assert codes(each.key, added, promoted) == ["ok", "ok"]
    clock.advance(HOUR)
    assert codes(issued.key, added, promoted) == ["invalid_key", "invalid_key"]
    assert codes(rolled.key, added, promoted) == ["ok", "ok"]


def test_grace_period_survives_the_run(worker, added, promoted, before, clock):
    issued = before.create()
    rolled = before.roll(issued.record.id, grace=HOUR)
    added.rotate("start")
    promoted.rotate("run", "finish")
    alone = worker(NEW)
    assert [alone.code(each.key) for each in (issued, rolled)] == ["ok", "ok"]
    clock.advance(HOUR)
    assert [alone.code(each.key) for each in (issued, rolled)] == ["invalid_key", "ok"]


def test_leaked_fernet_key_is_removed(worker, promoted, key):
    promoted.rotate("run", "finish")
    assert codes(key, promoted, worker(NEW)) == ["ok", "ok"]


def test_rotation_is_cancelled(worker, added, key):
    added.rotate("start", "cancel")
    assert codes(key, added, worker(OLD)) == ["ok", "ok"]


def test_rotation_is_reversed(worker, added, promoted, key):
    added.rotate("start")
    later = promoted.create().key
    promoted.rotate("run")
    added.rotate("start", from_fingerprint=NEW_PRINT, to_fingerprint=OLD_PRINT)
    for each in (key, later):
        assert codes(each, added, promoted) == ["ok", "ok"]
    added.rotate("run", "finish")
    for each in (key, later):
        assert codes(each, added, promoted, worker(OLD)) == ["ok", "ok", "ok"]

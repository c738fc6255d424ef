"""What a client sees at each stage of a rotation; docs/rotation.rst has a table of it."""

import logging
from datetime import timedelta

import pytest

from flask_apikey import APIKeys, require_api_key
from flask_apikey.core.model.keystring import checksum
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key

OLD, NEW = generate_fernet_key(), generate_fernet_key()
OLD_PRINT, NEW_PRINT = (FernetKeyring(key).fingerprint for key in (OLD, NEW))
HOUR = timedelta(hours=1)


class Worker:
    """A process of a deployment; all of them share a storage."""

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

    def rotate(self, *steps):
        with self.app.app_context():
            for step in steps:
                getattr(self.api_keys.rotation, step)()


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
    """A well-formed key with the same id and another secret."""
    body = key[:-7] + ("A" if key[-7] != "A" else "B")
    return body + checksum(body)


def codes(key, *workers):
    return [worker.code(key) for worker in workers]


def test_while_the_new_fernet_key_is_added_every_key_works_everywhere(before, added, key):
    made_later = added.create().key
    assert codes(key, before, added) == ["ok", "ok"]
    assert codes(made_later, before, added) == ["ok", "ok"]


def test_while_it_is_promoted_every_key_works_on_either_side(added, promoted, key):
    added.rotate("start")
    of_one, of_the_other = added.create().key, promoted.create().key
    for each in (key, of_one, of_the_other):
        assert codes(each, added, promoted) == ["ok", "ok"]


def test_after_the_run_every_key_works_on_either_side(added, promoted, key):
    added.rotate("start")
    promoted.rotate("run")
    assert codes(key, added, promoted) == ["ok", "ok"]


def test_a_worker_that_has_seen_a_key_before_sees_it_resealed(added, promoted, key):
    added.rotate("start")
    assert codes(key, added, promoted) == ["ok", "ok"]
    promoted.rotate("run")
    assert codes(key, added, promoted) == ["ok", "ok"]
    assert codes(wrong(key), added, promoted) == ["invalid_key", "invalid_key"]


def test_with_the_old_fernet_key_removed_every_key_works(worker, added, promoted, key):
    added.rotate("start")
    made_meanwhile = added.create().key
    promoted.rotate("run", "finish")
    alone = worker(NEW)
    assert codes(key, promoted, alone) == ["ok", "ok"]
    assert codes(made_meanwhile, promoted, alone) == ["ok", "ok"]


def test_a_worker_that_was_not_given_the_new_fernet_key_answers_503_and_names_it(
    before, added, promoted, worker, key, caplog
):
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
    # Who has not proven to hold the key learns the same.
    assert before.code(wrong(key)) == "unavailable"
    assert worker(OLD, NEW).code(key) == "ok"


def test_an_old_fernet_key_that_was_removed_too_early_is_put_back_and_nothing_is_lost(worker, before, key):
    too_early = worker(NEW)
    assert too_early.code(key) == "unavailable"
    assert too_early.code(too_early.create().key) == "ok"
    assert worker(NEW, OLD).code(key) == "ok"


@pytest.mark.parametrize("steps", [(), ("start",), ("start", "run"), ("start", "run", "finish")])
def test_a_wrong_secret_is_refused_as_ever(added, promoted, key, steps):
    promoted.rotate(*steps)
    assert codes(wrong(key), added, promoted) == ["invalid_key", "invalid_key"]


@pytest.mark.parametrize("steps", [(), ("start",), ("start", "run"), ("start", "run", "finish")])
def test_a_key_that_was_revoked_stays_revoked(added, promoted, before, steps):
    revoked, revoked_later = before.create(), before.create()
    before.revoke(revoked.record.id)
    promoted.rotate(*steps)
    added.revoke(revoked_later.record.id)
    for each in (revoked, revoked_later):
        assert codes(each.key, added, promoted) == ["key_revoked", "key_revoked"]


@pytest.mark.parametrize("steps", [(), ("start",), ("start", "run"), ("start", "run", "finish")])
def test_a_key_that_is_rolled_with_grace_works_with_both_secrets(added, promoted, before, clock, steps):
    issued = before.create()
    promoted.rotate(*steps)
    rolled = added.roll(issued.record.id, grace=HOUR)
    assert codes(issued.key, added, promoted) == ["ok", "ok"]
    assert codes(rolled.key, added, promoted) == ["ok", "ok"]
    clock.advance(HOUR)
    assert codes(issued.key, added, promoted) == ["invalid_key", "invalid_key"]
    assert codes(rolled.key, added, promoted) == ["ok", "ok"]


def test_the_secrets_of_a_grace_outlive_the_run(worker, added, promoted, before, clock):
    issued = before.create()
    rolled = before.roll(issued.record.id, grace=HOUR)
    added.rotate("start")
    promoted.rotate("run", "finish")
    alone = worker(NEW)
    assert [alone.code(each.key) for each in (issued, rolled)] == ["ok", "ok"]
    clock.advance(HOUR)
    assert [alone.code(each.key) for each in (issued, rolled)] == ["invalid_key", "ok"]


def test_after_an_urgent_run_every_key_works_without_the_leaked_fernet_key(worker, promoted, key):
    with promoted.app.app_context():
        promoted.api_keys.rotation.run(urgent=True)
    assert codes(key, promoted, worker(NEW)) == ["ok", "ok"]


def test_after_a_rotation_was_cancelled_every_key_works_with_the_old_fernet_key_alone(worker, added, key):
    added.rotate("start", "cancel")
    assert codes(key, added, worker(OLD)) == ["ok", "ok"]


def test_after_a_rotation_was_turned_round_every_key_works_with_the_old_fernet_key_alone(worker, added, promoted, key):
    added.rotate("start")
    made_meanwhile = promoted.create().key
    promoted.rotate("run")
    with added.app.app_context():
        added.api_keys.rotation.start(from_fingerprint=NEW_PRINT, to_fingerprint=OLD_PRINT)
    for each in (key, made_meanwhile):
        assert codes(each, added, promoted) == ["ok", "ok"]
    added.rotate("run", "finish")
    for each in (key, made_meanwhile):
        assert codes(each, added, promoted, worker(OLD)) == ["ok", "ok", "ok"]

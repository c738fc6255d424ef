"""A roll is finished once the secrets that it left working are not used any more, and not before."""

import json
import logging
from contextlib import closing
from datetime import timedelta

import pytest

from flask_apikey import (
    APIKeys,
    ConfigurationError,
    Conflict,
    InvalidValue,
    KeyEnded,
    KeyNotFound,
    SecretInUse,
    StorageError,
    require_api_key,
)
from flask_apikey.cli import apikey
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.history import all_events
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.signals import api_key_updated
from flask_apikey_sql import SQLBackend
from tests.support.keys import Lifecycle

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
INSTANT = timedelta(microseconds=1)


class Scene:
    """An application that counts requests, with one view."""

    def __init__(self, app, clock, **options):
        self.app, self.clock = app, clock
        self.api_keys = APIKeys(app, clock=clock, **options)
        app.get("/", endpoint="view")(require_api_key(lambda: "ok"))
        self.backend.init_storage()

    @property
    def backend(self):
        return self.app.extensions["apikey"].backend

    def do(self, method, *arguments, **options):
        with self.app.app_context():
            return getattr(self.api_keys, method)(*arguments, **options)

    def rolled(self, *graces, **attributes):
        """The secrets of a key that was rolled with these graces, the oldest first."""
        issued = [self.do("create", **{"name": "ci", "lifetime": None, **attributes})]
        for grace in graces:
            self.clock.advance(HOUR)
            issued.append(self.do("roll", issued[0].record.id, grace=grace))
        return issued

    def use(self, issued, address="192.0.2.7"):
        headers = {"X-API-Key": issued.key}
        answer = self.app.test_client().get("/", headers=headers, environ_overrides={"REMOTE_ADDR": address})
        assert answer.status_code == 200

    def works(self, issued):
        return self.do("verify", issued.key).accepted

    def finish(self, issued, unused_for=DAY):
        return self.do("finish_roll", issued.record.id, unused_for=unused_for)

    def refused(self, issued, unused_for=DAY, error=SecretInUse):
        """What is said when the roll of a key cannot be finished, which then is as it was."""
        before = self.do("get", issued.record.id)
        with pytest.raises(error) as refusal:
            self.finish(issued, unused_for)
        assert self.do("get", issued.record.id) == before
        return str(refusal.value)


@pytest.fixture
def scene(make_app, clock):
    return Scene(make_app(APIKEY_USAGE="sync"), clock)


def test_the_old_secret_ends_when_it_was_not_used_for_so_long(scene, clock):
    old, new = scene.rolled(WEEK)
    scene.use(old)
    clock.advance(DAY)
    scene.use(new)
    finished = scene.finish(old)
    assert finished.ended == 1
    assert finished.record == scene.do("get", old.record.id)
    assert finished.record.previous_secrets_expire_at == ()
    assert [scene.works(each) for each in (old, new)] == [False, True]


def test_it_goes_on_when_it_was_used_since_and_it_is_told_when_and_from_where(scene, clock):
    old, _new = scene.rolled(WEEK)
    clock.advance(DAY)
    scene.use(old)
    clock.advance(DAY - INSTANT)
    said = scene.refused(old)
    assert "last used 2026-01-02T01:00:00+00:00 from 192.0.2.7, less than 1 day ago" in said
    assert scene.works(old)


def test_a_roll_that_is_too_recent_is_not_finished_whatever_was_used(scene, clock):
    old, new = scene.rolled(WEEK)
    scene.use(new)
    clock.advance(DAY - INSTANT)
    assert "was rolled less than 1 day ago" in scene.refused(old)
    clock.advance(INSTANT)
    assert scene.finish(old).ended == 1


def test_a_secret_that_was_used_before_the_roll_only_is_idle(scene, clock):
    issued = scene.do("create", name="ci")
    scene.use(issued)
    scene.do("roll", issued.record.id, grace=WEEK)
    clock.advance(DAY)
    assert scene.finish(issued).ended == 1


def test_of_several_previous_secrets_each_must_be_idle(scene, clock):
    first, second, third = scene.rolled(WEEK, WEEK)
    clock.advance(DAY)
    scene.use(first)
    assert "192.0.2.7" in scene.refused(first)
    clock.advance(DAY)
    assert scene.finish(first).ended == 2
    assert [scene.works(each) for each in (first, second, third)] == [False, False, True]


def test_a_use_while_it_was_the_newest_counts_for_a_secret_that_was_rolled_since(scene, clock):
    first, second = scene.rolled(WEEK)
    clock.advance(DAY)
    scene.use(second)
    scene.do("roll", first.record.id, grace=WEEK)
    clock.advance(HOUR)
    assert "192.0.2.7" in scene.refused(first, unused_for=HOUR + INSTANT)
    assert scene.finish(first, unused_for=HOUR).ended == 2


def test_a_fold_of_last_uses_makes_no_secret_look_idle(scene, clock):
    first, second = scene.rolled(WEEK)
    scene.use(first)
    clock.advance(DAY)
    scene.use(second)
    third = scene.do("roll", first.record.id, grace=WEEK)
    scene.use(third)
    clock.advance(HOUR)
    said = scene.refused(first, unused_for=HOUR + INSTANT)
    for _ in range(2):
        scene.backend.fold_last_uses()
        assert scene.refused(first, unused_for=HOUR + INSTANT) == said
    assert scene.finish(first, unused_for=HOUR).ended == 2
    assert scene.works(third)


def test_a_use_from_an_unknown_address_is_told_so(make_app, clock):
    scene = Scene(make_app(APIKEY_USAGE="sync", APIKEY_TRUSTED_PROXIES=["unix"]), clock)
    old, _new = scene.rolled(WEEK)
    clock.advance(DAY)
    scene.use(old, address="")
    assert "from an unknown address" in scene.refused(old)


def test_a_roll_that_has_ended_by_itself_needs_nothing_and_can_be_finished_again(scene, clock):
    old, _new = scene.rolled(HOUR)
    clock.advance(HOUR)
    before = scene.do("get", old.record.id)
    for _ in range(2):
        finished = scene.finish(old)
        assert (finished.ended, finished.record) == (0, before)


def test_uses_that_this_process_has_not_stored_yet_count(make_app, clock):
    scene = Scene(make_app(APIKEY_USAGE_FLUSH_INTERVAL="1h"), clock)
    old, _new = scene.rolled(WEEK)
    clock.advance(DAY)
    scene.use(old)
    assert "192.0.2.7" in scene.refused(old)


def test_the_newest_can_still_be_revealed(make_app, clock):
    scene = Scene(make_app(APIKEY_RECOVERABLE=True), clock)
    old, new = scene.rolled(WEEK)
    clock.advance(DAY)
    scene.finish(old)
    assert scene.do("reveal", old.record.id) == new.key


def test_a_later_roll_does_not_bring_back_what_was_ended(scene, clock):
    first, second = scene.rolled(WEEK)
    clock.advance(DAY)
    scene.finish(first)
    third = scene.do("roll", first.record.id, grace=WEEK)
    assert [scene.works(each) for each in (first, second, third)] == [False, True, True]


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_key_that_has_ended(scene, clock, end):
    old, _new = scene.rolled(WEEK, lifetime=2 * DAY)
    clock.advance(DAY)
    if end == "revoked":
        scene.do("revoke", old.record.id)
    else:
        clock.advance(DAY)
    assert end in scene.refused(old, error=KeyEnded)


@pytest.mark.parametrize("unused_for", [timedelta(0), -DAY, timedelta.max, 86_400, "24"])
def test_unusable_duration(scene, unused_for):
    old, _new = scene.rolled(WEEK)
    assert "unused_for" in scene.refused(old, unused_for, error=InvalidValue)


def test_an_unknown_key(scene):
    with pytest.raises(KeyNotFound):
        scene.do("finish_roll", new_id(), unused_for=DAY)


class TestWhetherUsedOrNot:
    def test_every_previous_secret_ends_at_once(self, scene):
        first, second, third = scene.rolled(WEEK, WEEK)
        scene.use(first)
        finished = scene.do("finish_roll", first.record.id, reason="leaked")
        assert (finished.ended, finished.record.previous_secrets_expire_at) == (2, ())
        assert [scene.works(each) for each in (first, second, third)] == [False, False, True]
        again = scene.do("finish_roll", first.record.id)
        assert (again.ended, again.record) == (0, finished.record)

    def test_it_is_told_with_its_reason(self, scene, caplog):
        old, _new = scene.rolled(WEEK)
        with caplog.at_level(logging.INFO, "flask_apikey"):
            scene.do("finish_roll", old.record.id, reason="leaked")
        (logged,) = caplog.records
        assert (logged.event, logged.outcome, logged.reason) == ("key.secrets_ended", "success", "leaked")
        event = list(all_events(scene.backend))[-1].event
        assert (event.event, event.key_version) == ("key.secrets_ended", 3)
        assert json.loads(event.details) == {"reason": "leaked"}

    def test_uses_need_not_be_counted(self, make_app, clock):
        scene = Scene(make_app(APIKEY_USAGE="off"), clock)
        old, _new = scene.rolled(WEEK)
        assert scene.do("finish_roll", old.record.id).ended == 1

    def test_a_key_that_has_ended(self, scene):
        old, _new = scene.rolled(WEEK)
        scene.do("revoke", old.record.id)
        with pytest.raises(KeyEnded):
            scene.do("finish_roll", old.record.id)


class TestUnknownUses:
    """What is not known is not idle."""

    def test_where_requests_are_not_counted(self, make_app, clock):
        scene = Scene(make_app(APIKEY_USAGE="off"), clock)
        old, _new = scene.rolled(WEEK)
        clock.advance(DAY)
        assert "APIKEY_USAGE is 'off'" in scene.refused(old, error=ConfigurationError)

    def test_where_the_storage_keeps_no_usage(self, app, backend, clock, fernet_key):
        scene = Scene(app, clock, backend=backend)
        old, _new = scene.rolled(WEEK)
        clock.advance(DAY)
        assert "WatchedBackend keeps no usage" in scene.refused(old, error=ConfigurationError)
        lifecycle = Lifecycle(backend, FernetKeyring(fernet_key), IssuePolicy(), clock)
        with pytest.raises(ConfigurationError, match="keeps no usage"):
            lifecycle.finish_roll(old.record.id, unused_for=DAY)

    def test_where_some_views_that_take_keys_are_not_counted(self, make_app, clock):
        scene = Scene(make_app(APIKEY_USAGE="sync", APIKEY_IGNORED_ROUTES=["/health", "/internal/*"]), clock)
        scene.app.get("/health", endpoint="health")(lambda: "ok")
        old, _new = scene.rolled(WEEK)
        clock.advance(DAY)
        scene.app.get("/internal/a", endpoint="internal")(require_api_key(optional=True)(lambda: "ok"))
        said = scene.refused(old, error=ConfigurationError)
        assert said.endswith("keys are used at /internal/a, which APIKEY_IGNORED_ROUTES leaves out")

    def test_views_without_keys_need_not_be_counted(self, make_app, clock):
        scene = Scene(make_app(APIKEY_USAGE="sync", APIKEY_IGNORED_ROUTES=["/health"]), clock)
        scene.app.get("/health", endpoint="health")(lambda: "ok")
        old, _new = scene.rolled(WEEK)
        clock.advance(DAY)
        assert scene.finish(old).ended == 1

    @pytest.mark.parametrize("method", ["last_uses", "add_usage"])
    def test_while_the_storage_does_not_answer(self, make_app, clock, monkeypatch, method):
        scene = Scene(make_app(APIKEY_USAGE_FLUSH_INTERVAL="1h"), clock)
        old, new = scene.rolled(WEEK)
        clock.advance(DAY)
        scene.use(new)

        def fail(*arguments):
            raise StorageError("down")

        monkeypatch.setattr(type(scene.backend), method, fail)
        scene.refused(old, error=StorageError)
        monkeypatch.undo()


def test_a_roll_at_the_same_moment_is_a_conflict_and_ends_nothing(scene, clock, monkeypatch):
    old, _new = scene.rolled(WEEK)
    clock.advance(DAY)
    look_up, rolled = SQLBackend.last_uses, []

    def look_up_and_let_another_in(backend, key_ids):
        rolled.append(scene.do("roll", old.record.id, grace=WEEK))
        return look_up(backend, key_ids)

    monkeypatch.setattr(SQLBackend, "last_uses", look_up_and_let_another_in)
    with pytest.raises(Conflict):
        scene.finish(old)
    assert scene.works(old)
    assert scene.works(rolled[0])


def test_it_is_told_in_the_history_the_audit_log_and_by_a_signal(scene, clock, caplog):
    old, _new = scene.rolled(WEEK, owner="team-7")
    clock.advance(DAY)
    sent = []
    with (
        caplog.at_level(logging.INFO, "flask_apikey"),
        api_key_updated.connected_to(lambda sender, key: sent.append(key), scene.app),
    ):
        finished = scene.finish(old)
    assert sent == [finished.record]
    (logged,) = caplog.records
    assert (logged.event, logged.outcome, logged.reason) == ("key.secrets_ended", "success", "unused for 1 day")
    assert (logged.key_id, logged.owner) == (old.record.id, "team-7")
    event = list(all_events(scene.backend))[-1].event
    assert (event.event, event.key_id, event.key_version) == ("key.secrets_ended", old.record.id, 3)
    assert json.loads(event.details) == {"unused_for_seconds": 86_400.0}


class TestCommandLine:
    @pytest.fixture
    def run(self, scene):
        def run(*arguments, stdin=""):
            return scene.app.test_cli_runner().invoke(apikey, ["roll", *arguments], input=stdin)

        return run

    def test_it_prints_no_key(self, scene, clock, run):
        old, new = scene.rolled(WEEK)
        clock.advance(DAY)
        result = run(old.record.id, "--finish", "--unused-for", "24h")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "Previous secrets ended, unused for 1 day: 1." in result.stderr
        assert [scene.works(each) for each in (old, new)] == [False, True]
        result = run(old.record.id, "--finish", "--unused-for", "24h")
        assert result.exit_code == 0
        assert "No previous secret" in result.stderr

    def test_json(self, scene, clock, run):
        old, _new = scene.rolled(WEEK)
        clock.advance(DAY)
        told = json.loads(run(old.record.id, "--finish", "--unused-for", "24h", "--json").stdout)
        assert (told["id"], told["secrets_ended"], told["previous_secrets_expire_at"]) == (old.record.id, 1, [])

    def test_a_secret_in_use_is_one_line_and_exit_1(self, scene, clock, run):
        old, _new = scene.rolled(WEEK)
        clock.advance(DAY)
        scene.use(old)
        result = run(old.record.id, "--finish", "--unused-for", "24h")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"Error: a previous secret of key {old.record.id} was last used ")
        assert "192.0.2.7" in result.stderr
        assert result.stderr.count("\n") == 1
        assert scene.works(old)

    def test_whether_used_or_not_it_asks_first(self, scene, run):
        old, new = scene.rolled(WEEK)
        scene.use(old)
        assert run(old.record.id, "--finish", stdin="n\n").exit_code == 1
        assert scene.works(old)
        result = run(old.record.id, "--finish", stdin="y\n")
        assert result.exit_code == 0
        assert result.stdout.strip() in {"", "y"}  # Older test runners of Click show there what is typed.
        assert "Previous secrets ended: 1." in result.stderr
        assert [scene.works(each) for each in (old, new)] == [False, True]
        assert run(old.record.id, "--finish").stderr.startswith("No previous secret of ci")

    def test_whether_used_or_not_as_json(self, scene, run):
        old, _new = scene.rolled(WEEK)
        told = json.loads(run(old.record.id, "--finish", "--yes", "--json").stdout)
        assert (told["id"], told["secrets_ended"], told["previous_secrets_expire_at"]) == (old.record.id, 1, [])

    @pytest.mark.parametrize("option", [["--unused-for", "24h"], ["--reason", "leaked"]])
    def test_option_without_finish(self, scene, run, option):
        old, _new = scene.rolled(WEEK)
        result = run(old.record.id, *option)
        assert result.exit_code == 2
        assert "need --finish" in result.stderr
        assert scene.works(old)

    @pytest.mark.parametrize("grace", ["24h", "0s"])
    @pytest.mark.parametrize("way", [["--finish", "--unused-for", "24h"], ["--finish", "--yes"]])
    def test_a_grace_contradicts_it(self, scene, run, way, grace):
        old, _new = scene.rolled(WEEK)
        result = run(old.record.id, *way, "--grace", grace)
        assert result.exit_code == 2
        assert "--grace has no meaning" in result.stderr
        assert scene.works(old)


def test_it_works_outside_of_flask(tmp_path, fernet_key, clock):
    with closing(SQLBackend(f"sqlite:///{tmp_path}/keys.db")) as backend:
        backend.init_storage()
        lifecycle = Lifecycle(backend, FernetKeyring(fernet_key), IssuePolicy(), clock)
        key_id = lifecycle.create(name="ci").record.id
        lifecycle.roll(key_id, grace=WEEK)
        clock.advance(DAY)
        assert lifecycle.finish_roll(key_id, unused_for=DAY).ended == 1

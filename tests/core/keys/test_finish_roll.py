"""End of previous secrets: at once, or only if they are unused."""

import json
import logging
from datetime import timedelta

import pytest

from flask_apikey import (
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
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.signals import api_key_updated
from flask_apikey_sql.usage import SQLUsage
from tests.support.keys import KeyScene, Lifecycle
from tests.support.stored import all_events

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
INSTANT = timedelta(microseconds=1)


class Scene(KeyScene):
    """An application that counts requests, with one view."""

    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **options)
        app.get("/", endpoint="view")(require_api_key(lambda: "ok"))

    def rolled(self, *graces, **attributes):
        """Create a key and roll it with these grace periods.

        Returns:
            The issued secrets, oldest first.
        """
        issued = [self.issue(**{"lifetime": None, **attributes})]
        for grace in graces:
            self.clock.advance(HOUR)
            issued.append(self.roll(issued[0], grace=grace))
        return issued

    def rolled_yesterday(self, **attributes):
        issued = self.rolled(WEEK, **attributes)
        self.clock.advance(DAY)
        return issued

    def use(self, issued, address="192.0.2.7"):
        headers = {"X-API-Key": issued.key}
        answer = self.app.test_client().get("/", headers=headers, environ_overrides={"REMOTE_ADDR": address})
        assert answer.status_code == 200

    def finish(self, issued, unused_for=DAY):
        return self.do("finish_roll", issued.record.id, unused_for=unused_for)

    def refused(self, issued, unused_for=DAY, error=SecretInUse):
        """Try to finish the roll, check that nothing has changed, and return the message of the error."""
        before = self.do("get", issued.record.id)
        with pytest.raises(error) as refusal:
            self.finish(issued, unused_for)
        assert self.do("get", issued.record.id) == before
        return str(refusal.value)


@pytest.fixture
def scene(make_app, clock):
    return Scene(make_app(APIKEY_USAGE="sync"), clock)


def test_unused_secret_ends(scene, clock):
    old, new = scene.rolled(WEEK)
    scene.use(old)
    clock.advance(DAY)
    scene.use(new)
    finished = scene.finish(old)
    assert finished.ended == 1
    assert finished.record == scene.do("get", old.record.id)
    assert finished.record.previous_secrets_expire_at == ()
    assert scene.works(old, new) == [False, True]


@pytest.mark.parametrize(
    "config", [{"APIKEY_USAGE": "sync"}, {"APIKEY_USAGE_FLUSH_INTERVAL": "1h"}], ids=["stored", "buffered"]
)
def test_used_secret_is_kept(make_app, clock, config):
    scene = Scene(make_app(**config), clock)
    old, _new = scene.rolled_yesterday()
    scene.use(old)
    clock.advance(DAY - INSTANT)
    message = scene.refused(old)
    assert "last used 2026-01-02T01:00:00+00:00 from 192.0.2.7, less than 1 day ago" in message
    assert scene.works(old) == [True]


def test_recent_roll_is_refused(scene, clock):
    old, new = scene.rolled(WEEK)
    scene.use(new)
    clock.advance(DAY - INSTANT)
    assert "was rolled less than 1 day ago" in scene.refused(old)
    clock.advance(INSTANT)
    assert scene.finish(old).ended == 1


def test_use_before_the_roll_is_ignored(scene, clock):
    issued = scene.do("create", name="ci")
    scene.use(issued)
    scene.do("roll", issued.record.id, grace=WEEK)
    clock.advance(DAY)
    assert scene.finish(issued).ended == 1


def test_all_previous_secrets_must_be_unused(scene, clock):
    first, second, third = scene.rolled(WEEK, WEEK)
    clock.advance(DAY)
    scene.use(first)
    assert "192.0.2.7" in scene.refused(first)
    clock.advance(DAY)
    assert scene.finish(first).ended == 2
    assert scene.works(first, second, third) == [False, False, True]


def test_fold_of_last_uses_hides_no_use(scene, clock):
    first, second = scene.rolled(WEEK)
    scene.use(first)
    clock.advance(DAY)
    scene.use(second)
    third = scene.do("roll", first.record.id, grace=WEEK)
    scene.use(third)
    clock.advance(HOUR)
    message = scene.refused(first, unused_for=HOUR + INSTANT)
    for _ in range(2):
        scene.backend.usage.fold_last_uses()
        assert scene.refused(first, unused_for=HOUR + INSTANT) == message
    assert scene.finish(first, unused_for=HOUR).ended == 2
    assert scene.works(third) == [True]


def test_use_from_unknown_address(make_app, clock):
    scene = Scene(make_app(APIKEY_USAGE="sync", APIKEY_TRUSTED_PROXIES=["unix"]), clock)
    old, _new = scene.rolled_yesterday()
    scene.use(old, address="")
    assert "from an unknown address" in scene.refused(old)


def test_expired_grace_is_a_no_op(scene, clock):
    old, _new = scene.rolled(HOUR)
    clock.advance(HOUR)
    before = scene.do("get", old.record.id)
    for _ in range(2):
        finished = scene.finish(old)
        assert (finished.ended, finished.record) == (0, before)


def test_later_roll_revives_no_secret(scene, clock):
    first, second = scene.rolled_yesterday()
    scene.finish(first)
    third = scene.do("roll", first.record.id, grace=WEEK)
    assert scene.works(first, second, third) == [False, True, True]


@pytest.mark.parametrize("unused_for", [DAY, None], ids=["unused", "unconditional"])
@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_ended_key(scene, clock, end, unused_for):
    old, _new = scene.rolled_yesterday(lifetime=2 * DAY)
    if end == "revoked":
        scene.do("revoke", old.record.id)
    else:
        clock.advance(DAY)
    assert end in scene.refused(old, unused_for, error=KeyEnded)


@pytest.mark.parametrize("unused_for", [timedelta(0), -DAY, timedelta.max, 86_400, "24"])
def test_unusable_duration(scene, unused_for):
    old, _new = scene.rolled(WEEK)
    assert "unused_for" in scene.refused(old, unused_for, error=InvalidValue)


def test_unknown_key(scene):
    with pytest.raises(KeyNotFound):
        scene.do("finish_roll", new_id(), unused_for=DAY)


def test_all_previous_secrets_end_at_once_without_condition(scene):
    first, second, third = scene.rolled(WEEK, WEEK)
    scene.use(first)
    finished = scene.finish(first, unused_for=None)
    assert (finished.ended, finished.record.previous_secrets_expire_at) == (2, ())
    assert scene.works(first, second, third) == [False, False, True]
    again = scene.finish(first, unused_for=None)
    assert (again.ended, again.record) == (0, finished.record)


class TestUnknownUses:
    """A secret whose uses are unknown does not count as unused."""

    def test_usage_off(self, make_app, clock):
        scene = Scene(make_app(APIKEY_USAGE="off"), clock)
        old, _new = scene.rolled_yesterday()
        assert "APIKEY_USAGE is 'off'" in scene.refused(old, error=ConfigurationError)
        assert scene.finish(old, unused_for=None).ended == 1

    def test_storage_without_usage(self, app, backend, clock, fernet_key):
        scene = Scene(app, clock, backend=backend)
        old, _new = scene.rolled_yesterday()
        assert "WatchedBackend keeps no usage" in scene.refused(old, error=ConfigurationError)
        lifecycle = Lifecycle(backend, FernetKeyring(fernet_key), IssuePolicy(), clock)
        with pytest.raises(ConfigurationError, match="keeps no usage"):
            lifecycle.finish_roll(old.record.id, unused_for=DAY)

    def test_ignored_route_that_accepts_keys(self, make_app, clock):
        scene = Scene(make_app(APIKEY_USAGE="sync", APIKEY_IGNORED_ROUTES=["/health", "/internal/*"]), clock)
        scene.app.get("/health", endpoint="health")(lambda: "ok")
        old, _new = scene.rolled_yesterday()
        assert scene.finish(old).ended == 1
        scene.app.get("/internal/a", endpoint="internal")(require_api_key(optional=True)(lambda: "ok"))
        message = scene.refused(old, error=ConfigurationError)
        assert message.endswith("keys are used at /internal/a, which APIKEY_IGNORED_ROUTES leaves out")

    @pytest.mark.parametrize("method", ["last_uses", "add"])
    def test_storage_failure(self, make_app, clock, monkeypatch, method):
        scene = Scene(make_app(APIKEY_USAGE_FLUSH_INTERVAL="1h"), clock)
        old, new = scene.rolled_yesterday()
        scene.use(new)

        def fail(*arguments):
            raise StorageError("down")

        monkeypatch.setattr(type(scene.backend.usage), method, fail)
        scene.refused(old, error=StorageError)
        monkeypatch.undo()


def test_concurrent_roll_is_a_conflict(scene, clock, monkeypatch):
    old, _new = scene.rolled_yesterday()
    look_up, rolled = SQLUsage.last_uses, []

    def look_up_and_roll(backend, key_ids):
        rolled.append(scene.do("roll", old.record.id, grace=WEEK))
        return look_up(backend, key_ids)

    monkeypatch.setattr(SQLUsage, "last_uses", look_up_and_roll)
    with pytest.raises(Conflict):
        scene.finish(old)
    assert scene.works(old, *rolled) == [True, True]


@pytest.mark.parametrize(
    ("options", "reason", "details"),
    [
        ({"unused_for": DAY}, "unused for 1 day", {"unused_for_seconds": 86_400.0}),
        ({"reason": "leaked"}, "leaked", {}),
    ],
    ids=["unused", "unconditional"],
)
def test_event_log_entry_and_signal(scene, clock, caplog, options, reason, details):
    old, _new = scene.rolled_yesterday(owner="team-7")
    sent = []
    with (
        caplog.at_level(logging.INFO, "flask_apikey"),
        api_key_updated.connected_to(lambda sender, key: sent.append(key), scene.app),
    ):
        finished = scene.do("finish_roll", old.record.id, **options)
    assert sent == [finished.record]
    (logged,) = caplog.records
    assert (logged.event, logged.outcome, logged.reason) == ("key.secrets_ended", "success", reason)
    assert (logged.key_id, logged.owner) == (old.record.id, "team-7")
    event = all_events(scene.backend.history)[-1]
    assert (event.event, event.key_id, event.number) == ("key.secrets_ended", old.record.id, 3)
    assert event.reason == reason
    assert json.loads(event.details) == details


class TestCommandLine:
    @pytest.fixture
    def run(self, scene):
        def run(*arguments, stdin=""):
            return scene.app.test_cli_runner().invoke(apikey, ["roll", *arguments], input=stdin)

        return run

    def test_prints_no_key(self, scene, clock, run):
        old, new = scene.rolled_yesterday()
        result = run(old.record.id, "--finish", "--unused-for", "24h")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "Previous secrets ended, unused for 1 day: 1." in result.stderr
        assert scene.works(old, new) == [False, True]
        result = run(old.record.id, "--finish", "--unused-for", "24h")
        assert result.exit_code == 0
        assert "No previous secret" in result.stderr

    @pytest.mark.parametrize("options", [["--unused-for", "24h"], ["--yes"]])
    def test_json(self, scene, clock, run, options):
        old, _new = scene.rolled_yesterday()
        document = json.loads(run(old.record.id, "--finish", *options, "--json").stdout)
        assert document["id"] == old.record.id
        assert (document["secrets_ended"], document["previous_secrets_expire_at"]) == (1, [])

    def test_secret_in_use_is_one_line(self, scene, clock, run):
        old, _new = scene.rolled_yesterday()
        scene.use(old)
        result = run(old.record.id, "--finish", "--unused-for", "24h")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"Error: a previous secret of key {old.record.id} was last used ")
        assert "192.0.2.7" in result.stderr
        assert result.stderr.count("\n") == 1
        assert scene.works(old) == [True]

    def test_finish_confirms(self, scene, run):
        old, new = scene.rolled(WEEK)
        scene.use(old)
        assert run(old.record.id, "--finish", stdin="n\n").exit_code == 1
        assert scene.works(old) == [True]
        result = run(old.record.id, "--finish", stdin="y\n")
        assert result.exit_code == 0
        assert result.stdout.strip() in {"", "y"}  # Older test runners of Click echo the input.
        assert "Previous secrets ended: 1." in result.stderr
        assert scene.works(old, new) == [False, True]
        assert run(old.record.id, "--finish").stderr.startswith("No previous secret of ci")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--unused-for", "24h"], "needs --finish"),
            *((["--finish", "--yes", "--grace", grace], "--grace has no meaning") for grace in ("24h", "0s")),
            (["--finish", "--unused-for", "24h", "--grace", "24h"], "--grace has no meaning"),
        ],
    )
    def test_wrong_combination_of_options(self, scene, run, options, message):
        old, _new = scene.rolled(WEEK)
        result = run(old.record.id, *options)
        assert result.exit_code == 2
        assert message in result.stderr
        assert scene.works(old) == [True]

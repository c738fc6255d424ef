"""Revocation of many keys: by owner, and by the time at which secrets were issued."""

import json
import logging
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest

from flask_apikey import InvalidValue
from flask_apikey.cli import apikey
from flask_apikey.core.keys.bulk import BulkRevocation
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.signals import api_key_revoked, api_key_updated
from tests.support.keys import KeyScene, Lifecycle
from tests.support.stored import all_events

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Scene(KeyScene):
    def run(self, *arguments, stdin=""):
        return self.app.test_cli_runner().invoke(apikey, ["revoke", *arguments], input=stdin)

    def events(self, name="key.revoked"):
        events = all_events(self.backend.history)
        return [event for event in events if event.event == name]


@pytest.fixture
def scene(app, clock):
    return Scene(app, clock)


class TestOwner:
    def test_revokes_active_keys_of_the_owner_only(self, scene, clock):
        first, second = scene.issue(owner="team-7"), scene.issue(owner="team-7", lifetime=None)
        rolled = scene.roll(first, grace=DAY)
        others = [scene.issue(owner="team-8"), scene.issue(), scene.issue(owner="TEAM-7")]
        assert scene.do("revoke_many", owner="team-7", reason="left") == BulkRevocation(revoked=2)
        assert scene.works(first, rolled, second, *others) == [False, False, False, True, True, True]
        record = scene.do("get", first.record.id)
        assert (record.revoked_at, record.revocation_reason, record.version) == (clock(), "left", 3)

    def test_ended_keys_are_unchanged(self, scene, clock):
        revoked, expired = scene.issue(owner="a"), scene.issue(owner="a", lifetime=HOUR)
        scene.do("revoke", revoked.record.id, reason="first")
        clock.advance(HOUR)
        before = [scene.do("get", each.record.id) for each in (revoked, expired)]
        assert scene.do("revoke_many", owner="a", reason="second") == BulkRevocation()
        assert [scene.do("get", each.record.id) for each in (revoked, expired)] == before


class TestIssuedBefore:
    def test_key_rolled_at_that_time_is_kept(self, scene, clock):
        old = scene.issue()
        clock.advance(HOUR)
        new = scene.roll(old)
        assert scene.do("revoke_many", issued_before=clock()) == BulkRevocation()
        assert scene.works(new) == [True]
        clock.advance(timedelta(microseconds=1))
        assert scene.do("revoke_many", issued_before=clock()) == BulkRevocation(revoked=1)

    def test_previous_secrets_of_key_rolled_since_end(self, scene, clock):
        first = scene.issue()
        clock.advance(HOUR)
        moment = clock()
        second, third = scene.roll(first, grace=DAY), scene.roll(first, grace=DAY)
        assert scene.do("revoke_many", issued_before=moment, reason="backup") == BulkRevocation(secrets_ended=1)
        assert scene.works(first, second, third) == [False, False, True]
        assert scene.do("revoke_many", issued_before=moment) == BulkRevocation()

    def test_key_created_since_keeps_all_secrets(self, scene, clock):
        moment = clock()
        old = scene.issue()
        new = scene.roll(old, grace=DAY)
        assert scene.do("revoke_many", issued_before=moment) == BulkRevocation()
        assert scene.works(old, new) == [True, True]

    def test_no_older_secret_works(self, scene, clock):
        """Covers keys issued and rolled before and after the time, with and without a grace period."""
        before, since = [], []
        moment = clock() + 2 * HOUR
        for hours in range(4):
            for graces in ((), (0,), (5,), (0, 5), (5, 0), (5, 5)):
                clock.set(moment - 2 * HOUR + hours * HOUR)
                issued = scene.issue(f"{hours} {graces}")
                for grace in (None, *graces):
                    if grace is not None:
                        clock.advance(HOUR)
                        issued = scene.roll(issued, grace=grace * DAY)
                    (before if clock() < moment else since).append(issued)
        newest = {issued.record.id: issued for issued in before + since}
        scene.do("revoke_many", issued_before=moment)
        assert not any(scene.works(*before))
        assert all(scene.works(*[each for each in newest.values() if each in since]))

    def test_owner_and_time(self, scene, clock):
        mine, yours = scene.issue(owner="a"), scene.issue(owner="b")
        clock.advance(HOUR)
        late = scene.issue(owner="a")
        assert scene.do("revoke_many", owner="a", issued_before=clock()) == BulkRevocation(revoked=1)
        assert scene.works(mine, yours, late) == [False, True, True]

    def test_time_in_another_zone(self, scene, clock):
        scene.issue()
        moment = (clock() + HOUR).astimezone(timezone(timedelta(hours=-8)))
        assert scene.do("revoke_many", issued_before=moment - HOUR) == BulkRevocation()
        assert scene.do("revoke_many", issued_before=moment) == BulkRevocation(revoked=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "owner or issued_before"),
        ({"owner": ""}, "owner"),
        ({"owner": 7}, "owner"),
        ({"owner": None, "issued_before": datetime(2026, 1, 1, tzinfo=timezone.utc)}, "owner must not be None"),
        ({"issued_before": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001  # must be refused
        ({"issued_before": "2026-01-01"}, "issued_before"),
        ({"owner": "a", "reason": "a\nb"}, "reason"),
    ],
)
def test_invalid_arguments(scene, arguments, message):
    issued = scene.issue(owner="a")
    with pytest.raises(InvalidValue, match=message):
        scene.do("revoke_many", **arguments)
    assert scene.works(issued) == [True]


def test_dry_run(scene, clock, caplog):
    old = scene.issue(owner="a")
    rolled = scene.issue(owner="a")
    clock.advance(HOUR)
    moment = clock()
    newest = scene.roll(rolled, grace=DAY)
    before = all_events(scene.backend.history)
    with caplog.at_level(logging.INFO, "flask_apikey"):
        counted = scene.do("revoke_many", issued_before=moment, dry_run=True)
    assert counted == BulkRevocation(revoked=1, secrets_ended=1)
    assert scene.works(old, rolled, newest) == [True, True, True]
    assert all_events(scene.backend.history) == before
    assert caplog.records == []
    assert scene.do("revoke_many", issued_before=moment) == counted


def test_each_key_has_event_log_entry_and_signal(scene, clock, caplog):
    revoked = scene.issue()
    clock.advance(HOUR)
    rolled = scene.issue()
    clock.advance(HOUR)
    scene.roll(rolled, grace=DAY)
    moment, sent = clock(), []

    def note(sender, key):
        sent.append(key.id)

    with (
        caplog.at_level(logging.INFO, "flask_apikey"),
        api_key_revoked.connected_to(note, scene.app),
        api_key_updated.connected_to(note, scene.app),
    ):
        scene.do("revoke_many", issued_before=moment, reason="backup")
    assert sorted(sent) == sorted([revoked.record.id, rolled.record.id])
    assert {(each.event, each.key_id, each.reason) for each in caplog.records} == {
        ("key.revoked", revoked.record.id, "backup"),
        ("key.secrets_ended", rolled.record.id, "backup"),
    }
    assert [event.key_id for event in scene.events()] == [revoked.record.id]
    (event,) = scene.events("key.secrets_ended")
    assert (event.key_id, event.reason) == (rolled.record.id, "backup")


def test_interrupted_run_can_be_repeated(scene, monkeypatch):
    monkeypatch.setattr("flask_apikey.core.keys.repository._PAGE", 2)
    keys = [scene.issue(owner="a") for _ in range(5)]

    def interrupt_at_third(sender, key):
        if len(scene.events()) == 3:
            raise KeyboardInterrupt

    with api_key_revoked.connected_to(interrupt_at_third, scene.app), pytest.raises(KeyboardInterrupt):
        scene.do("revoke_many", owner="a")
    assert sum(scene.works(*keys)) == 2
    assert scene.do("revoke_many", owner="a").revoked == 2
    assert not any(scene.works(*keys))
    assert sorted(event.key_id for event in scene.events()) == sorted(each.record.id for each in keys)


def test_keys_with_lost_fernet_key(scene, clock):
    old, rolled = scene.issue(), scene.issue()
    clock.advance(HOUR)
    newest = scene.roll(rolled, grace=DAY)
    elsewhere = Lifecycle(scene.backend, FernetKeyring(generate_fernet_key()), clock=clock)
    # The rolled key may not lose its newest secret, and its other ones cannot be ended without the Fernet key.
    assert elsewhere.revoke_many(issued_before=clock()) == BulkRevocation(revoked=1, failed=(rolled.record.id,))
    assert scene.works(old, rolled, newest) == [False, True, True]


class TestConcurrentChanges:
    """Changes between the listing of a key and its revocation."""

    @pytest.fixture
    def scene(self, app, backend, clock):
        return Scene(app, clock, backend=backend)

    def test_rolled_key_loses_previous_secrets(self, scene, clock):
        issued = scene.issue()
        clock.advance(HOUR)
        rolled = []
        scene.backend.before_next_update = lambda: rolled.append(scene.roll(issued, grace=DAY))
        assert scene.do("revoke_many", issued_before=clock()) == BulkRevocation(secrets_ended=1)
        assert scene.works(issued, *rolled) == [False, True]

    @pytest.mark.parametrize(("changes", "revoked"), [({"name": "renamed"}, 1), ({"owner": "b"}, 0)])
    def test_updated_key_is_revoked_unless_the_owner_is_new(self, scene, changes, revoked):
        issued = scene.issue(owner="a")
        scene.backend.before_next_update = lambda: scene.do("update", issued.record.id, **changes)
        assert scene.do("revoke_many", owner="a").revoked == revoked
        record = scene.do("get", issued.record.id)
        assert {name: getattr(record, name) for name in changes} == changes
        assert scene.works(issued) == [not revoked]

    def test_pruned_key_is_skipped(self, scene, prune):
        issued, other = scene.issue(owner="a"), scene.issue(owner="a")
        gone, *_ = sorted((issued, other), key=lambda each: each.record.id)
        scene.backend.before_next_update = lambda: prune(scene.backend, gone.record.id)
        assert scene.do("revoke_many", owner="a").revoked == 1


def test_restored_backup(make_app, clock, tmp_path):
    scene = Scene(make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/keys.db"), clock)
    revoked, rolled, kept = (scene.issue(name) for name in ("revoked", "rolled", "kept"))
    with closing(sqlite3.connect(tmp_path / "keys.db")) as database, closing(sqlite3.connect(":memory:")) as backup:
        database.backup(backup)
        clock.advance(DAY)
        scene.do("revoke", revoked.record.id)
        scene.roll(rolled)
        backup.backup(database)
    assert scene.works(revoked, rolled, kept) == [True, True, True]
    restored_at = clock()
    clock.advance(HOUR)
    anew = scene.roll(kept, grace=DAY)
    scene.do("revoke_many", issued_before=restored_at, reason="restored backup")
    assert scene.works(revoked, rolled, kept, anew) == [False, False, False, True]


class TestCommandLine:
    def test_confirmation(self, scene):
        keys = [scene.issue(owner="a") for _ in range(3)]
        result = scene.run("--owner", "a", stdin="n\n")
        assert result.exit_code == 1
        assert "Permanently revoke 3 keys? [y/N]" in result.stderr
        assert all(scene.works(*keys))
        result = scene.run("--owner", "a", "--reason", "left the team", stdin="y\n")
        assert result.exit_code == 0
        assert result.stdout.strip() in {"", "y"}  # Older test runners of Click echo the input.
        assert "Keys revoked: 3." in result.stderr
        assert {scene.do("get", each.record.id).revocation_reason for each in keys} == {"left the team"}

    def test_confirmation_mentions_previous_secrets(self, scene, clock):
        issued, rolled, old = scene.issue(owner="a"), scene.issue(owner="b"), scene.issue(owner="b")
        clock.advance(HOUR)
        moment = clock().isoformat()
        scene.roll(rolled, grace=DAY)
        question = scene.run("--issued-before", moment, stdin="n\n").stderr
        assert "Permanently revoke 2 keys and end the previous secrets of 1 key? [y/N]" in question
        question = scene.run("--issued-before", moment, "--owner", "a", stdin="n\n").stderr
        assert "Permanently revoke 1 key? [y/N]" in question
        scene.do("revoke", old.record.id)
        question = scene.run("--issued-before", moment, "--owner", "b", stdin="n\n").stderr
        assert "Permanently end the previous secrets of 1 key? [y/N]" in question
        assert scene.works(issued, rolled) == [True, True]

    def test_dry_run_and_json(self, scene, clock):
        scene.issue(owner="a")
        rolled = scene.issue(owner="a")
        clock.advance(HOUR)
        moment = clock().isoformat()
        scene.roll(rolled, grace=DAY)
        assert "Keys that would be revoked: 1." in scene.run("--issued-before", moment, "--dry-run").stderr
        document = {"dry_run": True, "found": 1, "found_rolled": 1, "revoked": 0, "secrets_ended": 0}
        assert json.loads(scene.run("--issued-before", moment, "--dry-run", "--json").stdout) == document
        document |= {"dry_run": False, "revoked": 1, "secrets_ended": 1}
        assert json.loads(scene.run("--issued-before", moment, "--owner", "a", "--yes", "--json").stdout) == document
        document = {"dry_run": False, "found": 0, "found_rolled": 0, "revoked": 0, "secrets_ended": 0}
        assert json.loads(scene.run("--issued-before", moment, "--json").stdout) == document

    @pytest.mark.parametrize(
        "arguments",
        [
            *([], ["ID", "--owner", "a"], ["ID", "--issued-before", "2026-01-01"], ["ID", "--dry-run"]),
            *(["--dry-run"], ["--yes"], ["--issued-before", "yesterday"]),
        ],
    )
    def test_usage_errors(self, scene, arguments):
        issued = scene.issue(owner="a")
        result = scene.run(*(issued.record.id if each == "ID" else each for each in arguments), stdin="y\n")
        assert result.exit_code == 2
        assert scene.works(issued) == [True]

    def test_owner_without_keys(self, scene):
        issued = scene.issue(owner="team-7")
        for options in (["--yes"], ["--dry-run"], ["--json", "--yes"], ["--issued-before", "2030-01-01", "--yes"]):
            result = scene.run("--owner", "team7", *options)
            assert result.exit_code == 1
            assert result.stderr.startswith("Error: no key has the owner 'team7'")
        assert scene.works(issued) == [True]
        for number in (1, 0):
            result = scene.run("--owner", "team-7", "--yes")
            assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, f"Keys revoked: {number}.")

    def test_invalid_owner_is_one_line(self, scene):
        result = scene.run("--owner", "", "--yes")
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1

"""Suspending and resuming keys: one key, and all keys of an owner."""

import json
from datetime import timedelta

import pytest

from flask_apikey import BulkSuspension, InvalidValue, KeyEnded, KeyNotFound, Status, StorageError, Verdict
from flask_apikey.cli import apikey
from flask_apikey.core.errors import RowTampered
from flask_apikey.core.model.keystring import new_id
from flask_apikey.signals import api_key_resumed, api_key_suspended
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene
from tests.support.stored import all_events

HOUR = timedelta(hours=1)


class Scene(KeyScene):
    def run(self, *arguments, stdin=""):
        return self.app.test_cli_runner().invoke(apikey, arguments, input=stdin)

    def record(self, issued):
        return self.do("get", issued.record.id)

    def events(self, issued):
        events = [each for each in all_events(self.backend.history) if each.key_id == issued.record.id]
        return [(event.event, event.number, event.reason) for event in events]


@pytest.fixture
def scene(app, clock):
    return Scene(app, clock)


def end(scene, issued):
    return scene.do("revoke", issued.record.id)


def expire(scene, issued):
    scene.clock.set(issued.record.expires_at)


class TestOneKey:
    def test_suspend_and_resume(self, scene, clock):
        issued = scene.issue()
        clock.advance(HOUR)
        record = scene.do("suspend", issued.record.id, reason="unpaid")
        assert (record.suspended_at, record.suspension_reason, record.version) == (clock(), "unpaid", 2)
        assert (record, record.status(clock())) == (scene.record(issued), Status.SUSPENDED)
        assert scene.do("verify", issued.key).verdict is Verdict.SUSPENDED
        clock.advance(HOUR)
        record = scene.do("resume", issued.record.id, reason="paid")
        assert (record.suspended_at, record.suspension_reason, record.version) == (None, None, 3)
        assert (record, record.status(clock())) == (scene.record(issued), Status.ACTIVE)
        assert scene.works(issued) == [True]
        assert scene.events(issued) == [
            ("key.created", 1, None),
            ("key.suspended", 2, "unpaid"),
            ("key.resumed", 3, "paid"),
        ]

    def test_idempotent(self, scene, clock):
        issued = scene.issue()
        assert scene.do("resume", issued.record.id) == issued.record
        first = scene.do("suspend", issued.record.id, reason="first")
        clock.advance(HOUR)
        assert scene.do("suspend", issued.record.id, reason="second") == first
        assert len(scene.events(issued)) == 2

    def test_signals(self, scene):
        issued, sent = scene.issue(), []

        def note(sender, key):
            sent.append(key)

        with api_key_suspended.connected_to(note, scene.app):
            suspended = scene.do("suspend", issued.record.id)
        with api_key_resumed.connected_to(note, scene.app):
            resumed = scene.do("resume", issued.record.id)
        assert sent == [suspended, resumed]

    @pytest.mark.parametrize("method", ["suspend", "resume"])
    @pytest.mark.parametrize("ending", [end, expire])
    def test_ended_key(self, scene, ending, method):
        issued = scene.issue(lifetime=HOUR)
        if method == "resume":
            scene.do("suspend", issued.record.id)
        ending(scene, issued)
        before = scene.record(issued)
        with pytest.raises(KeyEnded, match=f"is {before.status(scene.clock()).value} and cannot be {method}"):
            scene.do(method, issued.record.id)
        assert scene.record(issued) == before

    @pytest.mark.parametrize("method", ["suspend", "resume"])
    def test_unknown_key_and_invalid_reason(self, scene, method):
        issued = scene.issue()
        with pytest.raises(KeyNotFound):
            scene.do(method, new_id())
        with pytest.raises(InvalidValue, match="reason"):
            scene.do(method, issued.record.id, reason="a\nb")
        assert scene.record(issued) == issued.record

    def test_revocation_and_expiry_take_precedence(self, scene, clock):
        issued, other = scene.issue(lifetime=HOUR), scene.issue(lifetime=HOUR)
        for each in (issued, other):
            scene.do("suspend", each.record.id)
        scene.do("revoke", other.record.id)
        assert scene.do("verify", other.key).verdict is Verdict.REVOKED
        clock.advance(HOUR)
        assert scene.do("verify", issued.key).verdict is Verdict.EXPIRED

    def test_later_expiry_does_not_resume(self, scene, clock):
        issued = scene.issue(lifetime=HOUR)
        scene.do("suspend", issued.record.id)
        clock.advance(HOUR)
        scene.do("update", issued.record.id, expires_at=None)
        assert scene.do("verify", issued.key).verdict is Verdict.SUSPENDED

    def test_rolled_key_stays_suspended(self, scene):
        issued = scene.issue()
        scene.do("suspend", issued.record.id, reason="leaked")
        rolled = scene.roll(issued, grace=HOUR)
        assert rolled.record.suspension_reason == "leaked"
        assert scene.works(issued, rolled) == [False, False]
        assert scene.do("finish_roll", issued.record.id).ended == 1
        scene.do("resume", issued.record.id)
        assert scene.works(issued, rolled) == [False, True]

    def test_listing(self, scene, clock):
        active, suspended, revoked, expired = (
            scene.issue(name, lifetime=HOUR if name == "expired" else 3 * HOUR)
            for name in ("active", "suspended", "revoked", "expired")
        )
        for each in (suspended, revoked, expired):
            scene.do("suspend", each.record.id)
        scene.do("revoke", revoked.record.id)
        clock.advance(HOUR)
        found = {status.value: [each.name for each in scene.do("list", status=status)] for status in Status}
        assert found == {name: [name] for name in ("active", "suspended", "revoked", "expired")}
        assert [each.name for each in scene.do("list", expiring_within=3 * HOUR)] == ["active"]
        assert [active.record.name] == ["active"]

    def test_mass_revocation_includes_suspended_keys(self, scene):
        issued = scene.issue(owner="a")
        scene.do("suspend", issued.record.id)
        assert scene.do("revoke_many", owner="a").revoked == 1
        assert scene.do("verify", issued.key).verdict is Verdict.REVOKED


class TestOwner:
    def test_suspends_and_resumes_all_keys_of_the_owner(self, scene, clock):
        mine = [scene.issue(owner="a") for _ in range(3)]
        others = [scene.issue(owner="A"), scene.issue(owner="b"), scene.issue()]
        scene.do("suspend", others[1].record.id)
        scene.do("suspend", mine[0].record.id, reason="by itself")
        progress = []
        assert scene.do("suspend_many", owner="a", reason="unpaid", progress=progress.append) == BulkSuspension(2)
        assert [each.suspension_reason for each in progress] == ["unpaid"] * 2
        assert scene.record(mine[0]).suspension_reason == "by itself"
        assert scene.works(*mine, *others) == [False] * 3 + [True, False, True]
        assert scene.do("resume_many", owner="a", reason="paid") == BulkSuspension(3)
        assert scene.works(*mine, *others) == [True] * 3 + [True, False, True]
        assert scene.events(mine[1])[1:] == [
            ("key.suspended", 2, "unpaid"),
            ("key.resumed", 3, "paid"),
        ]

    def test_ended_keys_are_unchanged(self, scene, clock):
        revoked, expired = scene.issue(owner="a"), scene.issue(owner="a", lifetime=HOUR)
        scene.do("revoke", revoked.record.id)
        clock.advance(HOUR)
        before = [scene.record(each) for each in (revoked, expired)]
        assert scene.do("suspend_many", owner="a") == BulkSuspension()
        assert [scene.record(each) for each in (revoked, expired)] == before

    def test_dry_run(self, scene):
        issued = scene.issue(owner="a")
        assert scene.do("suspend_many", owner="a", dry_run=True) == BulkSuspension(1)
        assert scene.record(issued) == issued.record

    @pytest.mark.parametrize("method", ["suspend_many", "resume_many"])
    @pytest.mark.parametrize("owner", [None, "", 7, {"$ne": None}], ids=str)
    def test_owner_is_required(self, scene, method, owner):
        issued = scene.issue(owner="a")
        with pytest.raises(InvalidValue, match="owner"):
            scene.do(method, owner=owner)
        assert scene.record(issued) == issued.record


class TestEditedRows:
    """Rows changed by somebody who can write to the database and has no Fernet key."""

    @pytest.mark.parametrize(
        "edit", [{"suspended_at": None}, {"suspended_at": None, "suspension_reason": None}], ids=str
    )
    def test_suspension_cannot_be_removed(self, scene, edit):
        issued = scene.issue(owner="a")
        scene.do("suspend", issued.record.id, reason="unpaid")
        Attacker(scene.backend).edit_row(issued.record.id, **edit)
        assert scene.do("verify", issued.key).verdict is Verdict.TAMPERED
        with pytest.raises(RowTampered, match="suspended_at"):
            scene.do("suspend", issued.record.id)

    def test_repaired_key_with_lost_secrets_works_once_resumed(self, scene):
        issued = scene.issue()
        scene.do("suspend", issued.record.id)
        Attacker(scene.backend).edit_row(issued.record.id, seal="gAAAAA==")
        repaired = scene.do("repair", issued.record.id)
        assert scene.do("verify", repaired.key).verdict is Verdict.SUSPENDED
        scene.do("resume", issued.record.id)
        assert scene.works(repaired) == [True]

    @pytest.mark.parametrize("method", ["suspend_many", "resume_many"])
    def test_rows_that_do_not_hold_are_reported(self, scene, method, caplog):
        good, tampered, damaged = (scene.issue(owner="a") for _ in range(3))
        if method == "resume_many":
            scene.do("suspend_many", owner="a")
        Attacker(scene.backend).edit_row(tampered.record.id, name="edited")
        Attacker(scene.backend).edit_row(damaged.record.id, updated_at="yesterday")
        done = scene.do(method, owner="a")
        assert (done.changed, sorted(done.failed)) == (1, sorted([tampered.record.id, damaged.record.id]))
        assert scene.works(good) == [method == "resume_many"]
        for issued in (tampered, damaged):
            assert f"key {issued.record.id} was not changed" in caplog.text


class TestConcurrentChanges:
    @pytest.fixture
    def scene(self, app, backend, clock):
        return Scene(app, clock, backend=backend)

    @pytest.mark.parametrize(("changes", "is_suspended"), [({"name": "renamed"}, True), ({"owner": "b"}, False)])
    def test_updated_key_is_suspended_unless_the_owner_is_new(self, scene, changes, is_suspended):
        issued = scene.issue(owner="a")
        scene.backend.before_next_update = lambda: scene.do("update", issued.record.id, **changes)
        assert scene.do("suspend_many", owner="a").changed == is_suspended
        assert scene.works(issued) == [not is_suspended]

    def test_key_that_ended_is_skipped(self, scene):
        issued, other = sorted((scene.issue(owner="a") for _ in range(2)), key=lambda each: each.record.id)
        scene.backend.before_next_update = lambda: scene.do("revoke", issued.record.id)
        assert scene.do("suspend_many", owner="a") == BulkSuspension(1)
        assert scene.do("verify", other.key).verdict is Verdict.SUSPENDED

    def test_key_that_fails_is_reported(self, scene, monkeypatch, caplog):
        keys = sorted((scene.issue(owner="a") for _ in range(3)), key=lambda each: each.record.id)
        update = scene.backend.update

        def fail_for_one(key, **options):
            if key.record.id == keys[1].record.id:
                raise StorageError("the number is out of range")
            update(key, **options)

        monkeypatch.setattr(scene.backend, "update", fail_for_one)
        failed = (keys[1].record.id,)
        assert scene.do("suspend_many", owner="a") == BulkSuspension(2, failed)
        assert scene.works(*keys) == [False, True, False]

        result = scene.run("suspend", "--owner", "a", "--yes")
        assert result.exit_code == 1
        assert f"Not suspended, see the log: {keys[1].record.id}.\n" in result.stderr
        assert f"key {keys[1].record.id} was not changed: the number is out of range" in caplog.text
        result = scene.run("suspend", "--owner", "a", "--yes", "--json")
        document = json.loads(result.stdout)
        assert (document["found"], document["suspended"], document["failed"]) == (1, 0, 1)
        assert document["failures"] == [{"key_id": key_id, "reason": "see the log"} for key_id in failed]

    def test_outage_stops_the_run(self, scene, monkeypatch):
        for _ in range(3):
            scene.issue(owner="a")
        attempts = []

        def fail(*arguments, **options):
            attempts.append(arguments)
            monkeypatch.setattr(scene.backend, "find", fail)
            raise StorageError("connection refused")

        monkeypatch.setattr(scene.backend, "update", fail)
        with pytest.raises(StorageError, match="connection refused"):
            scene.do("suspend_many", owner="a")
        assert len(attempts) == 2


class TestCommandLine:
    def test_one_key(self, scene):
        issued = scene.issue()
        key_id = issued.record.id
        result = scene.run("suspend", key_id, stdin="n\n")
        assert (result.exit_code, scene.works(issued)) == (1, [True])
        assert f"Suspend 'ci' ({key_id})? [y/N]" in result.stderr
        result = scene.run("suspend", key_id, "--reason", "unpaid", stdin="y\n")
        assert result.exit_code == 0
        assert f"ci ({key_id}) is suspended." in result.stderr
        shown = scene.run("show", key_id).stdout.splitlines()
        rows = dict(line.split("  ", 1) for line in shown)
        assert (rows["status"].strip(), rows["suspension reason"].strip()) == ("suspended", "unpaid")
        assert scene.run("list", "--status", "suspended").stdout.splitlines()[1].split()[:2] == [key_id, "suspended"]
        assert "Suspend" not in scene.run("suspend", key_id).stderr
        assert f"Resume 'ci' ({key_id})? [y/N]" in scene.run("resume", key_id, stdin="n\n").stderr
        assert json.loads(scene.run("resume", key_id, "--yes", "--json").stdout)["status"] == "active"
        assert scene.works(issued) == [True]

    def test_ended_key_is_one_line(self, scene):
        issued = scene.issue()
        scene.do("revoke", issued.record.id)
        result = scene.run("suspend", issued.record.id)
        assert result.exit_code == 1
        assert result.stderr == f"Error: key {issued.record.id} is revoked and cannot be suspended\n"

    def test_owner(self, scene):
        keys = [scene.issue(owner="a") for _ in range(2)]
        assert "Keys that would be suspended: 2." in scene.run("suspend", "--owner", "a", "--dry-run").stderr
        result = scene.run("suspend", "--owner", "a", stdin="n\n")
        assert "Suspend 2 keys of 'a'? [y/N]" in result.stderr
        assert (result.exit_code, scene.works(*keys)) == (1, [True, True])
        result = scene.run("suspend", "--owner", "a", "--reason", "unpaid", stdin="y\n")
        assert (result.exit_code, scene.works(*keys)) == (0, [False, False])
        assert "Keys suspended: 2." in result.stderr
        assert {scene.record(each).suspension_reason for each in keys} == {"unpaid"}
        document = {"dry_run": True, "found": 2, "resumed": 0, "failed": 0, "failures": []}
        assert json.loads(scene.run("resume", "--owner", "a", "--dry-run", "--json").stdout) == document
        document |= {"dry_run": False, "resumed": 2}
        assert json.loads(scene.run("resume", "--owner", "a", "--yes", "--json").stdout) == document
        assert "Keys resumed: 0." in scene.run("resume", "--owner", "a").stderr

    @pytest.mark.parametrize("command", ["suspend", "resume"])
    def test_unknown_owner(self, scene, command):
        scene.issue(owner="a")
        result = scene.run(command, "--owner", "nobody", "--yes")
        assert (result.exit_code, result.stderr) == (1, "Error: no key has the owner 'nobody'\n")

    @pytest.mark.parametrize("command", ["suspend", "resume"])
    @pytest.mark.parametrize("arguments", [[], ["ID", "--owner", "a"], ["ID", "--dry-run"], ["--dry-run"]], ids=str)
    def test_usage_errors(self, scene, command, arguments):
        issued = scene.issue(owner="a")
        result = scene.run(command, *(issued.record.id if each == "ID" else each for each in arguments), "--yes")
        assert result.exit_code == 2
        assert scene.works(issued) == [True]

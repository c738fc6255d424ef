"""``flask apikey audit``: events, and their verification."""

import json
import stat
from datetime import timedelta

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.model.keystring import mint
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene


@pytest.fixture
def scene(make_app, tmp_path, clock):
    uri = f"sqlite:///{tmp_path}/keys.db"
    return KeyScene(make_app(APIKEY_STORAGE_URI=uri, APIKEY_RECOVERABLE=True), clock)


@pytest.fixture
def key_id(scene):
    """Id of a key with five events, one an hour; one more event of another key follows."""
    issued = scene.issue(owner="team-7", lifetime=timedelta(days=1))
    scene.clock.advance(timedelta(hours=1))
    scene.do("update", issued.record.id, name="renamed", scopes=["read"])
    scene.clock.advance(timedelta(hours=1))
    scene.roll(issued, grace=timedelta(hours=1))
    scene.clock.advance(timedelta(hours=1))
    scene.do("reveal", issued.record.id)
    scene.clock.advance(timedelta(hours=1))
    scene.do("revoke", issued.record.id, reason="left")
    scene.clock.advance(timedelta(hours=1))
    scene.issue("another")
    return issued.record.id


@pytest.fixture
def attacker(scene, key_id):
    return Attacker(scene.backend)


@pytest.fixture
def run(scene):
    return lambda *options: scene.app.test_cli_runner().invoke(apikey, ["audit", *map(str, options)])


@pytest.fixture
def numbers(run):
    """Numbers of the events of a listing in JSON, and the cursor of the next page."""

    def numbers(*options):
        result = json.loads(run("--json", *options).stdout)
        return [event["number"] for event in result["events"]], result["next"]

    return numbers


def files_beside_the_database(directory):
    return [path.name for path in directory.iterdir() if not path.name.startswith("keys.db")]


class TestEvents:
    def test_json(self, run, key_id):
        events = json.loads(run("--json", "--key", key_id).stdout)["events"]
        assert [(each["event"], each["number"], each["reason"], each["details"]) for each in events] == [
            ("key.created", 1, None, {}),
            ("key.updated", 2, None, {"fields": ["name", "scopes"]}),
            ("key.rolled", 3, None, {"grace_seconds": 3600.0}),
            ("key.revealed", 4, None, {}),
            ("key.revoked", 5, "left", {}),
        ]
        assert {each["owner"] for each in events} == {"team-7"}

    def test_table(self, run, key_id):
        lines = run("--key", key_id).stdout.splitlines()
        assert lines[0].split() == ["TIME", "(UTC)", "EVENT", "KEY", "VERSION", "OWNER", "ACTOR", "REASON", "DETAILS"]
        assert lines[2].split() == [
            "2026-01-01",
            "01:00:00",
            "key.updated",
            key_id,
            "2",
            "team-7",
            "fields=name,scopes",
        ]
        assert lines[5].split() == ["2026-01-01", "04:00:00", "key.revoked", key_id, "5", "team-7", "left"]
        assert len(lines) == 6

    def test_filters(self, numbers, key_id):
        assert numbers("--owner", "team-7") == ([1, 2, 3, 4, 5], None)
        assert numbers("--since", "2026-01-01T03:00") == ([4, 5, 1], None)
        assert numbers("--since", "2h") == ([4, 5, 1], None)
        assert numbers("--since", "2h", "--key", key_id) == ([4, 5], None)
        assert numbers("--actor", "nobody") == ([], None)

    def test_pages(self, numbers, run, key_id):
        first, cursor = numbers("--limit", 4)
        assert numbers("--limit", 2, "--after", cursor) == ([5, 1], None)
        assert first == [1, 2, 3, 4]
        assert f"More events follow: add --after {cursor}" in run("--limit", 4).stderr
        assert run("--limit", 6).stderr == ""

    def test_newest_first(self, numbers, key_id):
        newest, cursor = numbers("--last", 2)
        assert newest == [1, 5]
        assert numbers("--last", 9, "--after", cursor) == ([4, 3, 2, 1], None)

    def test_pages_of_the_storage(self, numbers, key_id, monkeypatch):
        monkeypatch.setattr("flask_apikey.cli.audit_command._PAGE", 2)
        assert numbers() == ([1, 2, 3, 4, 5, 1], None)
        assert numbers("--limit", 3)[0] == [1, 2, 3]

    def test_events_about_no_key(self, scene, run, numbers, key_id):
        repository = scene.app.extensions["apikey"].services.repository
        repository.record_without_key("rotation.run", {"resealed": 3})
        assert numbers("--key", "storage") == ([1], None)
        (_, line) = run("--key", "storage").stdout.splitlines()
        assert line.split()[2:] == ["rotation.run", "storage", "1", "resealed=3"]

    def test_no_events(self, run, key_id):
        assert run("--key", STORAGE_ID).stderr == "No events.\n"

    def test_hostile_texts_stay_on_one_line(self, scene, run, key_id, attacker):
        attacker.edit_event(key_id, 2, actor="a\nb\x1b[31m", details='{"x":"\\n\\u001b"}', reason="\u202e")
        lines = run("--key", key_id).stdout.splitlines()
        assert len(lines) == 6
        assert "a\\u{a}b\\u{1b}[31m" in lines[2]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--expect", "file"], "--note and --expect need --verify"),
            (["--note", "file"], "--note and --expect need --verify"),
            (["--verify", "--key", "0" * 16], "cannot be combined with --key"),
            (["--verify", "--limit", "100", "--since", "1d"], "cannot be combined with --since, --limit"),
            (["--last", "1", "--limit", "1"], "--last and --limit cannot be combined"),
            (["--after", "7"], "the cursor is not from a listing of events"),
        ],
    )
    def test_usage_errors(self, run, key_id, options, message):
        result = run(*options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr

    def test_invalid_id(self, run, key_id):
        result = run("--key", "nonsense")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "Error: not the id of a key: an id has 16 letters and digits\n"

    def test_origin_of_the_change(self, scene, run):
        @scene.app.post("/keys")
        def create():
            return scene.api_keys.create(name="ci").record.id

        scene.app.test_client().post("/keys", headers={"X-Request-ID": "r-1"})
        (event,) = json.loads(run("--json").stdout)["events"]
        assert event["details"] == {"address": "127.0.0.1", "request_id": "r-1"}

    def test_no_secret(self, scene, run):
        issued = scene.issue()
        scene.do("revoke", issued.record.id, reason=f"leaked: {issued.key}")
        assert issued.key[-49:] not in run("--json").stdout
        assert mint("fak", issued.record.id)[:21] in run("--json").stdout

    def test_storage_without_history(self, make_app, backend):
        app = make_app()
        APIKeys(app, backend=backend)
        for options in ([], ["--verify"]):
            result = app.test_cli_runner().invoke(apikey, ["audit", *options])
            assert result.exit_code == 1
            assert "keeps no history" in result.stderr


class TestVerify:
    @pytest.fixture
    def note(self, run, key_id, tmp_path):
        """A file of noted heads."""
        assert run("--verify", "--note", tmp_path / "note").exit_code == 0
        return tmp_path / "note"

    def test_everything_holds(self, run, key_id):
        result = run("--verify")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "Everything holds (2 keys, 0 tombstones, 6 events)." in result.stderr

    def test_json(self, run, key_id, attacker):
        assert json.loads(run("--verify", "--json").stdout) == {
            "intact": True,
            "keys": 2,
            "tombstones": 0,
            "events": 6,
            "expected": 0,
            "found": 0,
            "problems": [],
            "noted": None,
        }
        attacker.edit_row(key_id, name="edited")
        result = run("--verify", "--json")
        assert result.exit_code == 1
        found = json.loads(result.stdout)
        assert (found["intact"], found["found"]) == (False, 1)
        assert found["problems"] == [
            {
                "key_id": key_id,
                "kind": "tampered",
                "message": "the row was changed outside of this library: name",
                "event": None,
                "fields": ["name"],
            }
        ]

    def test_problems(self, run, key_id, attacker):
        attacker.edit_row(key_id, name="edited")
        attacker.remove_event(key_id, 2)
        result = run("--verify")
        assert result.exit_code == 1
        assert result.stdout.splitlines() == [
            f"{key_id}  the row was changed outside of this library: name",
            f"{key_id}  event 2 is missing",
        ]
        assert "Problems: 2 (" in result.stderr

    def test_first_problems(self, run, key_id, attacker, monkeypatch):
        monkeypatch.setattr("flask_apikey.core.keys.verification.MAX_PROBLEMS", 1)
        attacker.edit_row(key_id, name="edited")
        attacker.remove_event(key_id, 2)
        result = run("--verify")
        assert len(result.stdout.splitlines()) == 1
        assert "1 more problem." in result.stderr

    def test_note(self, scene, note, key_id):
        lines = [json.loads(line) for line in note.read_text().splitlines()]
        assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
        stored = scene.backend.get(key_id)
        assert {"id": key_id, "version": 5, "hash": stored.history_hash} in lines
        assert len(lines) == 2
        assert stat.S_IMODE(note.stat().st_mode) == 0o600

    def test_deleted_key(self, run, note, key_id, attacker):
        attacker.remove_row(key_id)
        attacker.remove_events(key_id)
        assert run("--verify").exit_code == 0
        result = run("--verify", "--expect", note)
        assert result.exit_code == 1
        assert result.stdout == f"{key_id}  the key was deleted with all its events: version 5 was noted\n"

    def test_note_replaces_the_expected_file_only(self, scene, run, note, key_id):
        scene.issue("later")
        assert "exists: name a new file" in run("--verify", "--note", note).stderr
        assert len(note.read_text().splitlines()) == 2
        assert run("--verify", "--expect", note, "--note", note).exit_code == 0
        assert len(note.read_text().splitlines()) == 3

    def test_nothing_is_noted_when_something_does_not_hold(self, run, note, key_id, attacker, tmp_path):
        before = note.read_text()
        attacker.edit_row(key_id, name="edited")
        for name in (note, tmp_path / "new"):
            result = run("--verify", "--expect", note, "--note", name)
            assert result.exit_code == 1
            assert "nothing was written" in result.stderr
        assert note.read_text() == before
        assert files_beside_the_database(tmp_path) == ["note"]

    def test_interrupted_note_leaves_no_file(self, scene, run, key_id, tmp_path, monkeypatch):
        monkeypatch.setattr(scene.backend, "scan", lambda _: iter([scene.backend.get(key_id), None]))
        assert run("--verify", "--note", tmp_path / "note").exit_code != 0
        assert files_beside_the_database(tmp_path) == []

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", None),
            ("nonsense\n", "line 1 is not a head"),
            (b"\xff\xfe\n", "line 1 is not a head"),
            ("x" * 100_000, "line 1 is not a head"),
            ('{"id":"b000000000000000","version":1,"hash":""}\n' * 2, "line 2 is out of order"),
        ],
        ids=["empty", "text", "bytes", "long", "repeated"],
    )
    def test_malformed_file(self, run, key_id, tmp_path, content, message):
        file = tmp_path / "note"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        result = run("--verify", "--expect", file)
        assert result.exit_code == (0 if message is None else 1)
        if message is not None:
            assert f"Error: {file}: {message}" in result.stderr

    def test_file_that_cannot_be_read_or_written(self, run, key_id, tmp_path):
        missing = tmp_path / "missing" / "note"
        assert "cannot be read: No such file" in run("--verify", "--expect", missing).stderr
        assert "cannot be written: No such file" in run("--verify", "--note", missing).stderr
        assert "exists: name a new file" in run("--verify", "--note", tmp_path).stderr


def test_day_of_a_team(scene, run):
    """Three people, a job and two keys act. The listing alone tells who did what, when and why."""
    repository = scene.app.extensions["apikey"].services.repository

    def act(actor, method, *arguments, **options):
        repository._origin = lambda: {"actor": actor}
        scene.clock.advance(timedelta(hours=1))
        return scene.do(method, *arguments, **options)

    first = act("alice", "create", name="export", owner="team-7")
    second = act("bob", "create", name="import", owner="team-8")
    keys = {first.record.id: "first", second.record.id: "second"}
    act("alice", "update", first.record.id, scopes=["read"])
    act(f"key:{first.record.id}", "roll", first.record.id, grace="1d")
    act("carol", "update", second.record.id, owner="team-7")
    act(f"key:{second.record.id}", "roll", second.record.id)
    act("cleanup job", "finish_roll", first.record.id, reason="nightly")
    act("carol", "revoke", second.record.id, reason="left the team")

    def told(*options):
        events = json.loads(run("--json", *options).stdout)["events"]
        return [
            (
                each["at"][11:13],
                each["event"].removeprefix("key."),
                keys[each["key_id"]],
                each["owner"],
                keys.get(each["actor"].removeprefix("key:"), each["actor"]),
                each["reason"],
            )
            for each in events
        ]

    day = [
        ("01", "created", "first", "team-7", "alice", None),
        ("02", "created", "second", "team-8", "bob", None),
        ("03", "updated", "first", "team-7", "alice", None),
        ("04", "rolled", "first", "team-7", "first", None),
        ("05", "updated", "second", "team-7", "carol", None),
        ("06", "rolled", "second", "team-7", "second", None),
        ("07", "secrets_ended", "first", "team-7", "cleanup job", "nightly"),
        ("08", "revoked", "second", "team-7", "carol", "left the team"),
    ]
    assert told() == day
    assert told("--actor", "carol") == [day[4], day[7]]
    assert told("--owner", "team-8") == [day[1]]
    assert told("--key", first.record.id) == [day[0], day[2], day[3], day[6]]
    lines = run().stdout.splitlines()[1:]
    for line, (_, event, _, owner, _, reason) in zip(lines, day, strict=True):
        assert f"key.{event} " in line
        assert owner in line
        assert reason is None or reason in line

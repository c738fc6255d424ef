"""Verification of rows and histories, and what an attacker's edits show in it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.keys import verification
from flask_apikey.core.keys.heads import Head, parse_heads, to_line
from flask_apikey.core.keys.verification import verify_all
from flask_apikey.core.model.history import STORAGE_ID, LifecycleEvent, stored_event
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.core.times import to_microseconds
from flask_apikey.testing.samples import NOW
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene

EVENT_FIELDS = ("key_id", "number", "event", "owner", "actor", "reason", "details", "previous", "hash")


@pytest.fixture
def scene(make_app, any_storage_uri, clock):
    return KeyScene(make_app(APIKEY_STORAGE_URI=any_storage_uri), clock)


@pytest.fixture
def ring(fernet_key):
    return FernetKeyring(fernet_key)


@pytest.fixture
def key_id(scene):
    """Id of a key with four events, between other keys, a tombstone and an event about no key."""
    issued = [scene.issue(f"key {number}") for number in range(4)]
    for each in issued[:2]:
        scene.do("revoke", each.record.id)
    scene.clock.advance(timedelta(seconds=1))
    scene.do("prune", ended_before=scene.clock())
    key_id = issued[2].record.id
    scene.do("update", key_id, name="renamed", scopes=["read"])
    scene.do("roll", key_id)
    scene.do("revoke", key_id, reason="left")
    scene.app.extensions["apikey"].services.repository.record_without_key("rotation.run", {})
    return key_id


@pytest.fixture
def attacker(scene, key_id):
    return Attacker(scene.backend)


@pytest.fixture
def verify(scene, ring):
    """Verify and return the problems as (id, kind, event, message)."""

    def verify(expected=()):
        result = verify_all(scene.backend, ring, expected=expected)
        assert result.holds == (not result.problems)
        return [(each.key_id, each.kind.value, each.event, each.message) for each in result.problems]

    return verify


@pytest.fixture
def noted(scene, ring, key_id):
    """Heads of all rows as they are at first."""
    heads = []
    assert verify_all(scene.backend, ring, note=heads.append).holds
    return heads


def test_everything_holds(scene, ring, key_id):
    steps = []
    result = verify_all(scene.backend, ring, progress=steps.append)
    assert result.to_dict() == {
        "intact": True,
        "keys": 2,
        "tombstones": 2,
        "events": 12,
        "expected": 0,
        "found": 0,
        "problems": [],
    }
    assert sum(steps) == 5


@pytest.mark.parametrize("number", [1, 2, 4], ids=["first", "middle", "last"])
class TestEvents:
    def test_changed(self, attacker, verify, key_id, number):
        attacker.edit_event(key_id, number, actor="somebody else")
        message = f"event {number} was changed, or is the event of another key"
        assert verify() == [(key_id, "history", number, message)]

    def test_replaced(self, attacker, verify, key_id, number):
        forged = replace(stored_event(attacker.event(key_id, number)), actor="somebody else", hash="")
        attacker.edit_event(key_id, number, actor=forged.actor, hash=forged.hash)
        assert verify() == [(key_id, "history", number, f"event {number} was replaced")]

    def test_removed(self, attacker, verify, key_id, number):
        attacker.remove_event(key_id, number)
        assert verify() == [(key_id, "history", number, f"event {number} is missing")]

    def test_moved_to_another_key(self, scene, attacker, verify, key_id, number):
        other = scene.issue("other").record.id
        attacker.edit_event(key_id, number, key_id=other, number=2)
        assert sorted(verify()) == sorted(
            [
                (key_id, "history", number, f"event {number} is missing"),
                (other, "newer_events", 2, "event 2 was added: the row is at version 1"),
            ]
        )

    def test_moved_to_a_key_that_does_not_exist(self, attacker, verify, key_id, number):
        nobody = new_id()
        attacker.edit_event(key_id, number, key_id=nobody)
        problems = {(each[0], each[1], each[2]) for each in verify()}
        assert problems == {(key_id, "history", number), (nobody, "no_row", 1)}


def test_added_event(attacker, verify, key_id):
    last = attacker.event(key_id, 4)
    event = LifecycleEvent(key_id=key_id, number=5, at=NOW, event="key.updated", previous=last["hash"])
    attacker.add_event(**stored(event))
    message = "an older row was put back, or event 5 was added: the row is at version 4"
    assert verify() == [(key_id, "newer_events", 5, message)]


def test_added_event_that_follows_nothing(attacker, verify, key_id):
    attacker.add_event(**stored(LifecycleEvent(key_id=key_id, number=900, at=NOW, event="key.updated")))
    assert verify() == [(key_id, "newer_events", 900, "event 900 was added: the row is at version 4")]


def test_event_of_no_row(attacker, verify, key_id):
    nobody = new_id()
    attacker.add_event(**stored(LifecycleEvent(key_id=nobody, number=1, at=NOW, event="key.created")))
    assert [each[:3] for each in verify()] == [(nobody, "no_row", 1)]


def test_all_events_removed(attacker, verify, key_id):
    attacker.remove_events(key_id)
    assert verify() == [(key_id, "history", 1, "events 1 to 4 are missing")]


def test_events_about_no_key(attacker, verify, key_id):
    attacker.remove_event(STORAGE_ID, 1)
    assert verify() == [(STORAGE_ID, "history", 1, "event 1 is missing")]


class TestRows:
    def test_edited(self, attacker, verify, key_id):
        attacker.edit_row(key_id, name="edited", owner="team-8")
        message = "the row was changed outside of this library: name, owner"
        assert verify() == [(key_id, "tampered", None, message)]

    def test_history_hash(self, attacker, verify, key_id):
        attacker.edit_row(key_id, history_hash=attacker.event(key_id, 3)["hash"])
        message = "the row was changed outside of this library: history_hash"
        assert verify() == [(key_id, "tampered", None, message)]

    def test_poisoned_version(self, attacker, verify, key_id):
        attacker.edit_row(key_id, version=2**31 - 1)
        assert [each[:2] for each in verify()] == [(key_id, "tampered")]

    def test_seal_of_another_row(self, scene, attacker, verify, key_id):
        other = scene.issue("other").record.id
        attacker.edit_row(key_id, seal=attacker.row(other)["seal"])
        ((found, kind, _, message),) = verify()
        assert (found, kind) == (key_id, "tampered")
        assert "id, " in message

    def test_seal_that_is_no_seal(self, attacker, verify, key_id):
        attacker.edit_row(key_id, seal="nonsense")
        assert verify() == [(key_id, "unreadable", None, f"key {key_id}: the stored seal is damaged")]

    def test_damaged(self, attacker, verify, key_id):
        attacker.edit_row(key_id, metadata="no JSON")
        ((found, kind, _, message),) = verify()
        assert (found, kind) == (key_id, "damaged")
        assert key_id in message

    def test_damaged_row_and_changed_event(self, attacker, verify, key_id):
        attacker.edit_row(key_id, metadata="no JSON")
        attacker.edit_event(key_id, 2, actor="somebody else")
        assert [each[1:3] for each in verify()] == [("damaged", None), ("history", 2)]

    def test_revocation_of_a_tampered_row_undone(self, scene, attacker, verify, key_id):
        tampered = scene.issue("tampered").record.id
        genuine = attacker.row(tampered)
        attacker.edit_row(tampered, name="edited")
        scene.do("revoke", tampered)
        assert [(kind, event) for _, kind, event, _ in verify()] == [("tampered", None)]
        attacker.put_back(genuine)
        message = f"its revocation of {scene.clock():%Y-%m-%d %H:%M:%S} UTC was undone"
        assert verify() == [(tampered, "put_back", None, message)]
        scene.do("revoke", tampered)
        assert verify() == []

    def test_older_row_put_back(self, scene, attacker, verify, key_id):
        other = scene.issue("other").record.id
        older = attacker.row(other)
        scene.do("update", other, scopes=["read"])
        scene.do("revoke", other)
        attacker.put_back(older)
        message = "an older row was put back, or event 2 was added: the row is at version 1"
        assert verify() == [(other, "newer_events", 2, message)]

    def test_removed(self, attacker, verify, key_id):
        attacker.remove_row(key_id)
        assert [each[:3] for each in verify()] == [(key_id, "no_row", 1)]

    def test_fernet_key_that_is_not_configured(self, scene, key_id):
        result = verify_all(scene.backend, FernetKeyring(generate_fernet_key()))
        assert {each.kind.value for each in result.problems} == {"unreadable"}
        assert result.found == 5


class TestNotedHeads:
    def test_nothing_changed(self, verify, noted, key_id):
        assert [head.id for head in noted] == sorted(head.id for head in noted)
        assert len(noted) == 5
        assert verify(noted) == []

    def test_later_changes(self, scene, verify, noted, key_id):
        other = scene.issue("later").record.id
        scene.do("update", other, name="renamed")
        scene.do("revoke", next(key.id for key in scene.do("list", status="active")))
        assert verify(noted) == []

    def test_key_deleted_with_all_its_events(self, attacker, verify, noted, key_id):
        attacker.remove_row(key_id)
        attacker.remove_events(key_id)
        assert verify() == []
        message = "the key was deleted with all its events: version 4 was noted"
        assert verify(noted) == [(key_id, "deleted", 4, message)]

    def test_tombstone_deleted_with_all_its_events(self, scene, attacker, verify, noted):
        pruned = next(head.id for head in noted if head.version == 3)
        attacker.remove_row(pruned)
        attacker.remove_events(pruned)
        assert verify() == []
        assert [each[:2] for each in verify(noted)] == [(pruned, "deleted")]

    def test_key_put_back_whole(self, scene, ring, attacker, verify, key_id):
        other = scene.issue("other").record.id
        older = attacker.row(other)
        scene.do("update", other, scopes=["read"])
        scene.do("revoke", other)
        heads = []
        verify_all(scene.backend, ring, note=heads.append)
        attacker.put_back(older)
        for number in (2, 3):
            attacker.remove_event(other, number)
        assert verify() == []
        message = "the key was put back to version 1: version 3 was noted"
        assert verify(heads) == [(other, "put_back", 2, message)]
        scene.do("update", other, name="a new branch")
        scene.do("update", other, name="of the history")
        assert verify() == []
        message = "event 3 is not the one that was noted: the history was rewritten"
        assert verify(heads) == [(other, "rewritten", 3, message)]

    def test_heads_of_rows_that_do_not_hold_are_left_out(self, scene, ring, attacker, key_id):
        attacker.edit_row(key_id, name="edited")
        heads = []
        verify_all(scene.backend, ring, note=heads.append)
        assert key_id not in {head.id for head in heads}

    def test_lines(self, noted):
        assert list(parse_heads(map(to_line, noted))) == noted

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "nonsense",
            "[]",
            "{}",
            '{"id":"short","version":1,"hash":""}',
            '{"id":"8sQ2dKf0LmX7Tz1B","version":"1","hash":""}',
            '{"id":"8sQ2dKf0LmX7Tz1B","version":1,"hash":1}',
            '{"id":"8sQ2dKf0LmX7Tz1B","version":1,"hash":"","more":1}',
            "[" * 900,
        ],
    )
    def test_malformed_line(self, line):
        good = to_line(Head("0" * 16, 1, ""))
        with pytest.raises(InvalidValue, match="line 2 is not a head"):
            list(parse_heads([good, line]))

    def test_unordered_lines(self):
        lines = [to_line(Head(key_id * 16, 1, "")) for key_id in "aba"]
        with pytest.raises(InvalidValue, match=r"line 3 is out of order: a+ comes after b+"):
            list(parse_heads(lines))


class TestConcurrentWriters:
    """Rows and events are read one after the other, while both change."""

    @pytest.fixture
    def during(self, scene, monkeypatch):
        """Run a function once, after the rows or the events were read."""

        def during(part, change):
            owner = {"scan": scene.backend, "chains": scene.backend.history}[part]
            read = getattr(owner, part)
            calls = []

            def reading(*arguments, **options):
                found = list(read(*arguments, **options))
                if not calls:
                    calls.append(part)
                    change()
                return found

            monkeypatch.setattr(owner, part, reading)

        return during

    @pytest.mark.parametrize("part", ["scan", "chains"])
    def test_no_false_alarm(self, scene, verify, during, key_id, part):
        active = next(key.id for key in scene.do("list", status="active"))

        def change():
            scene.do("update", active, name="changed")
            scene.issue("new")

        during(part, change)
        assert verify() == []

    def test_key_that_changes_all_the_time(self, scene, verify, key_id, monkeypatch):
        active = next(key.id for key in scene.do("list", status="active"))
        get, steps = scene.backend.get, iter(range(1_000))

        def changing(wanted):
            found = get(wanted)
            if wanted == active and not recursion:
                recursion.append(wanted)
                scene.do("update", active, name=f"step {next(steps)}")
                recursion.clear()
            return found

        recursion = []
        scan = scene.backend.scan
        monkeypatch.setattr(scene.backend, "get", changing)

        def scanning(key_filter):
            rows = list(scan(key_filter))
            recursion.append("scan")
            scene.do("update", active, name="changed after the scan")
            recursion.clear()
            return iter(rows)

        monkeypatch.setattr(scene.backend, "scan", scanning)
        assert verify() == []
        assert next(steps) > verification._ATTEMPTS

    def test_problem_is_reported_beside_a_change(self, scene, attacker, verify, during, key_id):
        attacker.edit_event(key_id, 2, actor="somebody else")
        during("scan", lambda: scene.issue("new"))
        assert [each[:3] for each in verify()] == [(key_id, "history", 2)]


def test_only_the_first_problems_are_kept(scene, ring, attacker, key_id, monkeypatch):
    monkeypatch.setattr(verification, "MAX_PROBLEMS", 2)
    for issued in [scene.issue(str(number)) for number in range(3)]:
        attacker.edit_row(issued.record.id, name="edited")
    result = verify_all(scene.backend, ring)
    assert (result.found, len(result.problems)) == (3, 2)


def test_row_and_event_without_an_id(scene, attacker, verify, key_id):
    row = attacker.row(key_id)
    attacker.put_back({**row, "id" if "id" in row else "_id": "added by hand"})
    attacker.add_event(**stored(LifecycleEvent(key_id="?", number=1, at=NOW, event="key.created")))
    assert {each[:2] for each in verify()} == {("'added by hand'", "no_row"), ("'?'", "no_row")}


def stored(event):
    """Return an event in the form of a storage."""
    return {**{name: getattr(event, name) for name in EVENT_FIELDS}, "at": to_microseconds(event.at)}

"""Repair of rows that do not fit their seal or their history."""

from contextlib import suppress
from datetime import timedelta

import pytest

from flask_apikey import Conflict, InvalidValue, KeyNotFound, StorageError
from flask_apikey.core.keys.verification import verify_all
from flask_apikey.core.model.history import GENESIS, REPAIRED, STORAGE_ID, LifecycleEvent
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.testing.samples import NOW
from tests.core.keys.test_verification import stored
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene
from tests.support.stored import all_events


@pytest.fixture
def scene(make_app, any_storage_uri, clock):
    return KeyScene(make_app(APIKEY_STORAGE_URI=any_storage_uri, APIKEY_RECOVERABLE=True), clock)


@pytest.fixture
def issued(scene):
    """A key with three events."""
    issued = scene.issue(owner="team-7")
    scene.do("update", issued.record.id, scopes=["read"])
    scene.do("update", issued.record.id, name="renamed")
    return issued


@pytest.fixture
def key_id(issued):
    return issued.record.id


@pytest.fixture
def attacker(scene, key_id):
    return Attacker(scene.backend)


@pytest.fixture
def problems(scene, fernet_key):
    def problems():
        return [each.message for each in verify_all(scene.backend, FernetKeyring(fernet_key)).problems]

    return problems


@pytest.fixture
def last_event(scene, key_id):
    def last_event():
        return max(
            (each for each in all_events(scene.backend.history) if each.key_id == key_id), key=lambda e: e.number
        )

    return last_event


def test_row_that_fits(scene, key_id):
    before = scene.backend.get(key_id)
    repaired = scene.do("repair", key_id)
    assert not repaired.is_changed
    assert scene.backend.get(key_id) == before


def test_edited_row(scene, issued, key_id, attacker, problems, last_event):
    attacker.edit_row(key_id, name="edited", owner="team-8")
    assert scene.works(issued) == [False]
    repaired = scene.do("repair", key_id, reason="moved by hand")
    assert (repaired.is_changed, repaired.fields, repaired.key) == (True, ("name", "owner"), None)
    assert (repaired.record.name, repaired.record.owner, repaired.record.version) == ("edited", "team-8", 4)
    assert scene.works(issued) == [True]
    assert problems() == []
    event = last_event()
    assert (event.event, event.number, event.owner, event.reason) == (REPAIRED, 4, "team-8", "moved by hand")
    assert event.to_dict()["details"] == {"fields": ["name", "owner"]}
    scene.do("update", key_id, name="renamed again")
    assert problems() == []


@pytest.mark.parametrize("version", [0, -3, 1, 2, 9, 2**31 - 1])
def test_poisoned_version(scene, issued, key_id, attacker, problems, version):
    attacker.edit_row(key_id, version=version)
    assert scene.do("repair", key_id).record.version == 4
    assert scene.works(issued) == [True]
    assert problems() == []


def test_edited_history_hash(scene, key_id, attacker, problems):
    attacker.edit_row(key_id, history_hash="0" * 64)
    assert scene.do("repair", key_id).record.version == 4
    assert problems() == []


def test_lost_seal(scene, issued, key_id, attacker, problems, last_event):
    attacker.edit_row(key_id, seal="nonsense")
    repaired = scene.do("repair", key_id)
    assert repaired.key is not None
    assert repaired.key not in repr(repaired)
    assert scene.do("verify", repaired.key).accepted
    assert scene.works(issued) == [False]
    assert scene.do("reveal", key_id) == repaired.key
    assert problems() == []
    repair = next(each for each in all_events(scene.backend.history) if each.event == REPAIRED)
    assert repair.to_dict()["details"] == {
        "fields": [],
        "new_secret": True,
        "seal": "the stored seal is damaged",
    }


def test_lost_fernet_key(scene, issued, key_id, fernet_key, problems):
    state = scene.app.extensions["apikey"]
    other = scene.issue("other")
    ring = FernetKeyring(generate_fernet_key())
    state.ring = ring
    state.services.repository._keyring = ring
    repaired = scene.do("repair", key_id)
    assert repaired.key is not None
    assert [each.key_id for each in verify_all(scene.backend, ring).problems] == [other.record.id]


def test_seal_of_another_row(scene, issued, key_id, attacker, problems):
    """Neither key may open or reveal the other one."""
    victim = scene.issue("victim")
    row = attacker.row(victim.record.id)
    attacker.edit_row(key_id, seal=row["seal"], sealed_by=row["sealed_by"])
    repaired = scene.do("repair", key_id)
    assert repaired.key is not None
    assert repaired.record.id == key_id
    assert scene.do("reveal", key_id) == repaired.key
    assert scene.works(issued, victim) == [False, True]
    assert problems() == []


def test_revoked_key_gets_no_new_secret(scene, key_id, attacker, problems):
    scene.do("revoke", key_id)
    attacker.edit_row(key_id, seal="nonsense")
    assert scene.do("repair", key_id).key is None
    assert problems() == []


def test_tombstone(scene, key_id, attacker, problems):
    scene.do("revoke", key_id)
    scene.clock.advance(timedelta(seconds=1))
    scene.do("prune", ended_before=scene.clock())
    attacker.edit_row(key_id, name="edited")
    assert scene.do("repair", key_id).key is None
    assert problems() == []
    with pytest.raises(KeyNotFound):
        scene.do("get", key_id)


def test_removal_by_hand_drops_the_secrets(scene, issued, key_id, attacker, problems):
    attacker.edit_row(key_id, pruned_at=1)
    scene.do("repair", key_id)
    assert problems() == []
    attacker.edit_row(key_id, pruned_at=0 if "id" in attacker.row(key_id) else None)
    scene.do("repair", key_id)
    assert problems() == []
    assert scene.works(issued) == [False]


def test_row_of_the_storage(scene, attacker, problems):
    repository = scene.app.extensions["apikey"].services.repository
    for _ in range(2):
        repository.record_without_key("rotation.run", {})
    attacker.edit_row(STORAGE_ID, seal="nonsense")
    assert len(problems()) == 1
    scene.do("repair", STORAGE_ID)
    repository.record_without_key("rotation.run", {})
    assert problems() == []
    assert scene.backend.get(STORAGE_ID).record.version == 4


class TestHistory:
    @pytest.mark.parametrize("number", [1, 2, 3], ids=["first", "middle", "last"])
    @pytest.mark.parametrize("edit", ["removed", "changed", "hash"])
    def test_broken(self, scene, issued, key_id, attacker, problems, number, edit):
        if edit == "removed":
            attacker.remove_event(key_id, number)
        else:
            attacker.edit_event(key_id, number, **{"actor" if edit == "changed" else "hash": "nobody"})
        assert len(problems()) == 1
        repaired = scene.do("repair", key_id)
        assert repaired.fields == ()
        assert f"event {number} " in repaired.problem
        assert repaired.record.version == 4
        assert problems() == []
        assert scene.works(issued) == [True]
        scene.do("update", key_id, name="renamed again")
        assert problems() == []

    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_further_removal_is_found(self, scene, key_id, attacker, problems, number):
        scene.do("update", key_id, name="renamed again")
        attacker.edit_event(key_id, 2, actor="nobody")
        scene.do("repair", key_id)
        assert problems() == []
        attacker.remove_event(key_id, number)
        assert problems() != []

    def test_all_removed(self, scene, key_id, attacker, problems):
        attacker.remove_events(key_id)
        assert scene.do("repair", key_id).record.version == 4
        assert problems() == []

    def test_all_removed_and_row_edited(self, scene, key_id, attacker, problems):
        attacker.remove_events(key_id)
        attacker.edit_row(key_id, version=900)
        assert scene.do("repair", key_id).record.version == 1
        assert problems() == []

    def test_older_row_put_back(self, scene, key_id, attacker, problems, last_event):
        older = attacker.row(key_id)
        for step in range(3):
            scene.do("update", key_id, name=f"step {step}")
        attacker.put_back(older)
        repaired = scene.do("repair", key_id)
        assert repaired.problem == "an older row was put back: its history goes on to event 6"
        assert (repaired.record.version, repaired.record.name) == (7, "renamed")
        assert last_event().number == 7
        assert problems() == []

    @pytest.mark.parametrize("number", [6, 900, 2**31 - 1])
    def test_forged_events_are_removed(self, scene, key_id, attacker, problems, last_event, number):
        for added in (number, number - 1):
            attacker.add_event(**stored(LifecycleEvent(key_id=key_id, number=added, at=NOW, event="key.updated")))
        scene.do("repair", key_id)
        assert problems() == []
        assert last_event().number == 4
        assert last_event().to_dict()["details"]["events_removed"] == 2

    def test_poisoned_version_with_an_event_that_fits(self, scene, key_id, attacker, problems):
        forged = LifecycleEvent(key_id=key_id, number=2**31 - 1, at=NOW, event="key.copied", previous=GENESIS)
        attacker.remove_events(key_id)
        attacker.add_event(**stored(forged))
        attacker.edit_row(key_id, version=forged.number, history_hash=forged.hash)
        assert scene.do("repair", key_id).record.version == 1
        assert problems() == []


class TestRefused:
    def test_unknown_id(self, scene, key_id):
        with pytest.raises(KeyNotFound):
            scene.do("repair", new_id())

    def test_damaged_row(self, scene, key_id, attacker):
        attacker.edit_row(key_id, metadata="no JSON")
        with pytest.raises(StorageError, match=f"cannot be accepted. Correct it .*'flask apikey revoke {key_id}'"):
            scene.do("repair", key_id)

    def test_value_that_cannot_be_stored(self, scene, key_id, attacker):
        attacker.edit_row(key_id, name="two\nlines")
        with pytest.raises(InvalidValue, match="cannot be accepted: name contains"):
            scene.do("repair", key_id)

    def test_row_changed_since_it_was_inspected(self, scene, key_id, attacker):
        repair = scene.app.extensions["apikey"].repair
        attacker.edit_row(key_id, name="edited")
        first, second = repair.inspect(key_id), repair.inspect(key_id)
        repair.accept(first)
        with pytest.raises(Conflict):
            repair.accept(second)

    def test_edit_since_it_was_inspected_is_not_accepted(self, scene, key_id, attacker):
        repair = scene.app.extensions["apikey"].repair
        attacker.edit_row(key_id, name="edited")
        inspection = repair.inspect(key_id)
        attacker.edit_row(key_id, owner="attacker")
        with suppress(Conflict):
            repair.accept(inspection)
        assert scene.backend.get(key_id).record.owner in {"team-7", "attacker"}
        accepted = [each for each in all_events(scene.backend.history) if each.event == REPAIRED]
        assert [each.owner for each in accepted] == ["team-7"]


class TestMany:
    @pytest.fixture
    def repair(self, scene):
        return scene.app.extensions["apikey"].repair.repair_many

    def test_migration(self, scene, issued, attacker, repair, problems):
        others = [scene.issue(str(number), owner="team-8") for number in range(4)]
        for each in (issued, *others[:3]):
            attacker.edit_row(each.record.id, owner="team-9")
        preview = repair(dry_run=True)
        assert (preview.repaired, preview.fitting, preview.fields) == (4, 1, {"owner": 4})
        assert preview.examples.keys() == {each.record.id for each in (issued, *others[:3])}
        assert len(problems()) == 4
        steps = []
        assert repair(reason="migrated", progress=steps.append).repaired == 4
        assert sum(steps) == 5
        assert problems() == []
        assert scene.works(issued, *others) == [True] * 5
        assert repair().repaired == 0

    def test_owner(self, scene, issued, key_id, attacker, repair):
        other = scene.issue("other", owner="team-8").record.id
        attacker.edit_row(key_id, name="edited")
        attacker.edit_row(other, name="edited")
        assert repair(owner="team-8").examples.keys() == {other}

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_failures(self, scene, issued, key_id, attacker, repair, dry_run):
        others = [scene.issue(str(number)).record.id for number in range(4)]
        attacker.edit_row(key_id, owner="team-9")
        attacker.edit_row(others[0], metadata="no JSON")
        attacker.edit_row(others[1], seal="nonsense")
        attacker.edit_row(others[2], name="two\nlines")
        result = repair(dry_run=dry_run)
        assert (result.repaired, result.failed, result.fitting) == (1, 3, 1)
        assert result.failures.keys() == set(others[:3])
        assert "repair this key alone" in result.failures[others[1]]

"""Targets in use, which a copy refuses."""

from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.usage import requests_counted
from flask_apikey.core.errors import TargetInUse
from flask_apikey.core.model.history import STORAGE_ID, LifecycleEvent
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealed_rows import sealed_row
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, generate_fernet_key
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.storage.chains import all_chains
from flask_apikey.testing.samples import NOW
from tests.core.copying.interference import before
from tests.core.copying.storages import Writer, all_rows
from tests.support.attacker import Attacker

HOUR = 490_000
ROTATION = Rotation(from_fingerprint="a" * 16, to_fingerprint="b" * 16, started_at=NOW, due_at=NOW)


def change(writer, key):
    writer.change(key, name="changed there")


def revoke(writer, key):
    writer.change(key, revoked_at=NOW)


def revoke_unsealed(writer, key):
    writer.backend.revoke_unsealed(key.record.id, revoked_at=NOW, reason=None)


def remove(writer, key):
    writer.remove(key)


def add_another(writer, _):
    writer.add()


def record(writer, _):
    writer.record_without_key()


def rotate(writer, _):
    writer.backend.rotation.put(ROTATION, expected_version=0)


def count(writer, key, hour=HOUR):
    label = UsageLabel(key.record.id, hour, "/books", "GET", "2xx")
    writer.backend.usage.add(UsageBatch(new_id(), 1, [UsageRow(label, 5)], [], NOW))


def count_next_day(writer, key):
    count(writer, key, HOUR + 24)


def use(writer, key, at=NOW):
    writer.backend.usage.add(UsageBatch(new_id(), 1, [], [LastUse(key.record.id, 1, at, None)], NOW))


def use_later(writer, key):
    use(writer, key, NOW + timedelta(seconds=1))


def damage(writer, key):
    Attacker(writer.backend).edit_row(key.record.id, metadata="[]")


def edit(writer, key):
    Attacker(writer.backend).edit_row(key.record.id, scopes="*")


def break_the_seal(writer, key):
    Attacker(writer.backend).edit_row(key.record.id, seal="garbage")


def edit_an_event(writer, key):
    Attacker(writer.backend).edit_event(key.record.id, 1, actor="another")


def add_events(writer, _):
    writer.backend.history.append([LifecycleEvent(key_id=new_id(), number=1, at=NOW, event="key.created")])


CHANGES = [
    (add_another, "is not in the source"),
    (change, "has an event there that is not from the source"),
    (revoke, "has an event there that is not from the source"),
    (revoke_unsealed, "does not fit its seal"),
    (remove, "has an event there that is not from the source"),
    (record, "is not in the source"),
    (rotate, "its state of a rotation of the Fernet key is not from the source"),
    (count, "it has counted more requests of key"),
    (count_next_day, "it has counted more requests of key"),
    (use_later, "was used there"),
    (damage, "is damaged there"),
    (edit, "does not fit its seal"),
    (break_the_seal, "seal is damaged"),
    (edit_an_event, "has an event there that is not from the source"),
    (add_events, "which is not in the source"),
]
names = [change_of_target.__name__ for change_of_target, _ in CHANGES]


@pytest.fixture
def copied_key(source, at_source, copy):
    """A used key that was copied, among other keys."""
    keys = at_source.add(3)
    count(at_source, keys[1])
    use(at_source, keys[1])
    result = copy("--verify")
    assert result.exit_code == 0, result.output
    return keys[1]


@pytest.mark.parametrize(("change_target", "found"), CHANGES, ids=names)
def test_target_in_use_is_refused_unchanged(target, at_source, at_target, copied_key, copy, change_target, found):
    change_target(at_target, copied_key)
    at_source.add()
    content = all_rows(target), list(all_chains(target.history)), requests_counted(target)
    for options in (["--dry-run"], []):
        result = copy(*options)
        assert result.exit_code == 1
        assert "the target is in use: " in result.stderr
        assert found in result.stderr
    assert (all_rows(target), list(all_chains(target.history)), requests_counted(target)) == content


def test_key_of_the_target_with_the_same_id_is_refused(source, target, at_source, at_target, ring, copy):
    (key,) = at_source.add()
    at_target.repository.add(replace(key.record, name="another"), SealedSecrets((b"d" * 32,)))
    assert "has an event there that is not from the source" in copy().stderr


@pytest.mark.parametrize("loses_event", [False, True], ids=["event-stays", "event-removed"])
@pytest.mark.parametrize("change_target", [change, revoke, remove])
def test_key_that_changed_on_both_sides_is_refused(
    target, at_source, at_target, copied_key, copy, change_target, loses_event
):
    change_target(at_target, copied_key)
    if loses_event:
        Attacker(target).remove_event(copied_key.record.id, 2)
    stored = target.get(copied_key.record.id)
    for _ in range(3):
        change(at_source, copied_key)
    result = copy()
    assert result.exit_code == 1
    assert "the target is in use: " in result.stderr
    assert target.get(copied_key.record.id) == stored


@pytest.mark.parametrize("is_copied_on", [False, True], ids=["before-the-copy", "after-the-copy"])
@pytest.mark.parametrize("cuts_history", [False, True], ids=["events-stay", "events-removed"])
def test_old_row_put_back_at_the_source_revives_no_key(source, target, at_source, copy, is_copied_on, cuts_history):
    key, _ = at_source.add(2)
    attacker = Attacker(source)
    old = attacker.row(key.record.id)
    if is_copied_on:
        at_source.change(key)
        assert copy().exit_code == 0
    revoke(at_source, key)
    version = source.get(key.record.id).record.version
    assert copy().exit_code == 0
    attacker.put_back(old)
    if cuts_history:
        for number in range(2, version + 1):
            attacker.remove_event(key.record.id, number)
    result = copy("--verify")
    assert result.exit_code == 1
    assert "an older row was put back" in result.stderr or "the target is in use" in result.stderr
    assert target.get(key.record.id).record.revoked_at == NOW


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("change_target", [revoke, remove])
def test_ended_key_stays_ended_without_history(source, target, at_source, backend, ring, side, change_target):
    """Without the history of one side, only versions and ends tell."""
    backend.init_storage()
    without_history = Writer(backend, ring)
    ours, theirs = (without_history, Writer(target, ring)) if side == "source" else (at_source, without_history)
    (key,) = ours.add()
    copy_keys(ours.backend, theirs.backend, ring=ring)
    change_target(theirs, key)
    stored = theirs.backend.get(key.record.id)
    for _ in range(3):
        change(ours, key)
    with pytest.raises(TargetInUse, match="was changed there"):
        copy_keys(ours.backend, theirs.backend, ring=ring)
    assert theirs.backend.get(key.record.id) == stored


def test_other_secrets_of_the_target_are_refused(source, backend, at_source, ring):
    backend.init_storage()
    (key,) = at_source.add()
    copy_keys(source, backend, ring=ring)
    stored = backend.get(key.record.id)
    other = sealed_row(stored.record, "", SealedSecrets((b"d" * 32,)), ring)
    backend.update(other, expected_version=1, expected_seal=stored.seal.token)
    with pytest.raises(TargetInUse, match="was changed there"):
        copy_keys(source, backend, ring=ring)


@pytest.mark.parametrize("change_target", [add_events, edit_an_event], ids=["no-row", "edited"])
def test_source_without_history_refuses_other_events(backend, target, at_target, ring, change_target):
    backend.init_storage()
    (key,) = Writer(backend, ring).add()
    copy_keys(backend, target, ring=ring)
    change_target(at_target, key)
    with pytest.raises(TargetInUse, match=r"is not in the source|not that of its row"):
        copy_keys(backend, target, ring=ring)


def forge_event(writer, key):
    writer.backend.history.append([LifecycleEvent(key_id=key.record.id, number=1, at=NOW, event="key.created")])


@pytest.mark.parametrize(
    ("method", "position", "change_target"),
    [
        ("history.append", 0, forge_event),
        ("add_many", 0, lambda writer, key: writer.backend.add(key)),
        ("update", 1, change),
        ("rotation.reseal", 2, change),
        ("rotation.put", 2, rotate),
    ],
    ids=["append", "add", "update", "reseal", "rotate"],
)
def test_change_during_the_copy_is_kept_and_ends_it(
    source, target, at_source, at_target, ring, fernet_key, monkeypatch, method, position, change_target
):
    newest = FernetKeyring(generate_fernet_key(), [fernet_key])
    updated, resealed = at_source.add(2)
    copy_keys(source, target, ring=ring)
    (added,) = at_source.add()
    change(at_source, updated)
    rotate(at_source, None)
    key = (added, updated, resealed)[position]
    kept = []

    def step():
        change_target(at_target, key)
        kept.append(target.get(key.record.id))

    before(monkeypatch, target, method, step)
    with pytest.raises(TargetInUse, match="it was changed during the copy"):
        copy_keys(source, target, ring=newest)
    assert kept == [target.get(key.record.id)]


def test_storage_row_is_no_key(source, target, at_source, at_target, copy):
    record(at_source, None)
    record(at_target, None)
    assert f"key {STORAGE_ID} has an event there" in copy().stderr

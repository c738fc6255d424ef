"""Targets in use, which a copy refuses."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.summary import summarize
from flask_apikey.core.copying.usage import requests_counted
from flask_apikey.core.errors import TargetInUse
from flask_apikey.core.model.history import PRUNED, LifecycleEvent
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, generate_fernet_key
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.testing.samples import NOW, changed
from tests.core.copying.interference import before

HOUR = 490_000
ROTATION = Rotation(from_fingerprint="a", to_fingerprint="b", started_at=NOW, due_at=NOW)
EVENT = LifecycleEvent(at=NOW, event="rotation.run", key_id="", key_version=0)


def change(backend, key, **values):
    newer = changed(key, **{"name": "changed there", **values})
    backend.update(newer, expected_version=key.record.version)
    return newer


def revoke(backend, key):
    change(backend, key, revoked_at=NOW)


def add_another(backend, key):
    backend.add(replace(key, record=replace(key.record, id=new_id())))


def record(backend, _):
    backend.history.record(EVENT)


def rotate(backend, _):
    backend.rotation.put(ROTATION, expected_version=0)


def count(backend, key, hour=HOUR):
    label = UsageLabel(key.record.id, hour, "/books", "GET", "2xx")
    backend.usage.add(UsageBatch(new_id(), 1, [UsageRow(label, 5)], [], NOW))


def count_next_day(backend, key):
    count(backend, key, HOUR + 24)


def use(backend, key, at=NOW):
    backend.usage.add(UsageBatch(new_id(), 1, [], [LastUse(key.record.id, 1, at, None)], NOW))


def use_later(backend, key):
    use(backend, key, NOW + timedelta(seconds=1))


CHANGES = [
    (add_another, "is not in the source"),
    (change, "was changed there"),
    (revoke, "was changed there"),
    (record, "event 1 of its history is not in the history of the source"),
    (rotate, "its state of a rotation of the Fernet key is not from the source"),
    (count, "it has counted more requests of key"),
    (count_next_day, "it has counted more requests of key"),
    (use_later, "was used there"),
]
names = [change_of_target.__name__ for change_of_target, _ in CHANGES]


@pytest.mark.parametrize(("change_target", "found"), CHANGES, ids=names)
@pytest.mark.parametrize("is_copied_before", [False, True])
def test_target_in_use_is_refused_unchanged(source, target, keys, copy, change_target, found, is_copied_before):
    source.add_many(keys[1:])
    if is_copied_before:
        count(source, keys[1])
        use(source, keys[1])
        assert copy("--verify").exit_code == 0
    else:
        target.add(keys[1])
    change_target(target, keys[1])
    source.add(keys[0])
    before = summarize(target), requests_counted(target)
    for options in (["--dry-run"], []):
        result = copy(*options)
        assert result.exit_code == 1
        assert "the target is in use: " in result.stderr
        assert found in result.stderr
    assert (summarize(target), requests_counted(target)) == before


def test_revoked_key_stays_revoked_however_often_it_changes_at_the_source(source, target, keys, copy):
    source.add(keys[0])
    assert copy().exit_code == 0
    revoke(target, keys[0])
    change(source, change(source, keys[0]))
    assert "was changed there" in copy().stderr
    assert target.get(keys[0].record.id).record.revoked_at == NOW


def test_rotation_started_during_the_copy_is_kept(source, target, keys, monkeypatch):
    source.add(keys[0])
    rotate(source, None)
    before(monkeypatch, target, "add_many", lambda: rotate(target, None))
    with pytest.raises(TargetInUse, match="it was changed during the copy"):
        copy_keys(source, target)


def test_removed_key_that_changed_at_the_target_is_refused(source, backend, keys):
    backend.init_storage()
    source.add(keys[0])
    removal = LifecycleEvent(at=NOW, event=PRUNED, key_id=keys[0].record.id, key_version=2)
    source.delete(keys[0].record.id, expected_version=1, event=removal)
    backend.add(changed(keys[0]))
    with pytest.raises(TargetInUse, match="is not in the source"):
        copy_keys(source, backend)
    assert list(backend.all_keys()) == [changed(keys[0])]


def test_source_without_history_refuses_other_events(backend, target, keys):
    backend.init_storage()
    backend.add(keys[0])
    copy_keys(backend, target)
    target.history.record(EVENT)
    with pytest.raises(TargetInUse, match="event 2 of its history"):
        copy_keys(backend, target)


def sealed_anew(key):
    return replace(key, seal=FernetKeyring(generate_fernet_key()).seal(SealedSecrets((os.urandom(32),))))


@pytest.mark.parametrize(
    ("method", "position", "change_target"),
    [
        ("history.append", 0, record),
        ("add_many", 0, lambda target, key: target.add(key)),
        ("update", 1, change),
        ("delete", 2, change),
        ("rotation.reseal", 3, lambda target, key: change(target, sealed_anew(key))),
        ("rotation.put", 3, rotate),
    ],
    ids=["append", "add", "update", "delete", "reseal", "rotate"],
)
def test_change_during_the_copy_is_kept_and_ends_it(
    source, target, keys, ring, monkeypatch, method, position, change_target
):
    updated, removed, resealed = keys[1:4]
    target.add_many([updated, removed, sealed_anew(resealed)])
    source.add_many(keys[:4])
    change(source, updated)
    removal = LifecycleEvent(at=NOW, event=PRUNED, key_id=removed.record.id, key_version=2)
    source.delete(removed.record.id, expected_version=1, event=removal)
    rotate(source, None)
    kept = []

    def step():
        change_target(target, keys[position])
        kept.append(target.get(keys[position].record.id))

    before(monkeypatch, target, method, step)
    with pytest.raises(TargetInUse, match="it was changed during the copy"):
        copy_keys(source, target, ring=ring)
    assert kept == [target.get(keys[position].record.id)]

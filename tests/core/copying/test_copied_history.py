"""History, copied with the keys, and removals that it tells of."""

import json
from datetime import timedelta

import pytest

from flask_apikey import APIKeys
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.summary import summarize
from flask_apikey.core.model.history import COPIED, PRUNED, LifecycleEvent, all_events
from flask_apikey.core.times import utc_now
from flask_apikey.testing.samples import NOW, changed
from tests.core.copying.interference import before
from tests.core.copying.storages import app_with_keys, verified


def test_history_is_copied_and_continued(make_app, source_uri, target_uri, source, target, copy):
    original = app_with_keys(make_app, source_uri)
    assert json.loads(copy("--dry-run", "--json").stdout)["events"] == 7
    assert json.loads(copy("--json").stdout)["events"] == 7
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(moved)
    assert verified(moved) == verified(original)
    with original.app_context():
        original.extensions["apikey"].extension.create(name="later")
    assert json.loads(copy("--json").stdout)["events"] == 1
    assert verified(moved) == verified(original)
    with moved.app_context():
        api_keys.create(name="created after the move")
    assert verified(moved)["intact"]


def test_events_arrive_before_their_keys(make_app, source_uri, source, target, monkeypatch):
    app_with_keys(make_app, source_uri)
    recorded = []
    before(monkeypatch, target, "add_many", lambda: recorded.extend(all_events(target.history)))
    copy_keys(source, target)
    versions = {(key.record.id, key.record.version) for key in target.all_keys()}
    assert len(versions) == 5
    assert versions <= {(each.event.key_id, each.event.key_version) for each in recorded}


def remove_one(app):
    """Prune the revoked key and one more, and return the id of the latter."""
    extension = app.extensions["apikey"].extension
    with app.app_context():
        key_id = next(key.id for key in extension.list(status="active"))
        extension.revoke(key_id, reason="leaked")
        extension.prune(ended_before=utc_now() + timedelta(days=1))
    return key_id


def test_removal_is_copied(make_app, source_uri, target_uri, source, target, copy):
    original = app_with_keys(make_app, source_uri)
    assert copy().exit_code == 0
    removed = remove_one(original)
    assert json.loads(copy("--dry-run", "--json").stdout)["removed"] == 2
    assert target.get(removed) is not None
    report = json.loads(copy("--verify", "--json").stdout)
    assert (report["removed"], report["verified"]) == (2, True)
    assert target.get(removed) is None
    assert summarize(target) == summarize(source)
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    APIKeys(moved)
    assert verified(moved) == verified(original)


def test_verify_finds_a_missing_removal(make_app, source_uri, target_uri, source, target, copy, monkeypatch):
    original = app_with_keys(make_app, source_uri)
    assert copy().exit_code == 0
    remove_one(original)
    monkeypatch.setattr(type(target), "delete", lambda *_, **__: None)
    result = copy("--verify")
    assert result.exit_code == 1
    assert "repeat the copy" in result.stderr


def test_removal_is_copied_to_a_target_without_history(source, backend, keys):
    backend.init_storage()
    source.add_many(keys[:2])
    copy_keys(source, backend)
    removal = LifecycleEvent(at=NOW, event=PRUNED, key_id=keys[0].record.id, key_version=2)
    source.delete(keys[0].record.id, expected_version=1, event=removal)
    report = copy_keys(source, backend)
    assert (report.removed, report.events) == (1, 0)
    assert list(backend.all_keys()) == [keys[1]]


def test_source_without_history_gets_copy_events(backend, target, keys):
    backend.init_storage()
    backend.add_many(keys[:3])
    assert copy_keys(backend, target, dry_run=True).events == 3
    assert copy_keys(backend, target).events == 3
    backend.update(changed(keys[0]), expected_version=1)
    assert copy_keys(backend, target).events == 1
    assert [(each.event.event, each.event.key_version) for each in all_events(target.history)] == [
        *[(COPIED, 1)] * 3,
        (COPIED, 2),
    ]
    assert copy_keys(backend, target).unchanged == 3
    assert list(target.all_keys()) == list(backend.all_keys())


@pytest.mark.parametrize("lost", ["events", "keys"])
def test_verify_finds_missing_keys_and_events(make_app, source_uri, source, target, copy, monkeypatch, lost):
    app_with_keys(make_app, source_uri)
    owner, method = {"events": (target.history, "append"), "keys": (target, "add_many")}[lost]
    monkeypatch.setattr(type(owner), method, lambda *_: None)
    result = copy("--verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verified"] is False


def test_removal_during_the_copy_is_copied(source, target, keys, monkeypatch):
    """The history is read after the keys, so it explains every key that a listing lacks."""
    source.add_many(keys[:2])
    copy_keys(source, target)
    removal = LifecycleEvent(at=NOW, event=PRUNED, key_id=keys[0].record.id, key_version=2)

    def remove():
        source.delete(keys[0].record.id, expected_version=1, event=removal)

    before(monkeypatch, source, "find", remove)
    assert copy_keys(source, target).removed == 1
    assert list(target.all_keys()) == [keys[1]]

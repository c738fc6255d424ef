"""History, copied with the keys."""

import json

import pytest

from flask_apikey import APIKeys
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.model.history import COPIED
from flask_apikey.core.storage.chains import all_chains
from tests.core.copying.interference import before
from tests.core.copying.storages import Writer, all_rows, app_with_keys, same_content, verified
from tests.support.attacker import Attacker


def test_history_is_copied_and_continued(make_app, source_uri, target_uri, source, target, copied):
    original = app_with_keys(make_app, source_uri)
    assert copied("--dry-run")["events"] == 7
    assert copied()["events"] == 7
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(moved)
    assert verified(moved) == verified(original)
    with original.app_context():
        original.extensions["apikey"].extension.create(name="later")
    assert copied()["events"] == 1
    assert verified(moved) == verified(original)
    with moved.app_context():
        api_keys.create(name="created after the move")
    assert verified(moved)["intact"]


def test_events_arrive_before_their_keys(make_app, source_uri, source, target, ring, monkeypatch):
    app_with_keys(make_app, source_uri)
    recorded = []
    before(monkeypatch, target, "add_many", lambda: recorded.extend(all_chains(target.history)))
    copy_keys(source, target, ring=ring)
    versions = {(row.record.id, row.record.version) for row in all_rows(target)}
    assert len(versions) == 5
    assert versions <= {(event.key_id, event.number) for event in recorded}


def test_key_with_many_events_is_copied_in_several_writes(source, target, at_source, ring, monkeypatch):
    monkeypatch.setattr("flask_apikey.core.copying.keys._MAX_EVENTS", 3)
    monkeypatch.setattr("flask_apikey.core.copying.keys._PAGE", 1_000)
    keys = at_source.add(4)
    for _ in range(4):
        at_source.change(keys[1])
    sizes = []
    append = target.history.append
    monkeypatch.setattr(target.history, "append", lambda events: (sizes.append(len(events)), append(events)))
    copy_keys(source, target, ring=ring)
    assert sizes == [6, 2]
    same_content(source, target)


def test_target_without_history_gets_the_rows(source, backend, at_source, ring):
    backend.init_storage()
    keys = at_source.add(2)
    at_source.record_without_key()
    copy_keys(source, backend, ring=ring)
    at_source.remove(keys[0])
    report = copy_keys(source, backend, ring=ring)
    assert (report.added, report.updated, report.unchanged, report.events) == (0, 1, 1, 0)
    assert [row.record for row in all_rows(backend)] == [source.get(key.record.id).record for key in keys]
    assert copy_keys(source, backend, ring=ring).unchanged == 2


def test_source_without_history_gets_copy_events(make_app, target_uri, backend, target, ring):
    backend.init_storage()
    at_source = Writer(backend, ring)
    changed, *_ = at_source.add(3)
    assert copy_keys(backend, target, ring=ring, dry_run=True).events == 3
    assert copy_keys(backend, target, ring=ring).events == 3
    for _ in range(3):
        at_source.change(changed)
    assert copy_keys(backend, target, ring=ring).events == 1
    assert copy_keys(backend, target, ring=ring).unchanged == 3
    chain = [(each.event, each.number) for each in all_chains(target.history) if each.key_id == changed.record.id]
    assert chain == [(COPIED, 1), (COPIED, 4)]
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    APIKeys(moved)
    assert verified(moved)["intact"]


def test_interrupted_copy_of_a_source_without_history_is_resumed(backend, target, ring, monkeypatch):
    """The row and the event of its copy arrive together: the next copy writes another event."""
    backend.init_storage()
    (key,) = Writer(backend, ring).add()

    def fail(*_, **__):
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(target, "add_many", fail)
        with pytest.raises(InterruptedError):
            copy_keys(backend, target, ring=ring)
    Writer(backend, ring).change(key)
    assert copy_keys(backend, target, ring=ring).added == 1
    assert copy_keys(backend, target, ring=ring).unchanged == 1


@pytest.mark.parametrize("lost", ["events", "keys"])
def test_verify_finds_missing_keys_and_events(make_app, source_uri, source, target, copy, monkeypatch, lost):
    app_with_keys(make_app, source_uri)
    owner, method = {"events": (target.history, "append"), "keys": (target, "add_many")}[lost]
    with monkeypatch.context() as patched:
        patched.setattr(type(owner), method, lambda *_, **__: None)
        result = copy("--verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verified"] is False
    assert json.loads(copy("--verify", "--json").stdout)["verified"] is True
    same_content(source, target)


def test_copy_brings_back_events_that_the_target_lost(source, target, at_source, ring):
    keys = at_source.add(2)
    at_source.change(keys[0])
    copy_keys(source, target, ring=ring)
    Attacker(target).remove_event(keys[0].record.id, 1)
    report = copy_keys(source, target, ring=ring)
    assert (report.events, report.unchanged) == (1, 2)
    same_content(source, target)

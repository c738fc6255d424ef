"""The history comes along with a copy, and what it tells to have been removed is removed."""

import json
from datetime import timedelta

import pytest

from flask_apikey import APIKeys
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.summary import summarize
from flask_apikey.core.model.history import PRUNED, LifecycleEvent, all_events
from flask_apikey.core.times import utc_now
from flask_apikey.testing.samples import NOW, changed
from tests.core.copying.applications import issue_some, verified
from tests.core.copying.interference import before, killed_copy


def test_the_history_comes_along(make_app, source_uri, target_uri, source, target, copy):
    original = issue_some(make_app, source_uri)
    assert json.loads(copy("--json").stdout)["events"] == 7
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(moved)
    assert verified(moved) == verified(original)
    with original.app_context():
        original.extensions["apikey"].extension.create(name="later")
    assert json.loads(copy("--json").stdout)["events"] == 1
    assert verified(moved) == verified(original)
    with moved.app_context():
        api_keys.create(name="made there")
    assert verified(moved)["intact"]


def test_a_target_with_a_history_of_its_own_tells_of_each_key(make_app, source_uri, target_uri, source, target, copy):
    issue_some(make_app, source_uri)
    there = issue_some(make_app, target_uri)
    report = json.loads(copy("--json").stdout)
    assert (report["added"], report["events"]) == (5, 5)
    assert verified(there)["intact"]
    assert verified(there)["number"] == 12


def test_an_interrupted_copy_to_a_target_that_goes_live_leaves_a_history_that_is_whole_in_the_end(
    make_app, source_uri, target_uri, source, target, copy
):
    original = issue_some(make_app, source_uri)
    killed_copy(source_uri, target_uri, "add_many")
    assert summarize(target).keys == 2
    live = issue_some(make_app, target_uri)
    with original.app_context():
        original.extensions["apikey"].extension.create(name="later")
    report = json.loads(copy("--verify", "--json").stdout)
    assert (report["added"], report["unchanged"], report["only_at_target"]) == (4, 2, 5)
    assert verified(live)["intact"]


def test_every_key_that_has_arrived_has_its_events_there_already(make_app, source_uri, target_uri, source, target):
    issue_some(make_app, source_uri)
    killed_copy(source_uri, target_uri, "add_many")
    told = {(event.event.key_id, event.event.key_version) for event in all_events(target)}
    versions = {(key.record.id, key.record.version) for key in target.all_keys()}
    assert len(versions) == 2
    assert versions <= told


def remove_one(app):
    """Let a key end and be removed, and give its id."""
    extension = app.extensions["apikey"].extension
    with app.app_context():
        key_id = next(key.id for key in extension.list(status="active"))
        extension.revoke(key_id, reason="leaked")
        extension.prune(ended_before=utc_now() + timedelta(days=1))
    return key_id


def test_a_key_that_was_removed_here_is_removed_from_a_target_with_the_same_history(
    make_app, source_uri, target_uri, source, target, copy
):
    original = issue_some(make_app, source_uri)
    assert copy().exit_code == 0
    removed = remove_one(original)
    assert json.loads(copy("--dry-run", "--json").stdout)["removed"] == 2
    assert target.get(removed) is not None
    report = json.loads(copy("--verify", "--json").stdout)
    assert (report["removed"], report["only_at_target"], report["verified"]) == (2, 0, True)
    assert target.get(removed) is None
    assert summarize(target) == summarize(source)
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    APIKeys(moved)
    assert verified(moved) == verified(original)


def test_verify_finds_a_key_that_should_have_been_removed(
    make_app, source_uri, target_uri, source, target, copy, monkeypatch
):
    original = issue_some(make_app, source_uri)
    assert copy().exit_code == 0
    remove_one(original)
    monkeypatch.setattr(type(target), "delete", lambda *_, **__: None)
    result = copy("--verify")
    assert result.exit_code == 1
    assert "repeat the copy" in result.stderr


def test_a_removal_is_carried_out_after_a_copy_that_was_killed_at_it(
    make_app, source_uri, target_uri, source, target, copy
):
    original = issue_some(make_app, source_uri)
    assert copy().exit_code == 0
    remove_one(original)
    killed_copy(source_uri, target_uri, "delete")
    assert json.loads(copy("--json").stdout)["removed"] == 1
    assert summarize(target) == summarize(source)


def test_verify_names_a_key_that_was_removed_here_and_still_works_at_a_target_with_its_own_history(
    make_app, source_uri, target_uri, source, target, copy
):
    original = issue_some(make_app, source_uri)
    assert copy().exit_code == 0
    live = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(live)
    with live.app_context():
        api_keys.create(name="made there")
    assert copy("--verify").exit_code == 0
    removed = remove_one(original)
    result = copy("--verify")
    assert result.exit_code == 1
    assert f"still work at the target: 1 ({removed})" in result.stderr
    assert "only at target 3" in result.stderr
    assert verified(live)["intact"]
    with live.app_context():
        api_keys.revoke(removed)
    result = copy("--verify", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["only_at_target"] == 3


@pytest.mark.parametrize("changes_there", [0, 2])
def test_a_target_without_history_keeps_what_was_removed_here_and_it_is_named(source, backend, keys, changes_there):
    backend.init_storage()
    there = keys[0]
    for _ in range(changes_there):
        there = changed(there)
    backend.add(there)
    source.add(keys[0])
    removal = LifecycleEvent(at=NOW, event=PRUNED, key_id=keys[0].record.id, key_version=2)
    source.delete_recorded(keys[0].record.id, expected_version=1, event=removal)
    report = copy_keys(source, backend)
    assert (report.removed, report.only_at_target, report.still_active) == (0, 1, [keys[0].record.id])


def test_a_key_that_has_changed_at_the_target_since_it_was_removed_here_stays(source, target, keys):
    target.add(changed(changed(keys[0])))
    source.add(keys[0])
    removal = LifecycleEvent(at=NOW, event=PRUNED, key_id=keys[0].record.id, key_version=2)
    source.delete_recorded(keys[0].record.id, expected_version=1, event=removal)
    report = copy_keys(source, target)
    assert (report.events, report.removed, report.still_active) == (1, 0, [keys[0].record.id])


def test_a_target_that_goes_live_while_it_takes_the_history_over_is_a_refusal_and_the_next_copy_completes_it(
    make_app, source_uri, target_uri, source, target, copy, monkeypatch
):
    issue_some(make_app, source_uri)
    live = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(live)

    def go_live():
        with live.app_context():
            api_keys.create(name="made there")

    before(monkeypatch, target, "append_events", go_live)
    result = copy()
    assert result.exit_code == 1
    assert "repeat the copy" in result.stderr
    assert copy("--verify").exit_code == 0
    assert verified(live)["intact"]


def test_a_dry_run_counts_events_as_the_copy_does(make_app, source_uri, target_uri, source, target, copy):
    issue_some(make_app, source_uri)
    assert json.loads(copy("--dry-run", "--json").stdout)["events"] == 7
    there = issue_some(make_app, target_uri)
    assert json.loads(copy("--dry-run", "--json").stdout)["events"] == 5
    assert verified(there)["number"] == 7

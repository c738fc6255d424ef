"""Seals and the state of a rotation, copied with the keys."""

import json
from dataclasses import replace

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.testing.samples import NOW
from tests.core.copying.interference import before
from tests.core.copying.storages import all_rows


@pytest.fixture
def rotated(make_app, source_uri, fernet_key):
    """Two applications on the source: one before the promotion of a second Fernet key, one after it."""
    new = generate_fernet_key()
    added = make_app(APIKEY_STORAGE_URI=source_uri, APIKEY_FERNET_KEY_FALLBACKS=[new])
    promoted = make_app(APIKEY_STORAGE_URI=source_uri, APIKEY_FERNET_KEY=new, APIKEY_FERNET_KEY_FALLBACKS=[fernet_key])
    for app in (added, promoted):
        app.api_keys = APIKeys(app)
    return added, promoted


def copied(app, target_uri, *options):
    result = app.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri, "--json", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_copied_keys_are_sealed_under_the_primary_fernet_key(rotated, target_uri, source, target, at_source):
    added, promoted = rotated
    newest = promoted.extensions["apikey"].ring
    keys = at_source.add(2)
    copied(added, target_uri)
    at_source.add()
    at_source.change(keys[1])
    report = copied(promoted, target_uri, "--verify")
    assert (report["added"], report["updated"], report["resealed"], report["verified"]) == (1, 1, 1, True)
    assert target.rotation.count_seals() == {newest.fingerprint: 3}
    for theirs, ours in zip(all_rows(target), all_rows(source), strict=True):
        assert replace(theirs, seal=ours.seal) == ours
        assert newest.unseal(theirs.seal) == newest.unseal(ours.seal)
    assert copied(promoted, target_uri)["unchanged"] == 3


def test_keys_resealed_since_the_last_copy_are_resealed(rotated, target_uri, source, target, at_source):
    added, promoted = rotated
    at_source.add(12)
    assert copied(added, target_uri)["added"] == 12
    with promoted.app_context():
        promoted.api_keys.rotation.run()
    assert copied(promoted, target_uri, "--dry-run")["resealed"] == 12
    report = copied(promoted, target_uri, "--verify")
    assert (report["resealed"], report["verified"]) == (12, True)
    assert target.rotation.count_seals() == source.rotation.count_seals()
    assert copied(promoted, target_uri)["unchanged"] == 12


def test_target_without_a_rotation_part_is_resealed(source, backend, at_source, ring, fernet_key):
    new = generate_fernet_key()
    newest = FernetKeyring(new, [fernet_key])
    backend.init_storage()
    (key,) = at_source.add()
    copy_keys(source, backend, ring=ring)
    assert copy_keys(source, backend, ring=newest).resealed == 1
    assert secrets_of(backend.get(key.record.id), FernetKeyring(new)) == secrets_of(key, ring)
    assert copy_keys(source, backend, ring=newest).unchanged == 1


def test_state_of_a_rotation_is_copied(rotated, target_uri, source, target, copy):
    added, promoted = rotated
    with added.app_context():
        started = added.api_keys.rotation.start()
    assert copied(added, target_uri, "--dry-run")["rotation"]
    assert target.rotation.get() is None
    assert copied(added, target_uri)["rotation"]
    assert target.rotation.get() == started
    assert not copied(added, target_uri)["rotation"]
    with promoted.app_context():
        promoted.api_keys.rotation.finish()
    result = promoted.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri])
    assert "The state of the rotation of the Fernet key is copied too." in result.stderr
    assert target.rotation.get() == source.rotation.get()


STARTED = Rotation(from_fingerprint="a" * 16, to_fingerprint="b" * 16, started_at=NOW, due_at=NOW)


def test_rotation_that_finishes_during_the_copy_is_copied_by_the_next(source, target, at_source, ring, monkeypatch):
    at_source.add()
    finished = replace(STARTED, finished_at=NOW, version=2)
    source.rotation.put(STARTED, expected_version=0)
    before(monkeypatch, target, "add_many", lambda: source.rotation.put(finished, expected_version=1))
    copy_keys(source, target, ring=ring)
    assert target.rotation.get() == STARTED
    copy_keys(source, target, ring=ring)
    assert target.rotation.get() == finished


@pytest.mark.parametrize(
    "values",
    [
        {"from_fingerprint": "\x1b[31m"},
        {"to_fingerprint": 5},
        {"to_fingerprint": "a" * 16},
        {"version": 0},
        {"version": 2**31},
        {"started_at": "yesterday"},
        {"due_at": 2**62},
    ],
    ids=["text", "number", "same", "no-version", "huge-version", "no-time", "huge-time"],
)
def test_invalid_rotation_is_left_out(source, target, copy, values):
    source.rotation.put(STARTED, expected_version=0)
    with source._opened.get().engine.begin() as connection:
        connection.execute(source.rotation._table.update().values(values))
    result = copy("--verify", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [refusal["key_id"] for refusal in report["refusals"]] == ["rotation"]
    assert (report["refused"], report["rotation"], report["verified"]) == (1, False, False)
    assert target.rotation.get() is None

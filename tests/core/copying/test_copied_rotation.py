"""Seals and the state of a rotation, copied with the keys."""

import json
import os
from dataclasses import replace

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.summary import summarize
from flask_apikey.core.model.keys import Resealing, Rotation, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, generate_fernet_key
from flask_apikey.testing.samples import NOW, changed
from tests.core.copying.interference import before


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


def test_copied_keys_are_sealed_under_the_primary_fernet_key(rotated, target_uri, source, target, keys):
    _, promoted = rotated
    newest = promoted.extensions["apikey"].ring
    older = changed(keys[1], name="changed here")
    source.add_many([keys[0], older])
    target.add(StoredKey(keys[1].record, newest.resealed(keys[1].seal)))
    report = copied(promoted, target_uri, "--verify")
    assert (report["added"], report["updated"], report["verified"]) == (1, 1, True)
    assert target.rotation.count_seals() == {newest.fingerprint: 2}
    for key in (keys[0], older):
        there = target.get(key.record.id)
        assert there.record == key.record
        assert newest.unseal(there.seal) == newest.unseal(key.seal)
    assert copied(promoted, target_uri)["unchanged"] == 2


def test_damaged_seal_is_copied_unchanged(rotated, target_uri, source, target, keys):
    _, promoted = rotated
    damaged = replace(keys[0], seal=replace(keys[0].seal, token="damaged"))
    source.add(damaged)
    assert copied(promoted, target_uri)["added"] == 1
    assert target.get(damaged.record.id) == damaged


def test_keys_resealed_since_the_last_copy_are_resealed(rotated, target_uri, source, target, keys):
    added, promoted = rotated
    source.add_many(keys)
    assert copied(added, target_uri)["added"] == 12
    with promoted.app_context():
        promoted.api_keys.rotation.run()
    assert copied(promoted, target_uri, "--dry-run")["resealed"] == 12
    report = copied(promoted, target_uri, "--verify")
    assert (report["resealed"], report["verified"]) == (12, True)
    assert summarize(target) == summarize(source)
    assert copied(promoted, target_uri)["unchanged"] == 12


def test_keys_resealed_at_the_target_stay_unchanged(rotated, target_uri, source, target, keys):
    added, promoted = rotated
    source.add_many(keys[:3])
    copied(added, target_uri)
    newest = promoted.extensions["apikey"].ring
    target.rotation.reseal([Resealing(key.record.id, key.seal, newest.resealed(key.seal)) for key in keys[:3]])
    there = summarize(target)
    assert copied(promoted, target_uri)["unchanged"] == 3
    assert summarize(target) == there


def test_target_without_reseal_is_updated(source, backend, keys):
    newest = FernetKeyring(generate_fernet_key())
    backend.init_storage()
    resealed = replace(keys[0], seal=newest.seal(SealedSecrets((os.urandom(32),))))
    source.add(resealed)
    backend.add(keys[0])
    assert copy_keys(source, backend, ring=newest).resealed == 1
    assert backend.get(keys[0].record.id) == resealed


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


def test_rotation_that_finishes_during_the_copy_is_copied_by_the_next(source, target, keys, monkeypatch):
    source.add(keys[0])
    started = Rotation(from_fingerprint="a", to_fingerprint="b", started_at=NOW, due_at=NOW)
    finished = replace(started, finished_at=NOW, version=2)
    source.rotation.put(started, expected_version=0)
    before(monkeypatch, target, "add_many", lambda: source.rotation.put(finished, expected_version=1))
    copy_keys(source, target)
    assert target.rotation.get() == started
    copy_keys(source, target)
    assert target.rotation.get() == finished

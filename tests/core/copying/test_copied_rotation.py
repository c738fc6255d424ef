"""A copy re-seals, and brings the state of a rotation along."""

import json
import os
from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.summary import summarize
from flask_apikey.core.model.keys import Resealing, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, generate_fernet_key
from flask_apikey.testing.samples import NOW, changed
from tests.core.copying.interference import before


@pytest.fixture
def rotated(make_app, source_uri, fernet_key):
    """A second Fernet key and two applications on the source: one before the promotion, one after."""
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


def test_what_is_copied_is_sealed_under_the_primary_fernet_key(rotated, target_uri, source, target, keys):
    _, promoted = rotated
    newest = promoted.extensions["apikey"].ring
    older = changed(keys[1], name="changed here")
    source.add_many([keys[0], older])
    target.add(StoredKey(keys[1].record, newest.resealed(keys[1].seal)))
    report = copied(promoted, target_uri, "--verify")
    assert (report["added"], report["updated"], report["verified"]) == (1, 1, True)
    assert target.count_seals() == {newest.fingerprint: 2}
    for key in (keys[0], older):
        there = target.get(key.record.id)
        assert there.record == key.record
        assert newest.unseal(there.seal) == newest.unseal(key.seal)
    assert copied(promoted, target_uri)["unchanged"] == 2


def test_a_key_whose_seal_is_damaged_is_copied_as_it_is(rotated, target_uri, source, target, keys):
    _, promoted = rotated
    damaged = replace(keys[0], seal=replace(keys[0].seal, token="damaged"))
    source.add(damaged)
    assert copied(promoted, target_uri)["added"] == 1
    assert target.get(damaged.record.id) == damaged


def test_keys_that_were_copied_before_they_were_resealed_are_resealed_there_too(
    rotated, target_uri, source, target, keys
):
    added, promoted = rotated
    source.add_many(keys)
    assert copied(added, target_uri)["added"] == 1200
    with promoted.app_context():
        promoted.api_keys.rotation.run()
    assert copied(promoted, target_uri, "--dry-run")["resealed"] == 1200
    report = copied(promoted, target_uri, "--verify")
    assert (report["resealed"], report["kept"], report["verified"]) == (1200, 0, True)
    assert summarize(target) == summarize(source)
    assert copied(promoted, target_uri)["unchanged"] == 1200


def test_keys_that_are_resealed_at_the_target_already_stay_so(rotated, target_uri, source, target, keys):
    added, promoted = rotated
    source.add_many(keys[:3])
    copied(added, target_uri)
    newest = promoted.extensions["apikey"].ring
    target.reseal([Resealing(key.record.id, key.seal, newest.resealed(key.seal)) for key in keys[:3]])
    there = summarize(target)
    assert copied(promoted, target_uri)["unchanged"] == 3
    assert summarize(target) == there


def test_a_key_that_is_rolled_at_the_target_meanwhile_is_not_resealed(source, target, keys, ring, monkeypatch):
    newest = FernetKeyring(generate_fernet_key(), [])
    source.add(replace(keys[0], seal=newest.seal(SealedSecrets((os.urandom(32),)))))
    target.add(keys[0])
    ahead = changed(replace(keys[0], seal=ring.seal(SealedSecrets((os.urandom(32),)))))
    before(monkeypatch, target, "reseal", lambda: target.update(ahead, expected_version=1))
    report = copy_keys(source, target, ring=newest)
    assert (report.resealed, report.kept) == (0, 1)
    assert target.get(keys[0].record.id) == ahead


def test_a_storage_that_cannot_reseal_is_updated_instead(source, backend, keys):
    newest = FernetKeyring(generate_fernet_key())
    backend.init_storage()
    resealed = replace(keys[0], seal=newest.seal(SealedSecrets((os.urandom(32),))))
    source.add(resealed)
    backend.add(keys[0])
    assert copy_keys(source, backend, ring=newest).resealed == 1
    assert backend.get(keys[0].record.id) == resealed


def test_the_state_of_a_rotation_comes_along(rotated, target_uri, source, target, copy):
    added, promoted = rotated
    with added.app_context():
        started = added.api_keys.rotation.start()
    assert copied(added, target_uri, "--dry-run")["rotation"]
    assert target.get_rotation() is None
    assert copied(added, target_uri)["rotation"]
    assert target.get_rotation() == started
    assert not copied(added, target_uri)["rotation"]
    with promoted.app_context():
        promoted.api_keys.rotation.finish()
    result = promoted.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri])
    assert "The state of the rotation of the Fernet key comes along." in result.stderr
    assert target.get_rotation() == source.get_rotation()


def test_a_rotation_that_is_further_at_the_target_stays(rotated, target_uri, source, target):
    added, _ = rotated
    with added.app_context():
        started = added.api_keys.rotation.start()
    finished = replace(started, finished_at=NOW + timedelta(days=900), version=5)
    target.put_rotation(finished, expected_version=0)
    assert not copied(added, target_uri)["rotation"]
    assert target.get_rotation() == finished
    earlier = replace(started, started_at=NOW - timedelta(days=900), version=6)
    target.put_rotation(earlier, expected_version=5)
    assert copied(added, target_uri)["rotation"]
    assert target.get_rotation() == replace(started, version=7)

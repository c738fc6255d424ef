"""Keys, copied from one storage to another."""

import json
import os

import pytest
from sqlalchemy import CheckConstraint

from flask_apikey import APIKeys
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, generate_fernet_key
from flask_apikey.testing.samples import NOW, changed


def test_copy_keeps_records_and_order(source, target, keys, copy):
    source.add_many(keys)
    result = copy("--verify", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["added"], report["verified"]) == (12, True)
    assert report["source"] == report["target"]
    assert report["source"]["keys"] == 12
    assert list(target.all_keys()) == list(source.all_keys())


def test_copied_key_is_accepted(make_app, source_uri, target_uri, source, target, copy):
    app = make_app(APIKEY_STORAGE_URI=source_uri)
    api_keys = APIKeys(app)
    with app.app_context():
        key = api_keys.create(name="ci").key
    assert copy().exit_code == 0
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(moved)
    with moved.app_context():
        assert api_keys.verify(key).accepted


def test_repeated_copy_brings_changes_of_the_source(source, target, keys):
    source.add_many(keys[1:])
    copy_keys(source, target)
    source.add(keys[0])
    source.update(changed(keys[1], name="renamed"), expected_version=1)
    source.update(changed(keys[2], revoked_at=NOW, revocation_reason="leaked"), expected_version=1)
    report = copy_keys(source, target)
    assert (report.added, report.updated, report.unchanged) == (1, 2, 9)
    assert copy_keys(source, target).unchanged == 12
    assert list(target.all_keys()) == list(source.all_keys())


@pytest.fixture
def picky(target):
    """A target with a constraint that one key violates."""
    target._keys.drop(target._opened.get().engine)
    target._keys.append_constraint(CheckConstraint("name <> 'key 1'"))
    target._keys.create(target._opened.get().engine)
    yield target
    target._keys.drop(target._opened.get().engine)


def test_rejected_row_fails_the_copy(source, picky, keys, copy):
    source.add_many(keys[:3])
    result = copy()
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: from the application's storage to ")
    assert list(picky.all_keys()) == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_unknown_fernet_key_is_refused(request, source, target, keys, copy, side):
    source.add(keys[0])
    stranger = FernetKeyring(generate_fernet_key())
    sealed_elsewhere = StoredKey(keys[1].record, stranger.seal(SealedSecrets((os.urandom(32),))))
    request.getfixturevalue(side).add(sealed_elsewhere)
    result = copy()
    assert result.exit_code == 1
    assert stranger.fingerprint in result.stderr
    assert "APIKEY_FERNET_KEY_FALLBACKS" in result.stderr
    assert target.get(keys[0].record.id) is None

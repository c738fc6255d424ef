"""Keys, copied from one storage to another."""

import os

import pytest
from sqlalchemy import CheckConstraint

from flask_apikey import APIKeys
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.model.sealed_rows import sealed_row
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, generate_fernet_key
from flask_apikey.testing.samples import NOW, stored_key
from tests.core.copying.storages import all_rows, same_content


def test_copy_keeps_rows_and_history(source, target, at_source, copied):
    at_source.add(12)
    report = copied("--verify")
    assert (report["added"], report["events"], report["refused"], report["verified"]) == (12, 12, 0, True)
    assert report["source"] == report["target"]
    assert report["source"]["keys"] == 12
    same_content(source, target)


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


def test_repeated_copy_brings_changes_of_the_source(source, target, at_source, ring):
    keys = at_source.add(11)
    copy_keys(source, target, ring=ring)
    at_source.add()
    at_source.change(keys[1], name="renamed")
    at_source.change(keys[2], revoked_at=NOW, revocation_reason="leaked")
    report = copy_keys(source, target, ring=ring)
    assert (report.added, report.updated, report.unchanged, report.events) == (1, 2, 9, 3)
    assert copy_keys(source, target, ring=ring).unchanged == 12
    same_content(source, target)


def test_removed_key_is_copied_as_a_tombstone(source, target, at_source, copied):
    keys = at_source.add(3)
    copied()
    at_source.remove(keys[1])
    assert copied("--dry-run")["updated"] == 1
    assert target.get(keys[1].record.id) == keys[1]
    report = copied("--verify")
    assert (report["updated"], report["verified"], report["target"]["keys"]) == (1, True, 2)
    assert target.get(keys[1].record.id).record.pruned_at is not None
    same_content(source, target)


def test_events_about_no_key_are_copied(source, target, at_source, copied):
    at_source.record_without_key()
    report = copied("--verify")
    assert (report["added"], report["events"]) == (0, 1)
    at_source.record_without_key()
    report = copied("--verify")
    assert (report["updated"], report["events"], report["unchanged"]) == (0, 1, 0)
    same_content(source, target)


@pytest.fixture
def picky(target):
    """A target with a constraint that one key violates."""
    target._keys.drop(target._opened.get().engine)
    target._keys.append_constraint(CheckConstraint("name <> 'picked'"))
    target._keys.create(target._opened.get().engine)
    yield target
    target._keys.drop(target._opened.get().engine)


def test_rejected_row_fails_the_copy(at_source, picky, copy):
    at_source.add(2)
    at_source.add(name="picked")
    result = copy()
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: from the application's storage to ")
    assert all_rows(picky) == []


@pytest.mark.parametrize("pruned_at", [None, NOW], ids=["key", "tombstone"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_missing_fernet_key_fails_the_copy(request, target, at_source, copy, side, pruned_at):
    (key,) = at_source.add()
    stranger = FernetKeyring(generate_fernet_key())
    record = stored_key(pruned_at=pruned_at).record
    request.getfixturevalue(side).add(sealed_row(record, "", SealedSecrets((os.urandom(32),)), stranger))
    result = copy()
    assert result.exit_code == 1
    assert stranger.fingerprint in result.stderr
    assert "APIKEY_FERNET_KEY_FALLBACKS" in result.stderr
    assert target.get(key.record.id) is None

"""Keys, copied from one storage to another."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import CheckConstraint

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.summary import summarize
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, generate_fernet_key
from flask_apikey.testing.samples import NOW, changed
from tests.core.copying.interference import before


def test_every_key_arrives_as_it_was(source, target, keys, copy):
    source.add_many(keys)
    result = copy("--verify", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["added"], report["verified"]) == (1200, True)
    assert report["source"] == report["target"]
    assert report["source"]["keys"] == 1200
    assert list(target.all_keys()) == list(source.all_keys())


def test_a_key_opens_the_api_from_its_new_storage(make_app, source_uri, target_uri, source, target, copy):
    app = make_app(APIKEY_STORAGE_URI=source_uri)
    api_keys = APIKeys(app)
    with app.app_context():
        key = api_keys.create(name="ci").key
    assert copy().exit_code == 0
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(moved)
    with moved.app_context():
        assert api_keys.verify(key).accepted


def test_a_repeated_copy_changes_nothing(source, target, keys, copy):
    source.add_many(keys)
    copy()
    before = summarize(target)
    report = json.loads(copy("--json").stdout)
    assert (report["added"], report["updated"], report["unchanged"], report["kept"]) == (0, 0, 1200, 0)
    assert summarize(target) == before


def test_older_rows_are_replaced_and_newer_ones_kept(source, target, keys, ring):
    older, newer, same = keys[:3]
    source.add_many([changed(older, name="changed here"), newer, same])
    ahead = changed(newer, name="changed there")
    target.add_many([older, ahead, same, keys[3]])
    report = copy_keys(source, target)
    assert (report.added, report.updated, report.unchanged, report.kept) == (0, 1, 1, 1)
    assert target.get(older.record.id) == changed(older, name="changed here")
    assert target.get(newer.record.id) == ahead
    assert target.get(keys[3].record.id) == keys[3]


def test_a_key_that_is_revoked_at_the_target_stays_so_however_often_it_changes_here(source, target, keys):
    source.add(changed(changed(keys[0]), name="changed twice"))
    revoked = changed(keys[0], revoked_at=NOW, revocation_reason="leaked")
    target.add(revoked)
    report = copy_keys(source, target)
    assert (report.updated, report.kept) == (0, 1)
    assert target.get(keys[0].record.id) == revoked


def test_a_revocation_comes_along_to_a_key_that_has_changed_more_often_at_the_target(source, target, keys):
    source.add(changed(keys[0], revoked_at=NOW, revocation_reason="leaked"))
    ahead = changed(changed(keys[0]), name="changed there")
    target.add(ahead)
    later = NOW + timedelta(days=1)
    assert copy_keys(source, target, clock=lambda: later).updated == 1
    assert target.get(keys[0].record.id) == changed(ahead, revoked_at=NOW, revocation_reason="leaked", updated_at=later)
    report = copy_keys(source, target)
    assert (report.updated, report.kept) == (0, 1)


@pytest.fixture
def picky(target):
    """A target whose table of keys somebody has given a condition that one key does not meet."""
    target._keys.drop(target._engine())
    target._keys.append_constraint(CheckConstraint("name <> 'key 1'"))
    target._keys.create(target._engine())
    yield target
    target._keys.drop(target._engine())


def test_keys_that_the_target_refuses_for_another_reason_than_their_id_are_an_error(source, picky, keys, copy):
    source.add_many(keys[:3])
    result = copy()
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: from the application's storage to ")
    assert list(picky.all_keys()) == []


def test_verify_finds_what_is_missing(source, target, keys, copy, monkeypatch):
    source.add_many(keys)
    monkeypatch.setattr(type(target), "add_many", lambda self, keys: None)
    result = copy("--verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verified"] is False


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_storage_sealed_with_another_fernet_key_is_refused_before_anything_is_written(
    request, source, target, keys, copy, side
):
    source.add(keys[0])
    stranger = FernetKeyring(generate_fernet_key())
    sealed_elsewhere = StoredKey(keys[1].record, stranger.seal(SealedSecrets((os.urandom(32),))))
    request.getfixturevalue(side).add(sealed_elsewhere)
    result = copy()
    assert result.exit_code == 1
    assert stranger.fingerprint in result.stderr
    assert "APIKEY_FERNET_KEY_FALLBACKS" in result.stderr
    assert target.get(keys[0].record.id) is None


def test_both_fernet_keys_configured_lets_the_copy_go_on(make_app, source_uri, target_uri, source, target, keys):
    other = generate_fernet_key()
    source.add(keys[0])
    target.add(StoredKey(keys[1].record, FernetKeyring(other).seal(SealedSecrets((os.urandom(32),)))))
    app = make_app(APIKEY_STORAGE_URI=source_uri, APIKEY_FERNET_KEY_FALLBACKS=[other])
    APIKeys(app)
    result = app.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri])
    assert result.exit_code == 0, result.output
    assert target.get(keys[0].record.id) == keys[0]


def test_a_copy_that_was_killed_goes_on(source, target, source_uri, target_uri, keys, fernet_key, tmp_path):
    source.add_many(keys)
    program = tmp_path / "copy_until_killed.py"
    program.write_text(
        f"""
import os, signal
from flask_apikey.core.copying import keys as transfer
from flask_apikey.core.storage.contract import backend_for
transfer._PAGE = 500
def killed(number):
    os.kill(os.getpid(), signal.SIGKILL)
transfer.copy_keys(backend_for({source_uri!r}), backend_for({target_uri!r}), progress=killed)
"""
    )
    killed = subprocess.run([sys.executable, program], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert summarize(target).keys == 500
    copy_keys(source, target)
    assert summarize(target) == summarize(source)


def test_a_key_that_appears_at_the_target_meanwhile_is_left_alone(source, target, keys, monkeypatch):
    source.add_many(keys[:10])
    ahead = changed(keys[5], name="created there meanwhile")
    before(monkeypatch, target, "add_many", lambda: target.add(ahead))
    report = copy_keys(source, target)
    assert (report.added, report.kept) == (9, 1)
    assert target.get(ahead.record.id) == ahead


def test_a_key_that_another_copy_brings_meanwhile_is_none_that_was_kept(source, target, keys, monkeypatch):
    source.add_many(keys[:10])
    before(monkeypatch, target, "add_many", lambda: target.add(keys[5]))
    report = copy_keys(source, target)
    assert (report.added, report.kept) == (10, 0)

"""Tables and tokens that versions of drf-simple-apikey made: every token does what it did there.

The names are made up. The table of exceptions has the reason of each: less access is decided.
"""

import csv
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from flask_apikey import DRFSimpleAPIKey, require_api_key
from flask_apikey.cli import apikey
from tests.core.adoption.test_samples import SAMPLES

FOLDER = SAMPLES / "drf-simple-apikey"
NOW = datetime(2026, 11, 29, 16, tzinfo=timezone.utc)
DEADLINE = NOW + timedelta(days=30)

CODES = {
    "accepted": None,
    "revoked": "key_revoked",
    "expired": "key_expired",
    "owner_inactive": "key_suspended",
    "address_not_allowed": "address_not_allowed",
    "address_denied": "address_not_allowed",
    "scope_missing": "insufficient_scope",
    "no_row": "invalid_key",
    "invalid": "invalid_key",
    "server_error": "invalid_key",
}

EXCEPTIONS = {
    # The end of the row was never looked at. Whoever shortened it meant the key.
    ("row shortened", "outcome"): "key_expired",
    ("row shortened", "outcome_during_a_rotation"): "key_expired",
    ("row shortened", "outcome_from_198.51.100.9"): "key_expired",
    ("row shortened", "outcome_from_203.0.113.1"): "key_expired",
    ("row shortened", "outcome_with_scope_reports:read"): "key_expired",
    # 203.0.113.1 is a part of the text 203.0.113.10, and no address that was to be allowed.
    ("allowed addresses as text", "outcome_from_203.0.113.1"): "address_not_allowed",
}
"""Tokens with another outcome before the deadline. Forged ones have the same: nothing tells them from genuine ones."""

SENT_FROM = {
    "outcome": "203.0.113.10",
    "outcome_from_198.51.100.9": "198.51.100.9",
    "outcome_from_203.0.113.1": "203.0.113.1",
    "outcome_with_scope_reports:read": "203.0.113.10",
    "outcome_during_a_rotation": "203.0.113.10",
}
TABLES = {
    "1.0.2": "rest_framework_simple_api_key_apikey.csv",
    "2.4.1": "drf_simple_apikey_apikey.csv",
    "main": "drf_simple_apikey_apikey.csv",
}


def keys_of(version):
    with (FOLDER / version / "keys.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def import_sample(make_scene, clock):
    """Import a table of a version into a storage."""

    def make(uri, version, file=None, *, during_a_rotation=False):
        clock.set(NOW)
        keys = json.loads((FOLDER / version / "fernet.json").read_text())
        names = ["FERNET_SECRET", "ROTATION_FERNET_SECRET"][: 2 if during_a_rotation else 1]
        form = DRFSimpleAPIKey([keys[name] for name in names], until=DEADLINE)
        scene = make_scene(uri, APIKEY_ADOPTED_KEYS=[form])
        scene.app.add_url_rule(
            "/reports", endpoint="reports", view_func=require_api_key(scopes=["reports:read"])(lambda: {"open": True})
        )
        arguments = ["--digest", form.name, "--users", FOLDER / "auth_user.csv", "--empty-scopes", "all", "--json"]
        path = FOLDER / version / (file or TABLES[version])
        result = scene.app.test_cli_runner().invoke(apikey, ["import", str(path), *map(str, arguments)])
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert (report["added"], report["refused"], report["suspended"]) == (report["rows"], 0, 1)
        return scene

    return make


def codes_of(scene, key, outcomes):
    client, codes = scene.app.test_client(), {}
    for outcome in outcomes:
        path = "/reports" if "scope" in outcome else "/"
        sender = {"REMOTE_ADDR": SENT_FROM[outcome]}
        answer = client.get(path, headers={"Authorization": f"Api-Key {key}"}, environ_base=sender)
        codes[outcome] = answer.json.get("code")
    return codes


def check_outcomes(scene, version, *, during_a_rotation=False):
    for row in keys_of(version):
        outcomes = ["outcome_during_a_rotation"]
        if not during_a_rotation:
            outcomes = [name for name in row if name.startswith("outcome") and name not in outcomes]
        expected = {name: EXCEPTIONS.get((row["case"], name), CODES[row[name]]) for name in outcomes}
        assert codes_of(scene, row["key"], outcomes) == expected, row["case"]


def test_newest_version_on_every_storage(import_sample, any_storage_uri):
    scene = import_sample(any_storage_uri, "main")
    check_outcomes(scene, "main")
    scene.clock.set(DEADLINE)
    for row in keys_of("main"):
        if row["outcome"] == "accepted" and (row["case"], "outcome") not in EXCEPTIONS:
            assert codes_of(scene, row["key"], ["outcome"]) == {"outcome": None}


@pytest.mark.parametrize("version", ["1.0.2", "2.4.1"])
def test_earlier_versions(import_sample, tmp_path, version):
    check_outcomes(import_sample(f"sqlite:///{tmp_path}/keys.db", version), version)


@pytest.mark.parametrize("version", ["1.0.2", "2.4.1", "main"])
def test_both_fernet_keys_of_a_rotation(import_sample, tmp_path, version):
    scene = import_sample(f"sqlite:///{tmp_path}/keys.db", version, during_a_rotation=True)
    check_outcomes(scene, version, during_a_rotation=True)


def test_dump(import_sample, tmp_path):
    check_outcomes(import_sample(f"sqlite:///{tmp_path}/keys.db", "main", "dumpdata.json"), "main")


def test_after_the_deadline(import_sample, tmp_path):
    """No token that was never used opens anything, so forged ones do not. One with the secret of its row does."""
    scene = import_sample(f"sqlite:///{tmp_path}/keys.db", "main")
    scene.clock.set(DEADLINE)
    for row in keys_of("main"):
        is_proven = "_secret" in row["payload"] and row["outcome"] == "accepted"
        assert codes_of(scene, row["key"], ["outcome"]) == {"outcome": None if is_proven else "invalid_key"}


def test_exceptions_are_needed():
    rows = [row for version in TABLES for row in keys_of(version)]
    for (case, outcome), code in EXCEPTIONS.items():
        assert any(CODES[row[outcome]] != code for row in rows if row["case"] == case and outcome in row)


def test_samples_are_there():
    assert [len(keys_of(version)) for version in TABLES] == [23, 26, 35]
    assert Path(FOLDER / "auth_user.csv").is_file()

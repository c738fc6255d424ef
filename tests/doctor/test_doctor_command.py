"""The ``flask apikey doctor`` command."""

import json
import os
import re
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask

from flask_apikey import APIKeys
from flask_apikey.core.model.sealing import generate_fernet_key
from tests.support.diagnosis import doctor, findings


def answer():
    return {}


def test_exit_status(make_app, bare):
    assert doctor(bare).exit_code == doctor(bare, "--strict").exit_code == 0
    bare.add_url_rule("/", view_func=answer)
    assert doctor(bare).exit_code == 0
    assert doctor(bare, "--strict").exit_code == doctor(bare, "--strict", "--json").exit_code == 1
    app = make_app(APIKEY_ENFORCE_HTTPS=False)
    APIKeys(app)
    assert doctor(app).exit_code == doctor(app, "--json").exit_code == 1


def test_findings_are_ordered_by_severity(make_app):
    app = make_app(APIKEY_ENFORCE_HTTPS=False)
    APIKeys(app)
    app.add_url_rule("/", view_func=answer)
    result = doctor(app)
    symbols = re.findall(r"^[✓!✗]", result.stdout, re.MULTILINE)
    assert symbols == sorted(symbols, key="✗!✓".index)
    assert symbols[:3] == ["✗", "!", "✓"]
    assert result.stderr == "Problems: 1. Warnings: 1.\n"


def test_terminal_without_unicode(make_app):
    app = make_app(APIKEY_ENFORCE_HTTPS=False)
    APIKeys(app)
    app.add_url_rule("/wöb/✓", view_func=answer)
    shown = doctor(app, charset="latin-1").stdout
    assert re.findall(r"^\S", shown, re.MULTILINE)[:3] == ["x", "!", "+"]
    assert "/wöb/\\u2713" in shown


def test_names_cannot_forge_a_line(app, api_keys):
    app.add_url_rule("/\x1b[2J\n✓ https", "forged", answer)
    assert r"/\u{1b}[2J\u{a}✓ https" in doctor(app).stdout


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="names of files are Unicode there")
def test_unusual_file_names(make_app, tmp_path, fernet_key, caplog):
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\nforged.py")).write_text(fernet_key)
    app = make_app(DEBUG=True)
    app.root_path = str(tmp_path)
    APIKeys(app)
    assert "\\u{a}forged.py:1" in caplog.records[0].getMessage()
    assert "\nforged" not in doctor(app).stdout
    assert json.loads(doctor(app, "--json").stdout)["checks"][0]["details"][0]["file"].endswith("/\ufffd\nforged.py")


def test_json(app, api_keys, issue):
    issue(lifetime=timedelta(days=1))
    document = json.loads(doctor(app, "--json").stdout)
    assert document["ok"] is True
    assert [check["code"] for check in document["checks"]] == list(findings(app))
    expiring = next(check for check in document["checks"] if check["code"] == "keys_expiring")
    assert expiring["severity"] == "warning"
    assert expiring["details"][0]["name"] == "ci"


def test_no_secret_is_printed(make_app, tmp_path):
    weak, fallback, secret_key = "A" * 43 + "=", generate_fernet_key(), "s" * 40
    (tmp_path / "shop.py").write_text(f"{weak}{fallback}")
    app = make_app(APIKEY_FERNET_KEY=weak, APIKEY_FERNET_KEY_FALLBACKS=[fallback], SECRET_KEY=secret_key)
    app.root_path = str(tmp_path)
    api_keys = APIKeys(app)
    with app.app_context():
        key = api_keys.create(name="ci", lifetime=timedelta(days=1)).key
    for arguments in ([], ["--json"]):
        shown = doctor(app, *arguments).output
        assert "keys_expiring" in shown
        for secret in (weak, fallback, secret_key, key, key[-40:]):
            assert secret not in shown


def test_application_without_extension():
    result = doctor(Flask("plain"))
    assert result.exit_code == 1
    assert "call api_keys.init_app(app)" in result.output

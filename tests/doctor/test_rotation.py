"""Findings about Fernet keys and their rotation."""

from datetime import timedelta

import pytest

from flask_apikey import APIKeys
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.doctor.findings import Severity
from flask_apikey_sql import SQLBackend
from tests.support.diagnosis import details, findings


@pytest.mark.parametrize("can_rotate", [True, False], ids=["rotation", "no rotation"])
def test_keys_under_other_fernet_keys(make_app, backend, fernet_key, can_rotate):
    backend = SQLBackend("sqlite:///:memory:") if can_rotate else backend
    old, lost = generate_fernet_key(), generate_fernet_key()
    for key in (lost, old, old):
        app = make_app(APIKEY_FERNET_KEY=key)
        api_keys = APIKeys(app, backend=backend)
        with app.app_context():
            api_keys.init_storage()
            api_keys.create(name="ci")
    app = make_app(APIKEY_FERNET_KEY_FALLBACKS=[old, generate_fernet_key()])
    APIKeys(app, backend=backend)
    found = findings(app)
    backend.close()
    assert found["keys_unreadable"].severity is Severity.PROBLEM
    assert details(found["keys_unreadable"], "keys") == [(1,)]
    assert ("rotation_unrecorded" in found) is can_rotate
    if not can_rotate:
        return
    assert found["rotation_unrecorded"].severity is Severity.WARNING
    assert details(found["rotation_unrecorded"], "setting", "keys") == [
        ("APIKEY_FERNET_KEY", 0),
        ("APIKEY_FERNET_KEY_FALLBACKS[0]", 2),
        ("APIKEY_FERNET_KEY_FALLBACKS[1]", 0),
    ]


def rotation_findings(app):
    return [finding for code, finding in findings(app).items() if code.startswith("rotation_")]


def check(app, code, severity, advice):
    (found,) = rotation_findings(app)
    assert (found.code, found.severity.value) == (code, severity)
    assert advice in found.advice


def test_stages_and_next_steps(make_app, tmp_path, fernet_key, clock):
    uri, new = f"sqlite:///{tmp_path}/keys.db", generate_fernet_key()

    def process(primary, *fallbacks):
        app = make_app(APIKEY_STORAGE_URI=uri, APIKEY_FERNET_KEY=primary, APIKEY_FERNET_KEY_FALLBACKS=list(fallbacks))
        return app, APIKeys(app, clock=clock)

    (before, api_keys), (added, adding), (promoted, promoting) = (
        process(fernet_key),
        process(fernet_key, new),
        process(new, fernet_key),
    )
    with before.app_context():
        api_keys.init_storage()
        api_keys.create(name="ci")
    assert rotation_findings(before) == []
    check(added, "rotation_added", "ok", "rotation start")
    check(promoted, "rotation_unrecorded", "warning", "")
    with added.app_context():
        adding.rotation.start()
    check(before, "rotation_not_configured", "problem", "")
    check(added, "rotation_started", "warning", "make it APIKEY_FERNET_KEY everywhere")
    check(promoted, "rotation_promoted", "warning", "rotation run")
    clock.advance(timedelta(days=7))
    check(promoted, "rotation_overdue", "warning", "rotation run")
    with promoted.app_context():
        promoting.rotation.run()
        check(promoted, "rotation_overdue", "warning", "rotation finish")
        promoting.rotation.finish()
    check(promoted, "rotation_finished", "warning", "Remove APIKEY_FERNET_KEY_FALLBACKS[0]")
    check(added, "rotation_behind", "problem", "which the last rotation retired: make")
    assert rotation_findings(process(new)[0]) == []


def test_rotation_in_an_incomplete_storage(make_app, tmp_path, fernet_key, clock):
    new = generate_fernet_key()
    uri = f"sqlite:///{tmp_path}/keys.db"
    adding = make_app(APIKEY_FERNET_KEY_FALLBACKS=[new], APIKEY_STORAGE_URI=uri)
    promoting = make_app(APIKEY_FERNET_KEY=new, APIKEY_FERNET_KEY_FALLBACKS=[fernet_key], APIKEY_STORAGE_URI=uri)
    extensions = [APIKeys(each, clock=clock) for each in (adding, promoting)]
    with adding.app_context():
        extensions[0].init_storage()
        extensions[0].create(name="ci")
        extensions[0].rotation.start()
    backend = adding.extensions["apikey"].backend
    min(backend._keys.indexes, key=lambda index: index.name).drop(backend._opened.get().engine)
    found = findings(promoting)
    assert "storage_incomplete" in found
    assert "rotation run" in found["rotation_promoted"].advice


def test_no_rotation_findings_without_its_table(make_app):
    app = make_app(APIKEY_FERNET_KEY_FALLBACKS=[generate_fernet_key()])
    with app.app_context():
        APIKeys(app).init_storage()
    backend = app.extensions["apikey"].backend
    check(app, "rotation_added", "ok", "")
    backend._metadata.tables["flask_apikey_rotation"].drop(backend._opened.get().engine)
    assert rotation_findings(app) == []
    assert "table flask_apikey_rotation" in findings(app)["storage_incomplete"].message
    assert "storage_unusable" not in findings(app)

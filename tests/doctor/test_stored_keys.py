"""Findings about the stored keys."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_apikey import APIKeys, require_api_key
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.doctor import stored_keys
from flask_apikey.doctor.findings import MAX_DETAILS, Severity
from tests.support.diagnosis import details, findings
from tests.support.keys import Lifecycle


def test_scope_without_active_key(app, api_keys, issue):
    @app.get("/reports")
    @require_api_key(scopes=["reports:read", "reports:wirte"])
    def reports():
        return {}

    issue(scopes=["reports:read"])
    revoked = issue(scopes=["reports:wirte"])
    with app.app_context():
        api_keys.revoke(revoked.record.id)
    found = findings(app)["scopes_without_key"]
    assert found.severity is Severity.WARNING
    assert details(found, "scope", "endpoints") == [("reports:wirte", "reports")]
    issue(scopes=["*"])
    assert "scopes_without_key" not in findings(app)


def test_scope_of_a_wildcard_or_an_alternative(app, api_keys, issue):
    @app.get("/reports")
    @require_api_key(scopes=["reports:daily:read"], any_scope=["a:read", "b:read"])
    def reports():
        return {}

    issue(scopes=["reports:*", "reports", "c:*"])
    assert details(findings(app)["scopes_without_key"], "scope", "endpoints") == [("one of a:read, b:read", "reports")]
    issue(scopes=["b:*"])
    assert "scopes_without_key" not in findings(app)


def test_keys_of_other_prefix(app, api_keys, issue, clock):
    @app.get("/reports")
    @require_api_key(scopes=["reports:read"])
    def reports():
        return {}

    issue(scopes=["other"])
    assert "keys_of_other_prefix" not in findings(app)
    state = app.extensions["apikey"]
    for prefix in ("acme_test", "acme_test", "acme_old"):
        lifecycle = Lifecycle(state.backend, state.ring, IssuePolicy(prefix=prefix), clock)
        other = lifecycle.create(name="ci", scopes=["*"], lifetime="1h")
    lifecycle.revoke(lifecycle.create(name="revoked").record.id)
    found = findings(app)
    assert found["keys_of_other_prefix"].severity is Severity.WARNING
    assert details(found["keys_of_other_prefix"], "prefix", "keys") == [("acme_test", 2), ("acme_old", 1)]
    assert details(found["scopes_without_key"], "scope") == [("reports:read",)]
    assert "Active keys: 1." in found["keys"].message
    lifecycle.revoke(other.record.id)
    assert details(findings(app)["keys_of_other_prefix"], "prefix", "keys") == [("acme_test", 2)]


def test_keys_expiring_soon(app, api_keys, issue, clock):
    issue("expired", lifetime=timedelta(days=1))
    revoked = issue("revoked", lifetime=timedelta(days=10))
    with app.app_context():
        api_keys.revoke(revoked.record.id)
    clock.advance(timedelta(days=2))
    soon = issue("soon", lifetime=timedelta(days=14))
    issue("later", lifetime=timedelta(days=14, seconds=1))
    issue("never", lifetime=None)
    found = findings(app)
    assert found["keys_expiring"].severity is Severity.WARNING
    assert details(found["keys_expiring"], "id", "name") == [(soon.record.id, "soon")]
    assert "keys" not in found


@pytest.mark.parametrize(("notice", "said"), [("36h", "within 36 hours: 1."), ("1d", "within 1 day."), (0, "is 0")])
def test_expiry_notice(make_app, clock, notice, said):
    app = make_app(APIKEY_EXPIRY_NOTICE=notice)
    api_keys = APIKeys(app, clock=clock)
    with app.app_context():
        api_keys.init_storage()
        api_keys.create(name="soon", lifetime=timedelta(hours=36))
    found = findings(app)
    assert said in (found.get("keys_expiring") or found["keys"]).message


def test_details_are_bounded_and_counts_are_not(app, issue):
    for _ in range(MAX_DETAILS + 3):
        issue(lifetime=timedelta(days=1))
    found = findings(app)["keys_expiring"]
    assert len(found.details) == MAX_DETAILS
    assert f"14 days: {MAX_DETAILS + 3}." in found.message


def test_maximum_number_of_keys(app, issue, monkeypatch, clock):
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 2)
    issue()
    issue()
    assert "keys_not_all_read" not in findings(app)
    clock.advance(timedelta(seconds=1))
    issue(lifetime=timedelta(days=1))
    found = findings(app)
    assert found["keys_not_all_read"].severity is Severity.WARNING
    assert "Active keys: 2." in found["keys"].message


def test_seals_of_all_keys_are_counted(app, issue, monkeypatch):
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 1)
    for _ in range(3):
        issue()
    app.extensions["apikey"].ring = FernetKeyring(generate_fernet_key())
    assert details(findings(app)["keys_unreadable"], "keys") == [(3,)]


def damage(app, key_id):
    database = app.extensions["apikey"].backend._opened.get()
    with database.engine.begin() as connection:
        edit = sa.text("UPDATE flask_apikey_keys SET previous_secrets_expire_at = 'nonsense' WHERE id = :id")
        assert connection.execute(edit, {"id": key_id}).rowcount == 1


def run_while_reading(monkeypatch, app, first=int, last=int):
    """Run functions before the first and after the last key is read."""
    backend = app.extensions["apikey"].backend
    all_keys = backend.all_keys

    def interrupted():
        first()
        yield from list(all_keys())
        last()

    monkeypatch.setattr(backend, "all_keys", interrupted)


def test_damaged_rows(app, issue, caplog):
    issued = [issue() for _ in range(3)]
    assert "keys_damaged" not in findings(app)
    for each in issued[1:]:
        damage(app, each.record.id)
    caplog.clear()
    found = findings(app)
    assert found["keys_damaged"].severity is Severity.PROBLEM
    assert "damaged row: 2." in found["keys_damaged"].message
    assert "Active keys: 1." in found["keys"].message
    for each in issued[1:]:
        assert f"row of key {each.record.id!r} is damaged" in caplog.text


def test_key_added_while_reading_is_not_damaged(app, issue, monkeypatch):
    issue()
    run_while_reading(monkeypatch, app, last=issue)
    assert "keys_damaged" not in findings(app)


def test_key_removed_while_reading_is_not_damaged(app, issue, monkeypatch):
    backend, issued = app.extensions["apikey"].backend, issue()
    run_while_reading(monkeypatch, app, first=lambda: backend.delete(issued.record.id, expected_version=1))
    assert "keys_damaged" not in findings(app)


def test_damaged_row_while_a_key_is_added(app, issue, monkeypatch):
    damage(app, issue().record.id)
    run_while_reading(monkeypatch, app, last=issue)
    assert "damaged row: 1." in findings(app)["keys_damaged"].message


def test_no_damage_beyond_the_maximum_number_of_keys(app, issue, monkeypatch):
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 1)
    damage(app, issue().record.id)
    issue()
    issue()
    assert "keys_damaged" not in findings(app)

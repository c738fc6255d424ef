"""Findings about the stored keys."""

from datetime import timedelta

import pytest

from flask_apikey import APIKeys, require_api_key
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.doctor import stored_keys
from flask_apikey.doctor.findings import MAX_DETAILS, Severity
from tests.support.attacker import Attacker
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
    assert details(found["keys_expiring"], "key_id", "name") == [(soon.record.id, "soon")]
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


def test_maximum_number_of_keys(app, issue, monkeypatch):
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 2)
    issue()
    issue()
    assert "keys_not_all_read" not in findings(app)
    issue()
    found = findings(app)
    assert found["keys_not_all_read"].severity is Severity.WARNING
    assert "Active keys: 2." in found["keys"].message


def test_seals_of_all_keys_are_counted(app, issue, monkeypatch):
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 1)
    for _ in range(3):
        issue()
    app.extensions["apikey"].ring = FernetKeyring(generate_fernet_key())
    assert details(findings(app)["keys_unreadable"], "keys") == [(3,)]


@pytest.fixture
def attacker(app, api_keys):
    return Attacker(app.extensions["apikey"].backend)


def run_while_reading(monkeypatch, owner, method, change):
    """Run a function once, after the rows or the events were read."""
    read, calls = getattr(owner, method), []

    def interrupted(*arguments, **options):
        found = list(read(*arguments, **options))
        if not calls:
            calls.append(method)
            change()
        return found

    monkeypatch.setattr(owner, method, interrupted)


def test_damaged_rows(app, issue, attacker):
    issued = [issue() for _ in range(3)]
    assert "keys_damaged" not in findings(app)
    for each in issued[1:]:
        attacker.edit_row(each.record.id, previous_secrets_expire_at="nonsense")
    found = findings(app)
    assert found["keys_damaged"].severity is Severity.PROBLEM
    assert "damaged row: 2." in found["keys_damaged"].message
    assert "Active keys: 1." in found["keys"].message
    assert set(details(found["keys_damaged"], "key_id")) == {(each.record.id,) for each in issued[1:]}


def test_tampered_rows(app, issue, attacker):
    issued = [issue() for _ in range(3)]
    attacker.edit_row(issued[0].record.id, scopes="*", owner="team-7")
    found = findings(app)
    assert found["keys_tampered"].severity is Severity.PROBLEM
    assert "does not fit its seal: 1." in found["keys_tampered"].message
    assert details(found["keys_tampered"], "key_id", "changed") == [(issued[0].record.id, "owner, scopes")]
    assert "keys_outdated" not in found


def test_details_of_rows_are_bounded(app, issue, attacker):
    for _ in range(MAX_DETAILS + 2):
        attacker.edit_row(issue().record.id, name="edited")
    found = findings(app)["keys_tampered"]
    assert len(found.details) == MAX_DETAILS
    assert f"{MAX_DETAILS + 2}." in found.message


def test_no_damage_beyond_the_maximum_number_of_keys(app, issue, attacker, monkeypatch):
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 1)
    first, last = sorted(issue().record.id for _ in range(2))
    attacker.edit_row(last, metadata="no JSON")
    assert "keys_damaged" not in findings(app)
    attacker.edit_row(first, metadata="no JSON")
    assert "keys_damaged" in findings(app)


class TestHistories:
    @pytest.fixture
    def key_id(self, app, api_keys, issue, attacker):
        """Id of a key whose row was put back to version 1, beside other keys."""
        issued = [issue() for _ in range(3)]
        older = attacker.row(issued[1].record.id)
        with app.app_context():
            api_keys.update(issued[0].record.id, name="renamed")
            api_keys.revoke(issued[1].record.id)
        assert "keys_outdated" not in findings(app)
        attacker.put_back(older)
        return issued[1].record.id

    def test_older_row_put_back(self, app, key_id):
        found = findings(app)["keys_outdated"]
        assert found.severity is Severity.PROBLEM
        message = "an older row was put back, or event 2 was added: the row is at version 1"
        assert details(found, "key_id", "message") == [(key_id, message)]

    def test_last_event_removed(self, app, issue, attacker):
        key_id = issue().record.id
        attacker.remove_events(key_id)
        assert details(findings(app)["keys_outdated"], "key_id", "message") == [(key_id, "event 1 is missing")]

    @pytest.mark.parametrize("part", ["scan", "chains"])
    def test_change_while_reading(self, app, api_keys, issue, monkeypatch, part):
        key_id = issue().record.id
        backend = app.extensions["apikey"].backend

        def change():
            with app.app_context():
                api_keys.update(key_id, name="renamed")
            issue()

        run_while_reading(monkeypatch, backend if part == "scan" else backend.history, part, change)
        assert "keys_outdated" not in findings(app)

    def test_maximum_number_of_events(self, app, key_id, monkeypatch):
        monkeypatch.setattr(stored_keys, "MAX_EVENTS", 5)
        assert "keys_outdated" in findings(app)
        assert "history_not_all_read" not in findings(app)
        monkeypatch.setattr(stored_keys, "MAX_EVENTS", 0)
        found = findings(app)
        assert "keys_outdated" not in found
        assert found["history_not_all_read"].severity is Severity.WARNING

    def test_storage_without_history(self, make_app, backend):
        app = make_app()
        api_keys = APIKeys(app, backend=backend)
        with app.app_context():
            api_keys.init_storage()
            api_keys.create(name="ci")
        assert "keys" in findings(app)

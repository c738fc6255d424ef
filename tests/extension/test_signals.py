"""Signals."""

import contextlib
from datetime import timedelta

import pytest

from flask_apikey import (
    APIKeys,
    KeyNotFound,
    NotRecoverable,
    require_api_key,
    signals,
)
from flask_apikey.core.keys.authenticator import Verdict


class TestSignals:
    @pytest.fixture
    def sent(self):
        sent = []
        names = [name for name in vars(signals) if name.startswith("api_key_")]
        receivers = {name: lambda sender, name=name, **kwargs: sent.append((name, sender, kwargs)) for name in names}
        with contextlib.ExitStack() as stack:
            for name, receiver in receivers.items():
                stack.enter_context(getattr(signals, name).connected_to(receiver))
            yield sent

    def test_changes(self, make_app, sent):
        app = make_app(APIKEY_RECOVERABLE=True)
        api_keys = APIKeys(app)
        with app.app_context():
            key_id = api_keys.create(name="ci").record.id
            api_keys.update(key_id, name="renamed")
            api_keys.roll(key_id, grace=timedelta(hours=1))
            key = api_keys.reveal(key_id)
            revoked = api_keys.revoke(key_id)
        assert [(name, sender) for name, sender, _ in sent] == [
            (f"api_key_{what}", app) for what in ("created", "updated", "rolled", "revealed", "revoked")
        ]
        assert all(kwargs["key"].id == key_id for _, _, kwargs in sent)
        assert sent[-1][2]["key"] == revoked
        assert key not in repr(sent)

    def test_failed_change(self, app, api_keys, sent):
        with app.app_context():
            key_id = api_keys.create(name="ci").record.id
            sent.clear()
            with pytest.raises(NotRecoverable):
                api_keys.reveal(key_id)
            with pytest.raises(KeyNotFound):
                api_keys.revoke("0" * 16)
        assert sent == []

    def test_change_without_effect(self, app, api_keys, sent):
        with app.app_context():
            key_id = api_keys.create(name="ci", scopes=["read"]).record.id
            first = api_keys.revoke(key_id, reason="first")
            sent.clear()
            assert api_keys.revoke(key_id, reason="second") == first
            assert api_keys.update(key_id, name="ci", scopes=["read"]) == first
        assert sent == []

    def test_failing_receiver(self, make_app, caplog):
        app = make_app(APIKEY_RECOVERABLE=True)
        api_keys = APIKeys(app)

        def fail(_sender, key):
            raise RuntimeError(f"no mail about {key}")

        with app.app_context(), contextlib.ExitStack() as stack:
            for what in ("created", "updated", "rolled", "revealed", "revoked"):
                stack.enter_context(getattr(signals, f"api_key_{what}").connected_to(fail))
            issued = api_keys.create(name="ci")
            assert api_keys.verify(issued.key).accepted
            key_id = issued.record.id
            rolled = api_keys.roll(key_id)
            assert api_keys.verify(rolled.key).accepted
            assert api_keys.reveal(key_id) == rolled.key
            assert api_keys.update(key_id, name="renamed").name == "renamed"
            assert api_keys.revoke_many(issued_before=rolled.record.issued_at + timedelta(days=1)).revoked == 1
        failures = [each for each in caplog.records if each.exc_info is not None]
        assert [each.name for each in failures] == ["flask_apikey"] * 5
        assert "api-key-rolled" in failures[1].getMessage()
        assert "no mail about" in caplog.text
        assert issued.key not in caplog.text
        assert rolled.key not in caplog.text

    def test_accepted_key_is_sent_once(self, app, client, issue, sent):
        app.get("/")(require_api_key(require_api_key(scopes=["read"])(lambda: "reached")))
        issued = issue(scopes=["read"])
        sent.clear()
        client.get("/", headers={"X-API-Key": issued.key})
        assert sent == [("api_key_accepted", app, {"key": issued.record})]

    def test_refusals(self, app, client, issue, sent):
        app.get("/")(require_api_key(lambda: "reached"))
        app.get("/open", endpoint="open")(lambda: "open")
        issued = issue(denied_ips=["127.0.0.1"])
        sent.clear()
        client.get("/open", headers={"X-API-Key": issued.key})
        for headers in ({}, {"X-API-Key": "nonsense"}, {"X-API-Key": issued.key}):
            client.get("/", headers=headers)
        assert [(name, sender) for name, sender, _ in sent] == [("api_key_refused", app)] * 3
        decisions = [kwargs["decision"] for _, _, kwargs in sent]
        assert [each.verdict for each in decisions] == [Verdict.MISSING, Verdict.MALFORMED, Verdict.ADDRESS_REFUSED]
        assert [each.key for each in decisions] == [None, None, issued.record]
        assert issued.key not in repr(sent)

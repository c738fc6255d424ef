"""`current_api_key`, and the owner of the key."""

import contextlib

import pytest
from flask import copy_current_request_context

from flask_apikey import (
    current_api_key,
    require_api_key,
)
from tests.extension.views import add_view


class TestCurrentAPIKey:
    @pytest.fixture(autouse=True)
    def _views(self, app, api_keys):
        add_view(app)

    def test_key_of_the_request(self, client, issue):
        issued = issue(name="ci", owner="team-7", scopes=["read"], metadata={"plan": "free"})
        with client:
            client.get("/", headers={"X-API-Key": issued.key})
            assert current_api_key
            assert current_api_key.record == issued.record
            assert current_api_key.id == issued.record.id
            assert current_api_key.name == "ci"
            assert current_api_key.owner == "team-7"
            assert current_api_key.scopes == {"read"}
            assert current_api_key.metadata == {"plan": "free"}
            assert current_api_key.has_scopes("read")
            assert not current_api_key.has_scopes("read", "write")
            assert not current_api_key.has_scopes("read:*")
            assert issued.key not in repr(current_api_key)

    def test_false_without_a_checked_key(self, client, issue):
        assert client.get("/optional").text == "nobody"
        assert client.get("/open", headers={"X-API-Key": issue().key}).text == "nobody"

    def test_false_after_a_refusal(self, app, client, issue):
        seen = []
        app.register_error_handler(401, lambda _: seen.append(bool(current_api_key)) or ("", 401))
        app.register_error_handler(403, lambda _: seen.append(bool(current_api_key)) or ("", 403))
        client.get("/", headers={"X-API-Key": "nonsense"})
        client.get("/", headers={"X-API-Key": issue(denied_ips=["127.0.0.1"]).key})
        assert seen == [False, False]

    @pytest.mark.parametrize("attribute", ["name", "id", "owner", "record", "scopes"])
    def test_outside_of_a_request(self, app, attribute):
        assert not current_api_key
        for context in (contextlib.nullcontext(), app.app_context()):
            with context, pytest.raises(RuntimeError, match=r"while a request is handled: .* api_keys\.get"):
                getattr(current_api_key, attribute)

    def test_attributes_without_a_key(self, app, client):
        seen = []

        @app.get("/forgotten")
        @require_api_key(optional=True)
        def forgotten():
            assert repr(current_api_key) == "<NoAPIKey>"
            for attribute in ("name", "has_scopes"):
                with pytest.raises(AttributeError) as caught:
                    getattr(current_api_key, attribute)
                seen.append(str(caught.value))
            return ""

        assert client.get("/forgotten").status_code == 200
        assert seen == [
            f"this request has no accepted API key: check 'if current_api_key' before current_api_key.{name}, or "
            "require a key with @require_api_key, without optional=True"
            for name in ("name", "has_scopes")
        ]

    def test_requests_in_one_application_context(self, app, client, issue):
        first, second = issue(name="first").key, issue(name="second").key
        with app.app_context():
            assert client.get("/", headers={"X-API-Key": first}).text == "first"
            assert client.get("/").status_code == 401
            assert client.get("/optional").text == "nobody"
            assert client.get("/open").text == "nobody"
            assert client.get("/", headers={"X-API-Key": "nonsense"}).status_code == 401
            assert "Cache-Control" not in client.get("/open").headers
            assert client.get("/", headers={"X-API-Key": second}).text == "second"
            with pytest.raises(RuntimeError, match="request"):
                _ = current_api_key.name

    def test_nested_request(self, app, client, issue):
        outer, inner = issue(name="outer").key, issue(name="inner").key

        @app.get("/nested")
        @require_api_key
        def nested():
            other = app.test_client()
            answers = [other.get("/optional", headers=headers).text for headers in ({"X-API-Key": inner}, {})]
            return f"{answers} {current_api_key.name}"

        assert client.get("/nested", headers={"X-API-Key": outer}).text == "['inner', 'nobody'] outer"

    def test_copied_request_context(self, app, client, issue):
        @app.get("/copied")
        @require_api_key
        def copied():
            return copy_current_request_context(lambda: current_api_key.name)()

        assert client.get("/copied", headers={"X-API-Key": issue(name="ci").key}).text == "ci"

    def test_teardown(self, app, client, issue):
        seen = []

        @app.teardown_request
        def note(_):
            seen.append(current_api_key.name)

        client.get("/", headers={"X-API-Key": issue(name="ci").key})
        assert seen == ["ci"]


class TestOwnerLoader:
    @pytest.fixture
    def loaded(self, app, api_keys):
        loaded = []

        @api_keys.owner_loader
        def load(owner_id):
            loaded.append(owner_id)
            return {"id": owner_id}

        @app.get("/")
        @require_api_key
        def view():
            return {"owner": current_api_key.owner, "again": current_api_key.owner is current_api_key.owner}

        @app.get("/unread")
        @require_api_key
        def unread():
            return "reached"

        assert load("direct") == {"id": "direct"}
        loaded.clear()
        return loaded

    def test_not_called_unless_an_owner_is_read(self, client, issue, loaded):
        client.get("/unread", headers={"X-API-Key": issue(owner="team-7").key})
        client.get("/", headers={"X-API-Key": issue(owner="team-7", denied_ips=["0.0.0.0/0"]).key})
        assert client.get("/", headers={"X-API-Key": issue().key}).json["owner"] is None
        assert loaded == []

    def test_called_once_in_a_request(self, client, issue, loaded):
        key = issue(owner="team-7").key
        for calls in (1, 2):
            response = client.get("/", headers={"X-API-Key": key})
            assert response.json == {"owner": {"id": "team-7"}, "again": True}
            assert loaded == ["team-7"] * calls

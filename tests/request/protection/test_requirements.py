"""Scopes, optional keys, checks inside a view, and OPTIONS."""

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView

from flask_apikey import ConfigurationError, InvalidValue, check_api_key, current_api_key, require_api_key


@pytest.mark.parametrize("protected_by", ["below", "above", "blueprint"])
class TestOptions:
    @pytest.fixture
    def add(self, app, api_keys, view, protected_by):
        """Adds the protected view at "/"."""

        def add(**options):
            blueprint = Blueprint("blueprint", __name__)
            blueprint.add_url_rule("/", "view", require_api_key(view) if protected_by == "below" else view, **options)
            app.register_blueprint(blueprint)
            if protected_by == "above":
                require_api_key(view)
            if protected_by == "blueprint":
                api_keys.protect(blueprint)

        return add

    def test_preflight_answered_by_flask(self, add, client, reached):
        add()
        response = client.options("/")
        assert response.status_code == 200
        assert "GET" in response.headers["Allow"]
        assert "Cache-Control" not in response.headers
        assert reached == []

    def test_view_that_answers_options(self, add, assert_guarded):
        add(methods=["GET", "OPTIONS"])
        assert_guarded("/", "OPTIONS")

    def test_view_without_automatic_options(self, add, client, reached):
        add(provide_automatic_options=False)
        assert client.options("/").status_code == 405
        assert reached == []


def test_view_class_that_answers_options(app, view, assert_guarded):
    @require_api_key
    class Resource(MethodView):
        def options(self):
            return view()

    app.add_url_rule("/", view_func=Resource.as_view("resource"))
    assert_guarded("/", "OPTIONS")


class TestOptional:
    @pytest.fixture(autouse=True)
    def _view(self, app, api_keys):
        @app.get("/")
        @require_api_key(optional=True, scopes=["read"])
        def view():
            return {"caller": current_api_key.name if current_api_key else None}

    def test_key(self, client, issue):
        key = issue(name="ci", scopes=["read"]).key
        assert client.get("/", headers={"X-API-Key": key}).json == {"caller": "ci"}
        response = client.get("/")
        assert response.json == {"caller": None}
        assert response.headers["Cache-Control"] == "no-store"

    def test_bad_key(self, app, api_keys, client, issue):
        revoked = issue(scopes=["read"])
        with app.app_context():
            api_keys.revoke(revoked.record.id)
        codes = {"x": "invalid_key", "": "invalid_key", issue().key: "insufficient_scope", revoked.key: "key_revoked"}
        for key, code in codes.items():
            assert client.get("/", headers={"X-API-Key": key}).json["code"] == code

    @pytest.mark.parametrize("above", [True, False], ids=["above", "below"])
    def test_required_and_optional(self, app, client, above):
        view = require_api_key(optional=above)(require_api_key(optional=not above)(lambda: "reached"))
        app.get("/both", endpoint="both")(view)
        assert client.get("/both").status_code == 401


class TestScopes:
    @pytest.mark.parametrize(
        ("granted", "missing"),
        [
            (["read", "write", "more"], None),
            (["*"], None),
            ([], ["read", "write"]),
            (["read"], ["write"]),
            (["write", "other"], ["read"]),
            (["read:all", "writer"], ["read", "write"]),
            (["READ", "WRITE"], ["read", "write"]),
        ],
    )
    def test_scopes(self, app, view, issue, reached, granted, missing):
        app.get("/")(require_api_key(scopes=["read", "write"])(view))
        response = app.test_client(api_key=issue(scopes=granted).key).get("/")
        if missing is None:
            assert response.status_code == 200
        else:
            assert response.status_code == 403
            assert response.json["missing_scopes"] == missing
            assert reached == []

    def test_star_required(self, app, view, client, issue):
        app.get("/")(require_api_key(scopes=["*"])(view))
        assert client.get("/", headers={"X-API-Key": issue(scopes=["read"]).key}).status_code == 403
        assert client.get("/", headers={"X-API-Key": issue(scopes=["*"]).key}).status_code == 200

    def test_stacked_decorators(self, app, view, client, issue):
        app.get("/")(require_api_key(scopes=["a"])(require_api_key(scopes=["b"])(view)))
        assert client.get("/", headers={"X-API-Key": issue(scopes=["a"]).key}).json["missing_scopes"] == ["b"]
        assert client.get("/", headers={"X-API-Key": issue(scopes=["b"]).key}).json["missing_scopes"] == ["a"]

    @pytest.mark.parametrize("wrong", ["read", 5, ["two words"], [""], [5], [b"read"], ['"quoted"'], ["é"]])
    def test_malformed_scopes(self, wrong):
        with pytest.raises(InvalidValue, match="scopes"):
            require_api_key(scopes=wrong)

    @pytest.mark.parametrize("wrong", ["read", ["read"], 5, Blueprint("blueprint", __name__)], ids=type)
    def test_refuses_other_objects(self, wrong):
        with pytest.raises(TypeError, match="@require_api_key"):
            require_api_key(wrong)

    @pytest.mark.parametrize("decorator", [require_api_key, require_api_key(), require_api_key(optional=True)])
    def test_refuses_none(self, decorator):
        """Decorators that return nothing, such as some of websockets, leave None to the decorator above them."""
        with pytest.raises(TypeError, match="directly above the function"):
            decorator(None)


class TestCheckInsideAView:
    @pytest.fixture(autouse=True)
    def _view(self, app, api_keys, reached):
        @app.get("/<tenant>")
        def view(tenant):
            check_api_key(scopes=[f"tenant:{tenant}"])
            reached.append(tenant)
            return {"caller": current_api_key.name}

    def test_refuses_missing_and_bad_keys(self, client, reached):
        assert client.get("/a").json["code"] == "missing_key"
        assert client.get("/a", headers={"X-API-Key": "x"}).json["code"] == "invalid_key"
        assert reached == []

    def test_scopes_of_one_request_only(self, client, issue):
        keys = {tenant: issue(name=tenant, scopes=[f"tenant:{tenant}"]).key for tenant in "abc"}
        for path in keys:
            for tenant, key in keys.items():
                response = client.get(f"/{path}", headers={"X-API-Key": key})
                if path == tenant:
                    assert response.json == {"caller": tenant}
                    assert response.headers["Cache-Control"] == "no-store"
                else:
                    assert response.status_code == 403
                    assert response.json["missing_scopes"] == [f"tenant:{path}"]

    def test_malformed_scope(self, app, client, issue, reached):
        app.config["PROPAGATE_EXCEPTIONS"] = False
        assert client.get("/two words", headers={"X-API-Key": issue(scopes=["*"]).key}).status_code == 500
        assert reached == []

    def test_without_init_app(self):
        with Flask("bare").test_request_context(), pytest.raises(ConfigurationError, match="init_app"):
            check_api_key()

"""What a view may ask: scopes, a key or none, and more while it runs; and what OPTIONS asks."""

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView

from flask_apikey import ConfigurationError, InvalidValue, check_api_key, current_api_key, require_api_key
from tests.request.protection.decorators import losing_names


class TestOptions:
    @pytest.mark.parametrize("order", ["below", "above"])
    def test_a_preflight_that_flask_answers_passes_without_a_key(self, app, view, client, reached, order):
        if order == "below":
            app.get("/")(require_api_key(view))
        else:
            require_api_key(app.get("/")(view))
        response = client.options("/")
        assert response.status_code == 200
        assert "GET" in response.headers["Allow"]
        assert "Cache-Control" not in response.headers
        assert reached == []

    def test_a_preflight_of_a_protected_blueprint_passes(self, app, api_keys, view, client, reached):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.get("/")(view)
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert client.options("/").status_code == 200
        assert reached == []

    def test_a_view_that_answers_options_itself_is_guarded(self, app, view, assert_guarded):
        app.route("/", methods=["GET", "OPTIONS"])(require_api_key(view))
        assert_guarded("/", "OPTIONS")

    def test_a_view_that_answers_options_itself_is_guarded_by_its_blueprint(self, app, api_keys, view, assert_guarded):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.route("/", methods=["OPTIONS"])(view)
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert_guarded("/", "OPTIONS")

    def test_a_class_that_answers_options_itself_is_guarded(self, app, view, assert_guarded):
        @require_api_key
        class Resource(MethodView):
            def options(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/", "OPTIONS")

    def test_a_view_without_automatic_options_is_guarded(self, app, view, client, reached):
        app.add_url_rule("/", "view", require_api_key(view), methods=["GET"], provide_automatic_options=False)
        assert client.options("/").status_code == 405
        assert reached == []


class TestOptional:
    @pytest.fixture(autouse=True)
    def _view(self, app, api_keys):
        @app.get("/")
        @require_api_key(optional=True, scopes=["read"])
        def view():
            return {"caller": current_api_key.name if current_api_key else None}

    def test_without_a_key_it_is_reached_by_nobody_in_particular(self, client):
        response = client.get("/")
        assert response.json == {"caller": None}
        assert response.headers["Cache-Control"] == "no-store"

    def test_with_a_key_it_is_reached_by_its_caller(self, client, issue):
        key = issue(name="ci", scopes=["read"]).key
        assert client.get("/", headers={"X-API-Key": key}).json == {"caller": "ci"}

    def test_a_bad_key_is_refused_all_the_same(self, client, issue):
        assert client.get("/", headers={"X-API-Key": "x"}).status_code == 401
        assert client.get("/", headers={"X-API-Key": ""}).status_code == 401
        assert client.get("/", headers={"X-API-Key": issue().key}).json["code"] == "insufficient_scope"

    def test_a_revoked_key_is_refused_all_the_same(self, app, api_keys, client, issue):
        issued = issue(scopes=["read"])
        with app.app_context():
            api_keys.revoke(issued.record.id)
        assert client.get("/", headers={"X-API-Key": issued.key}).json["code"] == "key_revoked"

    def test_optional_outside_does_not_open_what_is_required_inside(self, app, view, client, reached):
        hidden = losing_names(require_api_key(view))
        app.get("/hidden", endpoint="hidden")(require_api_key(optional=True)(hidden))
        assert client.get("/hidden").status_code == 401
        assert reached == []

    def test_required_around_optional_is_required(self, app, client):
        app.get("/both", endpoint="both")(require_api_key(require_api_key(optional=True)(lambda: "reached")))
        app.get("/htob", endpoint="htob")(require_api_key(optional=True)(require_api_key(lambda: "reached")))
        assert client.get("/both").status_code == 401
        assert client.get("/htob").status_code == 401


class TestScopes:
    @pytest.mark.parametrize(
        ("granted", "missing"),
        [
            ([], ["read", "write"]),
            (["read"], ["write"]),
            (["write", "other"], ["read"]),
            (["read:all", "writer"], ["read", "write"]),
            (["READ", "WRITE"], ["read", "write"]),
        ],
    )
    def test_a_key_without_all_of_them_is_refused(self, app, view, issue, reached, granted, missing):
        app.get("/")(require_api_key(scopes=["read", "write"])(view))
        response = app.test_client(api_key=issue(scopes=granted).key).get("/")
        assert response.status_code == 403
        assert response.json["missing_scopes"] == missing
        assert reached == []

    @pytest.mark.parametrize("granted", [["read", "write"], ["read", "write", "more"], ["*"], ["*", "read"]])
    def test_a_key_with_all_of_them_passes(self, app, view, client, issue, granted):
        app.get("/")(require_api_key(scopes=["read", "write"])(view))
        assert client.get("/", headers={"X-API-Key": issue(scopes=granted).key}).status_code == 200

    def test_a_key_without_scopes_passes_where_none_is_required(self, app, view, client, issue):
        app.get("/")(require_api_key(view))
        assert client.get("/", headers={"X-API-Key": issue().key}).status_code == 200

    def test_a_view_that_requires_the_star_is_open_to_the_star_only(self, app, view, client, issue):
        app.get("/")(require_api_key(scopes=["*"])(view))
        assert client.get("/", headers={"X-API-Key": issue(scopes=["read"]).key}).status_code == 403
        assert client.get("/", headers={"X-API-Key": issue(scopes=["*"]).key}).status_code == 200

    def test_stacked_decorators_add_up(self, app, view, client, issue):
        app.get("/")(require_api_key(scopes=["a"])(require_api_key(scopes=["b"])(view)))
        assert client.get("/", headers={"X-API-Key": issue(scopes=["a"]).key}).json["missing_scopes"] == ["b"]
        assert client.get("/", headers={"X-API-Key": issue(scopes=["b"]).key}).json["missing_scopes"] == ["a"]

    @pytest.mark.parametrize("wrong", ["read", 5, ["two words"], [""], [5], [b"read"], ['"quoted"'], ["é"]])
    def test_malformed_scopes_are_refused_where_they_are_written(self, wrong):
        with pytest.raises(InvalidValue, match="scopes"):
            require_api_key(scopes=wrong)

    @pytest.mark.parametrize("wrong", ["read", ["read"], 5, Blueprint("blueprint", __name__)])
    def test_what_is_no_view_is_refused(self, wrong):
        with pytest.raises(TypeError, match="@require_api_key"):
            require_api_key(wrong)


class TestCheckInsideAView:
    @pytest.fixture(autouse=True)
    def _view(self, app, api_keys, reached):
        @app.get("/<tenant>")
        def view(tenant):
            check_api_key(scopes=[f"tenant:{tenant}"])
            reached.append(tenant)
            return {"caller": current_api_key.name}

    def test_without_a_key_it_goes_no_further(self, client, reached):
        assert client.get("/a").json["code"] == "missing_key"
        assert client.get("/a", headers={"X-API-Key": "x"}).json["code"] == "invalid_key"
        assert reached == []

    def test_what_one_request_needed_is_not_asked_of_the_next(self, client, issue):
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

    def test_it_adds_to_what_the_decorator_asks(self, app, client, issue):
        @app.get("/both/<tenant>")
        @require_api_key(scopes=["read"])
        def both(tenant):
            check_api_key(scopes=[f"tenant:{tenant}"])
            return "reached"

        for scopes, status in ((["read"], 403), (["tenant:a"], 403), (["read", "tenant:a"], 200)):
            assert client.get("/both/a", headers={"X-API-Key": issue(scopes=scopes).key}).status_code == status

    def test_a_scope_that_cannot_be_one_lets_nobody_pass(self, app, client, issue, reached):
        app.config["PROPAGATE_EXCEPTIONS"] = False
        assert client.get("/two words", headers={"X-API-Key": issue(scopes=["*"]).key}).status_code == 500
        assert reached == []

    def test_without_api_keys_it_lets_nobody_pass(self):
        with Flask("bare").test_request_context(), pytest.raises(ConfigurationError, match="init_app"):
            check_api_key()

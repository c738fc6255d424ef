"""Scopes, optional keys, checks inside a view, and OPTIONS."""

from functools import partial
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView

from flask_apikey import APIKeys, ConfigurationError, InvalidValue, check_api_key, current_api_key, require_api_key
from flask_apikey.request.requirement import Requirement, combined


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
            (["read", "*"], None),
            (["read:*", "writ:*"], ["read", "write"]),
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

    def test_stacked_decorators(self, app, view, client, issue):
        app.get("/")(require_api_key(scopes=["a"])(require_api_key(scopes=["b"])(view)))
        assert client.get("/", headers={"X-API-Key": issue(scopes=["a"]).key}).json["missing_scopes"] == ["b"]
        assert client.get("/", headers={"X-API-Key": issue(scopes=["b"]).key}).json["missing_scopes"] == ["a"]

    @pytest.mark.parametrize(
        "wrong", [None, "read", 5, ["two words"], [""], [5], [b"read"], ['"quoted"'], ["é"], ["*"], ["reports:*"]]
    )
    @pytest.mark.parametrize("argument", ["scopes", "any_scope"])
    @pytest.mark.parametrize(
        "protect", [require_api_key, partial(APIKeys().protect, Blueprint("b", __name__))], ids=["view", "blueprint"]
    )
    def test_malformed_scopes(self, protect, argument, wrong):
        with pytest.raises(InvalidValue, match=argument):
            protect(**{argument: wrong})

    @pytest.mark.parametrize("wrong", ["read", ["read"], 5, Blueprint("blueprint", __name__)], ids=type)
    def test_refuses_other_objects(self, wrong):
        with pytest.raises(TypeError, match="@require_api_key"):
            require_api_key(wrong)

    @pytest.mark.parametrize("decorator", [require_api_key, require_api_key(), require_api_key(optional=True)])
    def test_refuses_none(self, decorator):
        """Decorators that return nothing, such as some of websockets, leave None to the decorator above them."""
        with pytest.raises(TypeError, match="directly above the function"):
            decorator(None)


class TestAnyScope:
    @pytest.fixture(params=["decorator", "stacked", "class", "blueprint", "call"])
    def ask(self, request, app, api_keys, issue, reached):
        """Returns the answer of a view that needs "all" and one of "a" and "b:c"."""
        requirement: dict[str, Any] = {"scopes": ["all"], "any_scope": ["b:c", "a"]}

        def view():
            if request.param == "call":
                check_api_key(**requirement)
            reached.append("view")
            return "reached"

        class View(MethodView):
            decorators = (require_api_key(**requirement),)

            def get(self):
                return view()

        if request.param == "decorator":
            function = require_api_key(**requirement)(view)
        elif request.param == "stacked":
            function = require_api_key(scopes=["all"])(require_api_key(any_scope=["a", "b:c"])(view))
        else:
            function = View.as_view("view") if request.param == "class" else view
        blueprint = Blueprint("blueprint", __name__)
        blueprint.add_url_rule("/", "view", function)
        if request.param == "blueprint":
            api_keys.protect(blueprint, **requirement)
        app.register_blueprint(blueprint)
        return lambda *scopes: app.test_client(api_key=issue(scopes=scopes).key).get("/")

    @pytest.mark.parametrize("scopes", [("all", "a"), ("all", "b:c"), ("all", "a", "b:c"), ("*",), ("all", "b:*")])
    def test_one_is_enough(self, ask, reached, scopes):
        assert ask(*scopes).status_code == 200
        assert reached == ["view"]

    @pytest.mark.parametrize(
        ("scopes", "missing", "missing_any"),
        [
            ((), ["all"], [["a", "b:c"]]),
            (("all",), [], [["a", "b:c"]]),
            (("all", "b", "b:cd", "a:*"), [], [["a", "b:c"]]),
            (("a",), ["all"], None),
        ],
    )
    def test_refusal_names_what_is_missing(self, ask, reached, scopes, missing, missing_any):
        response = ask(*scopes)
        assert (response.status_code, response.json["code"]) == (403, "insufficient_scope")
        assert response.json["missing_scopes"] == missing
        assert response.json.get("missing_any_scope") == missing_any
        challenge = response.www_authenticate
        assert (challenge.type, challenge.parameters) == (
            "api-key",
            {"error": "insufficient_scope", "scope": "a all b:c"},
        )
        assert reached == []

    @pytest.mark.parametrize(
        "decorator", [require_api_key, check_api_key, partial(APIKeys().protect, Blueprint("b", __name__))]
    )
    @pytest.mark.parametrize("empty", [[], (), set(), iter([])], ids=["list", "tuple", "set", "iterator"])
    def test_refuses_an_empty_list(self, app, api_keys, decorator, empty):
        with app.test_request_context(), pytest.raises(InvalidValue, match="any_scope must not be empty"):
            decorator(any_scope=empty)

    def test_lists_of_blueprint_and_view_must_both_hold(self, app, api_keys, view, issue):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.add_url_rule("/", "view", require_api_key(any_scope=["a", "b"])(view))
        api_keys.protect(blueprint, any_scope=["b", "c"])
        app.register_blueprint(blueprint)
        for scopes, missing in (
            ([], [["a", "b"], ["b", "c"]]),
            (["a"], [["b", "c"]]),
            (["c"], [["a", "b"]]),
            (["b"], None),
            (["a", "c"], None),
        ):
            response = app.test_client(api_key=issue(scopes=scopes).key).get("/")
            assert response.status_code == (403 if missing else 200)
            assert missing is None or response.json["missing_any_scope"] == missing

    def test_optional_view(self, app, client, issue, view):
        app.get("/")(require_api_key(optional=True, any_scope=["a"])(view))
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"X-API-Key": issue().key}).status_code == 403

    @pytest.mark.parametrize(
        ("checked", "asked", "is_covered"),
        [
            ({"any_scope": [{"a", "b"}]}, {}, True),
            ({}, {"any_scope": [{"a", "b"}]}, False),
            ({"any_scope": [{"a", "b"}]}, {"any_scope": [{"a", "b"}]}, True),
            ({"any_scope": [{"a", "b"}]}, {"any_scope": [{"a", "b", "c"}]}, True),
            ({"any_scope": [{"a", "b", "c"}]}, {"any_scope": [{"a", "b"}]}, False),
            ({"scopes": {"a"}}, {"any_scope": [{"a", "b"}]}, True),
            ({"scopes": {"c"}}, {"any_scope": [{"a", "b"}]}, False),
            ({"any_scope": [{"a", "b"}]}, {"scopes": {"a"}}, False),
            ({"any_scope": [{"a"}, {"b", "c"}]}, {"any_scope": [{"b", "c"}]}, True),
            ({"any_scope": [{"a"}]}, {"any_scope": [{"a"}, {"b", "c"}]}, False),
        ],
    )
    def test_covers(self, checked, asked, is_covered):
        """A check is skipped only if an earlier one of the same request implies it."""

        def requirement(scopes=(), any_scope=()):
            return Requirement(frozenset(scopes), any_scope=frozenset(map(frozenset, any_scope)))

        assert requirement(**checked).covers(requirement(**asked)) is is_covered
        assert combined(requirement(**checked), requirement(**asked)).covers(requirement(**asked))


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

    def test_wildcard_is_never_required(self, app, client, issue, reached):
        """A part of the URL must not turn the requirement into a wildcard."""
        app.config["PROPAGATE_EXCEPTIONS"] = False
        assert client.get("/*", headers={"X-API-Key": issue(scopes=["tenant:*"]).key}).status_code == 500
        assert reached == []
        assert client.get("/a", headers={"X-API-Key": issue(scopes=["tenant:*"]).key}).status_code == 200

    def test_without_init_app(self):
        with Flask("bare").test_request_context(), pytest.raises(ConfigurationError, match="init_app"):
            check_api_key()

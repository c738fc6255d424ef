"""``APIKEY_PROTECT_ALL`` and exemptions."""

import copy
import functools

import pytest
from flask import Blueprint
from flask.views import MethodView

from flask_apikey import api_key_exempt, require_api_key
from tests.request.protection.decorators import (
    InASlot,
    keeping_names,
    losing_names,
    without_wrapped,
)


class TestProtectAll:
    @pytest.fixture
    def app(self, make_app, tmp_path):
        app = make_app(APIKEY_PROTECT_ALL=True)
        (tmp_path / "file.txt").write_text("static")
        app.static_folder = str(tmp_path)
        return app

    def test_undecorated_view(self, app, view, assert_guarded):
        app.get("/")(view)
        assert_guarded("/")

    def test_view_of_a_blueprint(self, app, view, assert_guarded):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.get("/")(view)
        app.register_blueprint(blueprint)
        assert_guarded("/")

    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "BREW"])
    def test_unknown_path(self, client, issue, method):
        assert client.open("/nowhere", method=method).status_code == 401
        assert client.open("/nowhere", method=method, headers={"X-API-Key": issue().key}).status_code == 404

    def test_method_not_allowed(self, app, client, issue, view):
        app.get("/")(view)
        assert client.post("/").status_code == 401
        assert client.post("/", headers={"X-API-Key": issue().key}).status_code == 405

    def test_static_files(self, client, issue):
        assert client.get("/static/file.txt").status_code == 401
        with client.get("/static/file.txt", headers={"X-API-Key": issue().key}) as response:
            assert response.text == "static"

    def test_exempt_static_files(self, app, client):
        api_key_exempt(app.view_functions["static"])
        with client.get("/static/file.txt") as response:
            assert response.text == "static"

    @pytest.mark.parametrize("order", ["below", "above"])
    def test_an_exempt_view(self, app, view, assert_open, order):
        if order == "below":
            app.get("/")(api_key_exempt(view))
        else:
            api_key_exempt(app.get("/")(view))
        assert_open("/")

    def test_exempt_after_a_request(self, app, view, assert_open, assert_guarded):
        registered = app.get("/")(view)
        assert_guarded("/")
        api_key_exempt(registered)
        assert_open("/")

    def test_exempt_view_class(self, app, assert_open):
        @api_key_exempt
        class Resource(MethodView):
            def get(self):
                return "open"

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_open("/")

    def test_required_method_of_an_exempt_view_class(self, app, view, assert_open, assert_guarded):
        @api_key_exempt
        class Resource(MethodView):
            def get(self):
                return "open"

            @require_api_key
            def post(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_open("/")
        assert_guarded("/", "POST")

    def test_exempt_blueprint_and_nested_ones(self, app, assert_open, client):
        parent, child = Blueprint("parent", __name__), Blueprint("child", __name__)
        parent.get("/parent", endpoint="view")(lambda: "open")
        child.get("/child", endpoint="view")(lambda: "open")
        app.get("/other", endpoint="other")(lambda: "closed")
        parent.register_blueprint(child)
        app.register_blueprint(parent)
        api_key_exempt(parent)
        assert_open("/parent")
        assert_open("/child")
        assert client.get("/other").status_code == 401

    def test_neighbour_of_an_exempt_view(self, app, view, assert_guarded, assert_open):
        app.get("/open", endpoint="open")(api_key_exempt(lambda: "open"))
        app.get("/")(view)
        assert_open("/open")
        assert_guarded("/")

    def test_caller_of_an_exempt_view_class(self, app, view, assert_guarded, assert_open):
        @api_key_exempt
        class Health(MethodView):
            def get(self):
                return "open"

        health = Health.as_view("health")

        def closed():
            return view() + health()

        app.add_url_rule("/health", view_func=health)
        app.add_url_rule("/closed", view_func=closed)
        assert_open("/health")
        assert_guarded("/closed")

    def test_method_of_another_object(self, app, client):
        class Page:
            def show(self):
                return "reached"

        public, private = Page(), Page()
        api_key_exempt(public.show)
        copied = copy.copy(public)
        app.add_url_rule("/public", "public", public.show)
        app.add_url_rule("/private", "private", private.show)
        app.add_url_rule("/copied", "copied", copied.show)
        assert client.get("/public").status_code == 200
        assert client.get("/private").status_code == client.get("/copied").status_code == 401

    @pytest.mark.parametrize(
        "register",
        [
            lambda view: keeping_names(api_key_exempt(view)),
            lambda view: api_key_exempt(keeping_names(view)),
            lambda view: api_key_exempt(functools.partial(view)),
            lambda view: keeping_names(api_key_exempt(functools.partial(view))),
            lambda view: api_key_exempt(losing_names(view)),
        ],
        ids=["wrapped", "wrapper", "partial", "wrapped partial", "hiding wrapper"],
    )
    def test_exemption_seen_through_decorators(self, app, client, view, register):
        app.add_url_rule("/", "view", register(view))
        assert client.get("/").status_code == 200

    @pytest.mark.parametrize(
        "copy",
        [
            without_wrapped,
            losing_names,
            functools.partial,
            lambda exempt: functools.update_wrapper(keeping_names(exempt), lambda: None),
        ],
    )
    def test_copied_exemption(self, app, client, copy):
        """``functools.wraps`` copies the mark to functions that are not exempt."""
        app.add_url_rule("/", "view", copy(api_key_exempt(lambda: "open")))
        assert client.get("/").status_code == 401

    @pytest.mark.parametrize(("decorator", "status"), [(keeping_names, 200), (without_wrapped, 401)])
    def test_decorator_around_an_exempt_view_class(self, app, client, decorator, status):
        @api_key_exempt
        class Resource(MethodView):
            def get(self):
                return "open"

        app.add_url_rule("/", view_func=decorator(Resource.as_view("resource")))
        assert client.get("/").status_code == status

    def test_function_of_an_exempt_partial(self, app, view, assert_open, assert_guarded):
        app.add_url_rule("/public", "public", api_key_exempt(functools.partial(view)))
        app.add_url_rule("/", "private", view)
        assert_guarded("/")
        assert_open("/public")

    def test_rule_without_a_view(self, app, client):
        app.add_url_rule("/", endpoint="missing")
        assert client.get("/").status_code == 401

    @pytest.mark.parametrize("wrong", [None, "view", InASlot(None), len], ids=["None", "text", "slots", "builtin"])
    def test_exempt_refuses_what_takes_no_mark(self, wrong):
        with pytest.raises(TypeError, match="@api_key_exempt takes"):
            api_key_exempt(wrong)

    def test_preflight(self, app, view, client, reached):
        app.get("/")(view)
        assert client.options("/").status_code == 200
        assert reached == []

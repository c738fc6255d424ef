"""Views with the decorator, however they are registered."""

import functools
import inspect

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView

from flask_apikey import APIKeys, ConfigurationError, current_api_key, require_api_key
from tests.request.protection.decorators import InAnAttribute, InASlot, keeping_names, losing_names


def wrapped_by_the_route(app, view):
    app.add_url_rule("/", "view", keeping_names(view))
    require_api_key(view)


def at_an_endpoint(app, view):
    app.add_url_rule("/", endpoint="later")
    app.endpoint("later")(require_api_key(view))


def bound_method(app, view):
    class Page:
        def show(self):
            return view()

    page = Page()
    app.add_url_rule("/", "show", page.show)
    require_api_key(page.show)


def object_with_a_decorated_call(app, view):
    class Page:
        @require_api_key
        def __call__(self):
            return view()

    app.add_url_rule("/", "view", Page())


def generator(app, view):
    @app.get("/")
    @require_api_key
    def stream():
        yield view()


REGISTRATIONS = {
    "below the route": lambda app, view: app.get("/")(require_api_key(view)),
    "with parentheses": lambda app, view: app.get("/")(require_api_key()(view)),
    "above the route": lambda app, view: require_api_key(app.get("/")(view)),
    "above a decorator above the route": lambda app, view: require_api_key(keeping_names(app.get("/")(view))),
    "below a decorator above the route": lambda app, view: losing_names(require_api_key(app.get("/")(view))),
    "wrapped by the route": wrapped_by_the_route,
    "at an endpoint": at_an_endpoint,
    "partial": lambda app, view: app.add_url_rule("/", "view", require_api_key(functools.partial(view))),
    "object": lambda app, view: app.add_url_rule("/", "view", require_api_key(InAnAttribute(view))),
    "object without attributes": lambda app, view: app.add_url_rule("/", "view", require_api_key(InASlot(view))),
    "object with a decorated call": object_with_a_decorated_call,
    "bound method": bound_method,
    "generator": generator,
}


@pytest.mark.parametrize("register", REGISTRATIONS.values(), ids=REGISTRATIONS)
def test_guarded(app, view, assert_guarded, register):
    register(app, view)
    assert_guarded("/")


@pytest.mark.parametrize("decorator", [lambda view: view, InASlot], ids=["function", "object without attributes"])
def test_undecorated_view(app, view, assert_open, decorator):
    app.add_url_rule("/", "view", decorator(view))
    assert_open("/")


def test_name_docstring_and_arguments(app, client, issue):
    @app.get("/<int:number>")
    @require_api_key
    def double(number):
        """Twice the number."""
        return str(2 * number)

    assert double.__name__ == "double"
    assert double.__doc__ == "Twice the number."
    assert client.get("/21", headers={"X-API-Key": issue().key}).text == "42"


def test_every_endpoint_of_a_view(app, view, assert_guarded):
    app.get("/one")(view)
    require_api_key(view)
    app.add_url_rule("/two", "two", view)
    assert_guarded("/one")
    assert_guarded("/two")


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"])
def test_every_method_of_a_view(app, view, assert_guarded, client, method):
    app.route("/", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])(require_api_key(view))
    if method == "HEAD":
        assert client.head("/").status_code == 401
    else:
        assert_guarded("/", method)


def test_trailing_slash_redirect(app, view, client, reached):
    app.get("/list/")(require_api_key(view))
    assert client.get("/list", follow_redirects=True).status_code == 401
    assert reached == []


@pytest.mark.parametrize("source", ["query_string", "data", "json", "cookie"])
def test_key_outside_of_the_headers(app, view, client, issue, reached, source):
    app.post("/")(require_api_key(view))
    key = issue().key
    sent = {"X-API-Key": key, "api_key": key, "Authorization": f"Api-Key {key}"}
    if source == "cookie":
        client.set_cookie("X-API-Key", key)
        sent = {}
    assert client.post("/", **({source: sent} if sent else {})).json["code"] == "missing_key"
    assert reached == []


def test_async_view(app, reached, client, issue):
    @app.get("/")
    @require_api_key
    async def view():
        reached.append(current_api_key.name)
        return "reached"

    assert inspect.iscoroutinefunction(view)
    assert client.get("/").status_code == 401
    assert reached == []
    assert client.get("/", headers={"X-API-Key": issue(name="async").key}).text == "reached"
    assert reached == ["async"]


class TestWithoutAPIKeys:
    """An application for which no APIKeys was initialised."""

    @pytest.fixture
    def bare(self):
        return Flask("bare")

    @pytest.mark.parametrize("kind", ["view", "optional view", "async view", "class", "blueprint"])
    def test_protected_view(self, bare, view, reached, kind):
        async def async_view():
            return view()

        blueprint = Blueprint("blueprint", __name__)
        if kind == "blueprint":
            APIKeys().protect(blueprint)
        protected = {
            "view": require_api_key(view),
            "optional view": require_api_key(optional=True)(view),
            "async view": require_api_key(async_view),
            "class": require_api_key(type("Resource", (MethodView,), {"get": lambda _: view()})).as_view("resource"),
            "blueprint": view,
        }
        blueprint.add_url_rule("/", "view", protected[kind])
        bare.register_blueprint(blueprint)
        for headers in ({}, {"X-API-Key": "x"}):
            assert bare.test_client().get("/", headers=headers).status_code == 500
        assert reached == []

    def test_error_names_cure(self, bare, view):
        bare.testing = True
        bare.get("/")(require_api_key(view))
        with pytest.raises(ConfigurationError, match="init_app"):
            bare.test_client().get("/")

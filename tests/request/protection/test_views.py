"""Views with the decorator, however they are registered."""

import functools
import inspect

import pytest
from flask import Blueprint, Flask, Response, redirect, url_for
from flask.views import MethodView

from flask_apikey import APIKeys, ConfigurationError, current_api_key, require_api_key
from tests.request.protection.decorators import InASlot, keeping_names, losing_names


def test_plain_view(app, view, assert_guarded):
    app.get("/")(require_api_key(view))
    assert_guarded("/")


def test_decorator_with_parentheses(app, view, assert_guarded):
    app.get("/")(require_api_key()(view))
    assert_guarded("/")


def test_decorator_above_the_route(app, view, assert_guarded):
    require_api_key(app.get("/")(view))
    assert_guarded("/")


def test_undecorated_view(app, view, assert_open):
    app.get("/")(view)
    assert_open("/")


def test_callable_without_attributes(app, view, assert_guarded):
    app.add_url_rule("/", "view", require_api_key(InASlot(view)))
    assert_guarded("/")


def test_undecorated_callable_without_attributes(app, view, assert_open):
    app.add_url_rule("/", "view", InASlot(view))
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


@pytest.mark.parametrize("between", [keeping_names, losing_names])
def test_above_another_decorator_below_the_route(app, view, assert_guarded, between):
    app.add_url_rule("/", "view", require_api_key(between(view)))
    assert_guarded("/")


def test_below_another_decorator_below_the_route(app, view, assert_guarded):
    app.add_url_rule("/", "view", keeping_names(require_api_key(view)))
    assert_guarded("/")


def test_above_another_decorator_above_the_route(app, view, assert_guarded):
    require_api_key(keeping_names(app.get("/")(view)))
    assert_guarded("/")


@pytest.mark.parametrize("outer", [keeping_names, losing_names])
def test_below_another_decorator_above_the_route(app, view, assert_guarded, outer):
    outer(require_api_key(app.get("/")(view)))
    assert_guarded("/")


def test_above_a_route_that_registers_a_wrapper(app, view, assert_guarded):
    def route(function):
        app.add_url_rule("/", "view", keeping_names(function))
        return function

    require_api_key(route(view))
    assert_guarded("/")


def test_view_wrapped_after_registration(app, view, assert_guarded):
    app.add_url_rule("/", "view", view)
    app.view_functions["view"] = keeping_names(app.view_functions["view"])
    require_api_key(view)
    assert_guarded("/")


def test_every_endpoint_of_a_view(app, view, assert_guarded, reached):
    app.get("/one")(view)
    require_api_key(view)
    app.add_url_rule("/two", "two", view)
    assert_guarded("/one")
    reached.clear()
    assert_guarded("/two")


def test_endpoint_that_gets_its_view_later(app, view, assert_guarded):
    app.add_url_rule("/", endpoint="later")
    app.endpoint("later")(require_api_key(view))
    assert_guarded("/")


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


def test_redirect_inside_the_application(app, view, client, reached):
    app.get("/secret")(require_api_key(view))
    app.get("/open", endpoint="open")(lambda: redirect(url_for("view")))
    assert client.get("/open", follow_redirects=True).status_code == 401
    assert reached == []


@pytest.mark.parametrize("path", ["//", "/./", "/%2e/", "/?api_key={key}", "/?key={key}", "/?X-API-Key={key}"])
def test_odd_paths_and_query_strings(assert_closed, issue, path):
    response = assert_closed("GET", path.format(key=issue().key), follow_redirects=True)
    assert response.status_code in (401, 404)


@pytest.mark.parametrize("source", ["form", "json", "cookie"])
def test_key_outside_of_the_headers(assert_closed, client, issue, source):
    key = issue().key
    sent = {"X-API-Key": key, "api_key": key, "Authorization": f"Api-Key {key}"}
    if source == "cookie":
        client.set_cookie("X-API-Key", key)
    response = assert_closed("POST", "/", **{"form": {"data": sent}, "json": {"json": sent}, "cookie": {}}[source])
    assert response.json["code"] == "missing_key"


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_method_override_headers(assert_closed, header):
    assert assert_closed("POST", "/", headers={header: "OPTIONS"}).status_code == 401


def test_partials_and_callable_objects(app, view, assert_guarded, reached):
    class Callable:
        def __call__(self):
            return view()

    app.add_url_rule("/partial", "partial", functools.partial(require_api_key(view)))
    app.add_url_rule("/marked-partial", "marked", require_api_key(functools.partial(view)))
    app.add_url_rule("/object", "object", require_api_key(Callable()))
    for path in ("/partial", "/marked-partial", "/object"):
        assert_guarded(path)
        reached.clear()


def test_bound_method(app, view, assert_guarded):
    class Resource:
        def show(self):
            return view()

    resource = Resource()
    app.add_url_rule("/", "show", resource.show)
    require_api_key(resource.show)
    assert_guarded("/")


def test_streaming_view(app, reached, assert_guarded):
    @app.get("/")
    @require_api_key
    def stream():
        reached.append("stream")
        yield "reached"

    assert_guarded("/")


@pytest.mark.parametrize("order", ["below", "above"])
def test_async_view(app, reached, client, issue, order):
    async def view():
        reached.append(current_api_key.name)
        return "reached"

    if order == "below":
        app.get("/")(require_api_key(view))
    else:
        require_api_key(app.get("/")(view))
    assert client.get("/").status_code == 401
    assert reached == []
    assert client.get("/", headers={"X-API-Key": issue(name="async").key}).text == "reached"
    assert reached == ["async"]


def test_async_view_stays_a_coroutine_function():
    async def view():
        return "reached"

    assert inspect.iscoroutinefunction(require_api_key(view))


class TestWithoutAPIKeys:
    """An application for which no APIKeys was initialised."""

    @pytest.fixture
    def bare(self):
        return Flask("bare")

    @pytest.fixture
    def never_200(self, bare, reached):
        def check(path="/"):
            assert bare.test_client().get(path).status_code == 500
            assert bare.test_client().get(path, headers={"X-API-Key": "x"}).status_code == 500
            assert reached == []

        return check

    def test_decorated_view(self, bare, view, never_200):
        bare.get("/")(require_api_key(view))
        never_200()

    def test_decorated_class(self, bare, view, never_200):
        @require_api_key
        class Resource(MethodView):
            def get(self):
                return view()

        bare.add_url_rule("/", view_func=Resource.as_view("resource"))
        never_200()

    def test_optional_view(self, bare, view, never_200):
        bare.get("/")(require_api_key(optional=True)(view))
        never_200()

    def test_protected_blueprint(self, bare, view, never_200):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.get("/")(view)
        APIKeys().protect(blueprint)
        bare.register_blueprint(blueprint)
        never_200()

    def test_error_names_cure(self, bare, view):
        bare.testing = True
        bare.get("/")(require_api_key(view))
        with pytest.raises(ConfigurationError, match="init_app"):
            bare.test_client().get("/")

    def test_undecorated_view(self, bare, view):
        bare.get("/")(view)
        assert bare.test_client().get("/").status_code == 200


def test_answer_of_an_earlier_hook(make_app, view, reached):
    app = make_app()
    app.before_request(lambda: Response("maintenance", 503))
    APIKeys(app)
    app.get("/")(require_api_key(view))
    assert app.test_client().get("/").text == "maintenance"
    assert reached == []

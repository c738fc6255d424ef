"""View classes, their methods and their decorators."""

import functools
import gc
import weakref

import pytest
from flask.views import MethodView, View

from flask_apikey import api_key_exempt, require_api_key
from tests.request.protection.decorators import (
    InASlot,
    caching,
    caching_openly,
    keeping_names,
    losing_names,
)


def make_class(base=MethodView, **attributes):
    return type("Resource", (base,), attributes)


def weakened(get):
    base = require_api_key(make_class())
    return require_api_key(optional=True)(make_class(base, get=get, decorators=()))


def decorated_after_registration(get):
    resource = make_class(get=get)
    view = resource.as_view("resource")
    require_api_key(resource)
    return view


async def async_get(_):
    return "reached"


GUARDED = {
    "class": lambda get: require_api_key(make_class(get=get)).as_view("resource"),
    "method": lambda get: make_class(get=require_api_key(get)).as_view("resource"),
    "inherited method": lambda get: make_class(make_class(get=require_api_key(get))).as_view("resource"),
    "decorators": lambda get: make_class(get=get, decorators=(require_api_key,)).as_view("resource"),
    "result of as_view": lambda get: require_api_key(make_class(get=get).as_view("resource")),
    "decorated after registration": decorated_after_registration,
    "exempt view of a decorated class": lambda get: api_key_exempt(decorated_after_registration(get)),
    "subclass": lambda get: make_class(require_api_key(make_class()), get=get).as_view("resource"),
    "subclass with less": lambda get: weakened(get).as_view("resource"),
}


@pytest.mark.parametrize("make_view", GUARDED.values(), ids=GUARDED)
def test_guarded(app, view, assert_guarded, client, make_view):
    app.add_url_rule("/", view_func=make_view(lambda _: view()))
    assert client.head("/").status_code == 401
    assert_guarded("/")


@pytest.mark.parametrize("base", [View, MethodView])
@pytest.mark.parametrize("every_request", [True, False])
def test_decorated_dispatch_request(app, view, assert_guarded, base, every_request):
    resource = make_class(base, dispatch_request=lambda _: view(), init_every_request=every_request)
    app.add_url_rule("/", view_func=require_api_key(resource).as_view("resource"), methods=["GET"])
    assert_guarded("/")


def test_one_decorated_method(app, view, assert_guarded, assert_open):
    resource = make_class(get=lambda _: "open", post=require_api_key(lambda _: view()))
    app.add_url_rule("/", view_func=resource.as_view("resource"))
    assert_open("/")
    assert_guarded("/", "POST")


def test_async_method(app, client, issue):
    app.add_url_rule("/", view_func=make_class(get=require_api_key(async_get)).as_view("resource"))
    assert client.get("/").status_code == 401
    assert client.get("/", headers={"X-API-Key": issue().key}).text == "reached"


def test_scopes_among_other_decorators(app, client, issue, view):
    decorators = (losing_names, require_api_key(scopes=["read"]), keeping_names, losing_names)
    app.add_url_rule("/", view_func=make_class(get=lambda _: view(), decorators=decorators).as_view("resource"))
    assert client.get("/").status_code == 401
    assert client.get("/", headers={"X-API-Key": issue().key}).status_code == 403
    assert client.get("/", headers={"X-API-Key": issue(scopes=["read"]).key}).status_code == 200


def test_base_of_a_decorated_class(app, assert_open):
    base = make_class(get=lambda _: "open")
    require_api_key(make_class(base))
    app.add_url_rule("/", view_func=base.as_view("base"))
    assert_open("/")


def test_base_of_a_class_with_a_decorated_method(app, assert_open, client):
    base = make_class(get=lambda _: "open")
    resource = make_class(base, get=require_api_key(base.get))
    app.add_url_rule("/base", view_func=base.as_view("base"))
    app.add_url_rule("/resource", view_func=resource.as_view("resource"))
    assert_open("/base")
    assert client.get("/resource").status_code == 401


def test_refuses_other_classes():
    class Thing:
        pass

    with pytest.raises(TypeError, match=r"Thing.*flask\.views\.View"):
        require_api_key(Thing)


@pytest.mark.parametrize("decorator", [caching, losing_names])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_hidden_method(app, statuses, reached, decorator, method):
    hidden = decorator(require_api_key(reached.append))
    app.add_url_rule("/", view_func=make_class(get=hidden, post=hidden).as_view("resource"))
    assert statuses("/", method) == [500, 500, 500]
    assert reached == []


@pytest.mark.parametrize("decorator", [caching_openly, functools.partialmethod, staticmethod, keeping_names])
@pytest.mark.parametrize("name", ["dispatch_request", "get"])
def test_open_decorator_of_a_method(app, statuses, decorator, name):
    resource = make_class(**{name: decorator(require_api_key(lambda *_: "reached"))})
    app.add_url_rule("/", view_func=resource.as_view("resource"), methods=["GET"])
    assert statuses() == [401, 200, 401]


@pytest.mark.parametrize("decorator", [caching, InASlot, functools.cache, caching_openly])
@pytest.mark.parametrize("base", [View, MethodView])
def test_decorator_around_a_view_class(app, statuses, decorator, base):
    """A subclass that replaces the decorators of its base keeps the check of its base."""
    protected = require_api_key(make_class(base, dispatch_request=lambda _: "reached"))
    app.add_url_rule("/", "view", decorator(make_class(protected, decorators=(losing_names,)).as_view("resource")))
    assert statuses() == ([500, 500, 500] if decorator in {caching, InASlot} else [401, 200, 401])


class TestMethodDecorators:
    """Flask-RESTful's ``method_decorators``, which decorate a method anew in each request."""

    @pytest.fixture
    def add(self, app):
        def add(decorators):
            def dispatch_request(self):
                method = self.get
                for decorator in decorators["get"] if isinstance(decorators, dict) else decorators:
                    method = decorator(method)
                return method()

            base = make_class(get=lambda _: "reached")
            resource = make_class(base, method_decorators=decorators, dispatch_request=dispatch_request)
            app.add_url_rule("/base", view_func=base.as_view("base"))
            app.add_url_rule("/", view_func=resource.as_view("resource"))

        return add

    @pytest.mark.parametrize(
        "decorators",
        [[require_api_key], [require_api_key(scopes=["reports:read"])], {"get": [require_api_key]}],
        ids=["bare", "scopes", "by method"],
    )
    def test_checked(self, add, statuses, assert_open, decorators):
        add(decorators)
        assert statuses() == [401, 200, 401]
        assert_open("/base")

    def test_marks_do_not_outlive_their_functions(self, add, client, key):
        decorated = []

        @functools.wraps(require_api_key)
        def decorator(method):
            protected = require_api_key(method)
            decorated.append(weakref.ref(protected))
            return protected

        add([decorator])
        for _ in range(20):
            assert client.get("/", headers={"X-API-Key": key}).status_code == 200
        gc.collect()
        assert [function() for function in decorated] == [None] * 20

"""What is asked of a view holds through decorators of every kind, and for nobody else's view."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import Mock

import pytest
from flask import request
from flask.views import MethodView, View

from flask_apikey import require_api_key
from flask_apikey.request.protected_views import Protection, protected_views
from tests.request.protection.decorators import (
    DECORATORS,
    AlwaysEqual,
    Compact,
    Remembering,
    hiding,
    naming_by_hand,
    passing,
    showing,
    with_a_default,
    with_a_helper,
)


def name(decorator):
    return getattr(decorator, "__name__", "lru_cache")  # with a size it has none


@pytest.fixture
def key(issue):
    return issue(scopes=["reports:read"]).key


@pytest.fixture
def protection(app):
    """What `flask apikey doctor` says of a rule, by method."""

    def of(rule):
        views = [view for view in protected_views(app, protect_all=False) if view.rule == rule]
        return {method: view.protection for view in views for method in view.methods}

    return of


@pytest.fixture
def assert_closed(client, key, protection):
    """Fails when an answer that was made for a key is given without one, or when the inventory says otherwise."""

    def check(path="/", method="GET"):
        def status(headers):
            return client.open(path, method=method, headers=headers).status_code

        assert status({}) == 401
        assert status({"X-API-Key": key}) == 200
        assert status({}) == 401
        assert protection(path)["GET" if method == "HEAD" else method] is Protection.REQUIRED

    return check


@pytest.fixture
def assert_open(client, protection):
    def check(path):
        assert client.get(path).status_code == 200
        assert protection(path) == {"GET": Protection.NONE}

    return check


@pytest.mark.parametrize("decorator", DECORATORS, ids=name)
def test_a_decorator_that_answers_by_itself_gives_nothing_to_the_keyless(app, assert_closed, decorator):
    app.add_url_rule("/", "view", decorator(require_api_key(lambda: "reached")))
    assert_closed()


def test_several_such_decorators_give_nothing_to_the_keyless(app, assert_closed):
    stacks = [stack for each in DECORATORS for stack in ((hiding, each), (each, each), (each, Compact, showing))]
    for number, stack in enumerate(stacks):
        view = functools.reduce(lambda view, decorator: decorator(view), stack, require_api_key(lambda: "reached"))
        app.add_url_rule(f"/{number}", str(number), view)
    for number in range(len(stacks)):
        assert_closed(f"/{number}")


@pytest.mark.parametrize("decorator", [hiding, showing, with_a_helper, functools.cache, naming_by_hand], ids=name)
def test_decorators_and_views_of_one_factory(app, assert_closed, decorator):
    def cached(view):
        def compute():
            return view()

        def wrapper():
            return compute()

        return decorator(wrapper)

    @require_api_key
    def view():
        return "reached"

    app.add_url_rule("/", "view", cached(view))
    assert_closed()


def test_a_decorator_that_protects_by_itself(app, assert_closed):
    def protected_and_cached(view):
        guarded = require_api_key(view)

        @hiding
        def wrapper():
            return guarded()

        return wrapper

    app.add_url_rule("/", "view", protected_and_cached(lambda: "reached"))
    assert_closed()


@pytest.mark.parametrize("decorator", [hiding, showing, Remembering, Compact], ids=name)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_decorator_of_a_method_of_a_view_class(app, assert_closed, decorator, method):
    class Resource(MethodView):
        get = decorator(require_api_key(lambda self=None: "reached"))
        post = decorator(require_api_key(lambda self=None: "reached"))

    app.add_url_rule("/", view_func=Resource.as_view("resource"))
    assert_closed("/", method)


@pytest.mark.parametrize("kind", [lambda function: function, staticmethod, functools.partialmethod])
def test_a_decorator_of_dispatch_request(app, assert_closed, kind):
    class Resource(View):
        dispatch_request = kind(hiding(require_api_key(lambda *_: "reached")))

    app.add_url_rule("/", view_func=Resource.as_view("resource"))
    assert_closed()


@pytest.mark.parametrize("decorator", DECORATORS, ids=name)
def test_a_decorator_around_a_view_class(app, assert_closed, decorator):
    @require_api_key
    class Base(MethodView):
        def get(self):
            return "reached"

    class Resource(Base):
        decorators = ()

    app.add_url_rule("/", "view", decorator(Resource.as_view("resource")))
    assert_closed()


@dataclass(frozen=True)
class Frozen:
    view: Callable[[], str]

    def __call__(self):
        return self.view()


@pytest.mark.parametrize("kind", [Compact, Frozen])
def test_an_object_that_takes_no_mark_and_is_registered_below_the_decorator(app, assert_closed, kind):
    view = kind(lambda: "reached")
    app.add_url_rule("/", "view", view)
    require_api_key(view)
    assert_closed()


@pytest.mark.parametrize("registered", [Remembering, Compact, Frozen, functools.cache, functools.partial], ids=name)
@pytest.mark.parametrize("decorator", [passing, with_a_default, Remembering, Compact], ids=name)
def test_an_object_that_is_registered_below_decorators_that_hide_it(app, assert_closed, registered, decorator):
    view = registered(lambda: "reached")
    app.add_url_rule("/", "view", view)
    require_api_key(decorator(view))
    assert_closed()


def test_an_object_that_has_every_attribute(app, assert_closed):
    app.add_url_rule("/", "view", require_api_key(passing(Mock(return_value="reached"))))
    assert_closed()


def test_a_wrapper_with_the_names_of_a_view_that_calls_a_neighbour_called_as_its_parameter(app, assert_closed):
    def view():
        return "neighbour"

    def reports():
        return view()

    app.add_url_rule("/", "reports", naming_by_hand(require_api_key(reports)))
    assert_closed()


def test_an_object_that_is_equal_to_an_open_view(app, client, assert_closed):
    app.add_url_rule("/open", "open", AlwaysEqual(lambda: "open"))
    app.add_url_rule("/", "closed", AlwaysEqual(require_api_key(lambda: "reached")))
    assert client.get("/open").status_code == 200
    assert_closed()


def test_a_view_that_is_replaced_or_marked_after_it_has_answered(app, client, assert_closed):
    def view():
        return "reached"

    app.add_url_rule("/", "view", hiding(view))
    assert client.get("/").status_code == 200
    app.view_functions["view"] = hiding(require_api_key(view))
    assert_closed()
    app.view_functions["view"] = view = hiding(lambda: "reached")
    assert client.get("/").status_code == 200
    require_api_key(view)
    assert_closed()


@require_api_key
def elsewhere():
    return "reached"


class Importing:
    """A view that is found when it is first called, as in Flask's pattern for large applications, and remembered."""

    __name__ = "importing"

    def __init__(self, find):
        self._find = find

    @functools.cached_property
    def answer(self):
        return hiding(self._find())

    def __call__(self):
        return self.answer()


def importing_as_a_function(find):
    found = None

    def wrapper():
        nonlocal found
        found = found or hiding(find())
        return found()

    return wrapper


@pytest.mark.parametrize("decorator", [Importing, importing_as_a_function])
def test_a_view_that_finds_what_it_wraps_when_it_is_called(app, assert_closed, decorator):
    app.add_url_rule("/", "view", decorator(lambda: elsewhere))
    assert_closed()


def test_what_is_kept_in_a_container_is_not_seen_and_reported_as_open(app, client, key, protection):
    def keeping_in_a_list(view):
        views = [view]

        @hiding
        def wrapper():
            return views[0]()

        return wrapper

    app.add_url_rule("/", "view", keeping_in_a_list(require_api_key(lambda: "reached")))
    assert client.get("/").status_code == 401
    assert protection("/") == {"GET": Protection.NONE}


def passing_openly(view):
    return functools.wraps(view)(passing(view))


@pytest.mark.parametrize("decorator", [lambda view: view, passing, passing_openly])
class TestNeighbours:
    """Views that are defined in one factory and call each other."""

    @pytest.fixture
    def app(self, make_app, decorator):
        app = make_app()

        @app.get("/health", endpoint="health")
        @decorator
        def health():
            return "health"

        @app.get("/reports", endpoint="reports")
        @require_api_key(scopes=["reports:read"])
        @decorator
        def reports():
            return "reports"

        @app.get("/invoices", endpoint="invoices")
        @decorator
        @require_api_key(scopes=["invoices:read"])
        def invoices():
            return "invoices"

        @app.get("/admin", endpoint="admin")
        @require_api_key(scopes=["admin"])
        @decorator
        def admin():
            return health() + reports() + invoices()

        def helper():
            return reports() + invoices()

        @app.get("/overview", endpoint="overview")
        @decorator
        def overview():
            return helper() + reports() if "all" in request.args else "overview"

        app.get("/all", endpoint="all")(lambda: overview() + helper())
        return app

    @pytest.mark.parametrize("path", ["/health", "/overview"])
    def test_one_that_is_called_by_a_protected_one_or_calls_it_stays_open(self, path, assert_open):
        assert_open(path)

    @pytest.mark.parametrize("path", ["/overview?all", "/all"])
    def test_what_it_calls_is_checked_when_it_is_called(self, path, client, issue):
        for scopes in ([], ["reports:read"], ["invoices:read"]):
            assert client.get(path, headers={"X-API-Key": issue(scopes=scopes).key}).status_code == 403
        assert client.get(path).status_code == 401
        key = issue(scopes=["reports:read", "invoices:read"]).key
        assert client.get(path, headers={"X-API-Key": key}).status_code == 200

    @pytest.mark.parametrize(("path", "scope"), [("/reports", "reports:read"), ("/invoices", "invoices:read")])
    def test_one_that_is_called_by_a_protected_one_asks_for_its_own_scope_only(self, path, scope, client, issue):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"X-API-Key": issue(scopes=["admin"]).key}).status_code == 403
        assert client.get(path, headers={"X-API-Key": issue(scopes=[scope]).key}).status_code == 200

    def test_a_protected_one_is_not_open_to_who_may_call_what_it_calls(self, client, issue):
        scopes = ["reports:read", "invoices:read"]
        assert client.get("/admin").status_code == 401
        assert client.get("/admin", headers={"X-API-Key": issue(scopes=scopes).key}).status_code == 403
        assert client.get("/admin", headers={"X-API-Key": issue(scopes=[*scopes, "admin"]).key}).status_code == 200


def test_a_view_that_was_given_a_protected_one_from_elsewhere_counts_as_its_decorator(app, protection, client):
    def register(reports):
        app.get("/overview", endpoint="overview")(lambda: reports() if "all" in request.args else "overview")

    register(require_api_key(lambda: "reports"))
    assert client.get("/overview").status_code == 401
    assert protection("/overview") == {"GET": Protection.REQUIRED}


def test_the_method_of_a_base_asks_for_nothing_that_a_subclass_added(app, client):
    class Base(MethodView):
        def get(self):
            return "base"

    class Resource(Base):
        get = require_api_key(Base.get)

    app.add_url_rule("/base", view_func=Base.as_view("base"))
    app.add_url_rule("/resource", view_func=Resource.as_view("resource"))
    assert client.get("/base").status_code == 200
    assert client.get("/resource").status_code == 401


def test_a_class_method_asks_for_nothing_that_is_asked_of_another(app, client):
    class Resource(MethodView):
        @classmethod
        def get(cls):
            return "open"

        @require_api_key
        def post(self):
            return "reached"

    app.add_url_rule("/", view_func=Resource.as_view("resource"))
    assert client.get("/").status_code == 200
    assert client.post("/").status_code == 401

"""Views below other decorators: checked where the mark is seen, and refused with an error everywhere else."""

import functools
import gc
import weakref
from unittest.mock import Mock

import pytest
from flask import Blueprint
from flask.views import MethodView, View
from werkzeug.routing import Rule

from flask_apikey import APIKeys, ConfigurationError, api_key_exempt, require_api_key
from flask_apikey.request.protected_views import Protection, protected_views
from flask_apikey.request.requirement import decorated_functions
from tests.request.protection.decorators import (
    HIDING,
    OPEN,
    AlwaysEqual,
    InASlot,
    caching,
    caching_openly,
    keeping_names,
    losing_names,
)


def same(view):
    return view


@pytest.fixture
def key(issue):
    return issue(scopes=["reports:read"]).key


@pytest.fixture
def statuses(app, client, key):
    """The statuses of a request without a key, of one with a key, and of one without a key again."""
    app.config["PROPAGATE_EXCEPTIONS"] = False

    def statuses(path="/", method="GET"):
        return [
            client.open(path, method=method, headers=headers).status_code for headers in ({}, {"X-API-Key": key}, {})
        ]

    return statuses


@pytest.fixture
def protection(app):
    """The protection of a rule in the inventory, by method."""

    def protection(rule):
        views = [view for view in protected_views(app, protect_all=False) if view.rule == rule]
        return {method: view.protection for view in views for method in view.methods}

    return protection


@pytest.mark.parametrize(
    "above", [same, caching, caching_openly, functools.cache, losing_names], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("decorator", [*OPEN, *HIDING], ids=lambda decorator: decorator.__name__)
def test_no_answer_without_a_key(app, statuses, protection, reached, decorator, above):
    """A decorator may keep the view wherever it likes, and cache its answers."""

    @require_api_key
    def view():
        reached.append("view")
        return "reached"

    app.add_url_rule("/", "view", above(decorator(view)))
    if decorator in OPEN and above not in {caching, losing_names}:
        assert statuses() == [401, 200, 401]
        assert protection("/")["GET"] is Protection.REQUIRED
    else:
        assert statuses() == [500, 500, 500]
        assert protection("/")["GET"] is Protection.NONE
        assert reached == []


@pytest.mark.parametrize("decorator", HIDING, ids=lambda decorator: decorator.__name__)
@pytest.mark.parametrize("above", [same, caching], ids=lambda f: f.__name__)
def test_second_mark_above_a_hiding_decorator(app, statuses, decorator, above):
    app.add_url_rule("/", "view", require_api_key(above(decorator(require_api_key(lambda: "reached")))))
    assert statuses() == [401, 200, 401]


@pytest.mark.parametrize("decorator", [caching, losing_names])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_hidden_method_of_a_view_class(app, statuses, reached, decorator, method):
    class Resource(MethodView):
        get = decorator(require_api_key(lambda self: reached.append("get")))
        post = decorator(require_api_key(lambda self: reached.append("post")))

    app.add_url_rule("/", view_func=Resource.as_view("resource"))
    assert statuses("/", method) == [500, 500, 500]
    assert reached == []


@pytest.mark.parametrize("decorator", [caching_openly, functools.partialmethod, staticmethod, keeping_names])
@pytest.mark.parametrize("name", ["dispatch_request", "get"])
def test_open_decorator_of_a_method(app, statuses, decorator, name):
    Resource = type("Resource", (MethodView,), {name: decorator(require_api_key(lambda *_: "reached"))})  # noqa: N806  # it is a class
    app.add_url_rule("/", view_func=Resource.as_view("resource"), methods=["GET"])
    assert statuses() == [401, 200, 401]


@pytest.mark.parametrize("decorator", [caching, InASlot, functools.cache, caching_openly])
@pytest.mark.parametrize("base", [View, MethodView])
def test_decorator_around_a_view_class(app, statuses, decorator, base):
    """A subclass that replaces the decorators of its base keeps the check of its base."""

    @require_api_key
    class Base(base):
        def dispatch_request(self):
            return "reached"

    class Resource(Base):
        decorators = ()

    app.add_url_rule("/", "view", decorator(Resource.as_view("resource")))
    assert statuses() == ([500, 500, 500] if decorator in {caching, InASlot} else [401, 200, 401])


def test_hiding_decorator_among_those_of_a_class(app, statuses):
    class Resource(MethodView):
        decorators = (require_api_key, caching)

        def get(self):
            return "reached"

    app.add_url_rule("/", view_func=Resource.as_view("resource"))
    assert statuses() == [401, 200, 401]


def test_decorated_call_of_an_object(app, statuses):
    class Reports:
        @require_api_key
        def __call__(self):
            return "reached"

    app.add_url_rule("/", "view", Reports())
    assert statuses() == [401, 200, 401]


def test_mock_as_a_view(app, statuses, client):
    """A mock has every attribute, and none of them is a mark."""
    for_flask = {"methods": ["GET"], "required_methods": (), "provide_automatic_options": True}
    app.add_url_rule("/open", "open", Mock(return_value="open", **for_flask))
    app.add_url_rule("/", "view", require_api_key(Mock(return_value="reached", **for_flask)))
    assert client.get("/open").status_code == 200
    assert statuses() == [401, 200, 401]


def test_wrapped_chain_in_a_circle(app, client):
    def view():
        return "open"

    view.__wrapped__ = view
    app.add_url_rule("/", "view", view)
    assert client.get("/").status_code == 200


def test_equal_views(app, client, statuses):
    app.add_url_rule("/open", "open", AlwaysEqual(lambda: "open"))
    app.add_url_rule("/", "closed", require_api_key(AlwaysEqual(lambda: "reached")))
    assert client.get("/open").status_code == 200
    assert statuses() == [401, 200, 401]


@pytest.mark.parametrize("protected", ["blueprint", "application"])
def test_hidden_mark_below_a_blueprint_or_application(make_app, protected, reached):
    """Protection from further out does not make up for a hidden mark: a cache may serve other endpoints too."""
    app = make_app(APIKEY_PROTECT_ALL=protected == "application", PROPAGATE_EXCEPTIONS=False)
    api_keys = APIKeys(app)
    closed, exempt = Blueprint("closed", __name__), api_key_exempt(Blueprint("exempt", __name__))
    if protected == "blueprint":
        api_keys.protect(closed)
    view = caching(require_api_key(lambda: reached.append("view") or "reached"))
    for blueprint in (closed, exempt):
        blueprint.get(f"/{blueprint.name}")(view)
        app.register_blueprint(blueprint)
    with app.app_context():
        client = app.test_client(api_key=api_keys.create(name="ci").key)
    assert client.get("/closed").status_code == 500
    assert app.test_client().get("/exempt").status_code == 500
    assert reached == []


def test_view_that_is_marked_or_replaced_after_an_answer(app, client, statuses):
    def view():
        return "reached"

    app.add_url_rule("/", "view", keeping_names(view))
    assert client.get("/").status_code == 200
    require_api_key(view)
    assert statuses() == [401, 200, 401]
    app.view_functions["view"] = view = keeping_names(lambda: "reached")
    assert client.get("/").status_code == 200
    require_api_key(view)
    assert statuses() == [401, 200, 401]


def test_wrapper_of_a_view_that_was_open(app, client, statuses):
    """``functools.wraps`` copies what was cached for the view, too."""
    closed = require_api_key(lambda: "reached")
    opened = app.get("/open", endpoint="open")(lambda: "open")
    app.add_url_rule("/", endpoint="view")
    assert client.get("/open").status_code == 200
    view = functools.update_wrapper(caching(closed), opened)
    view.__wrapped__ = closed
    app.view_functions["view"] = view
    assert statuses() == [401, 200, 401]


def test_no_growth_by_methods(app, client):
    def view():
        return "open"

    app.url_map.add(Rule("/", endpoint="view"))
    app.endpoint("view")(view)
    for number in range(20):
        assert client.open("/", method=f"BREW{number}").status_code == 200
    assert vars(view)["_api_key_resolved"].by_method == {}


def test_error_names_view_and_cure(app, client, key, caplog):
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @require_api_key
    def reports():
        return "reached"

    app.add_url_rule("/", "hidden", losing_names(reports))
    assert client.get("/", headers={"X-API-Key": key}).status_code == 500
    (record,) = [record for record in caplog.records if record.exc_info]
    assert isinstance(record.exc_info[1], ConfigurationError)
    for part in ("'hidden'", f"{__name__}.test_error_names", "reports", "functools.wraps", "check_api_key"):
        assert part in str(record.exc_info[1])


class TestMethodDecorators:
    """Flask-RESTful's ``method_decorators``, which decorate a method anew in each request."""

    @pytest.fixture
    def add(self, app):
        def add(decorators):
            class Resource(MethodView):
                method_decorators = decorators

                def get(self):
                    return "reached"

                def dispatch_request(self, **_):
                    method = self.get
                    found = self.method_decorators
                    for decorator in found.get("get", ()) if isinstance(found, dict) else found:
                        method = decorator(method)
                    return method()

            app.add_url_rule("/", view_func=Resource.as_view("resource"))

        return add

    @pytest.mark.parametrize(
        "decorators",
        [[require_api_key], [require_api_key(scopes=["reports:read"])], {"get": [require_api_key]}],
        ids=["bare", "scopes", "by method"],
    )
    def test_checked(self, add, statuses, decorators):
        add(decorators)
        assert statuses() == [401, 200, 401]

    def test_no_growth(self, add, client, key):
        """A mark never outlives its function."""
        add([require_api_key])

        def count():
            gc.collect()
            return len(decorated_functions), len(gc.get_objects())

        headers = {"X-API-Key": key}
        for _ in range(20):
            client.get("/", headers=headers)
        functions, objects = count()
        for _ in range(500):
            assert client.get("/", headers=headers).status_code == 200
        assert count()[0] == functions
        assert count()[1] < objects + 300


def test_marks_keep_no_function_alive(app):
    def view():
        return "reached"

    class Page:
        def show(self):
            return "reached"

    page = Page()
    api_key_exempt(page.show)
    kept = [weakref.ref(each) for each in (view, page, require_api_key(view), api_key_exempt(keeping_names(view)))]
    del view, page
    gc.collect()
    assert [ref() for ref in kept] == [None] * 4


def test_method_of_a_base_without_the_mark_of_a_subclass(app, client):
    class Base(MethodView):
        def get(self):
            return "base"

    class Resource(Base):
        get = require_api_key(Base.get)

    app.add_url_rule("/base", view_func=Base.as_view("base"))
    app.add_url_rule("/resource", view_func=Resource.as_view("resource"))
    assert client.get("/base").status_code == 200
    assert client.get("/resource").status_code == 401


def test_class_method_without_the_mark_of_another(app, client):
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

"""Views below other decorators: checked where the mark is seen, and refused with an error everywhere else."""

import functools
import gc
import weakref
from unittest.mock import Mock

import pytest
from flask import Blueprint
from werkzeug.routing import Rule

from flask_apikey import APIKeys, ConfigurationError, api_key_exempt, require_api_key
from flask_apikey.request import requirement
from flask_apikey.request.protected_views import Protection, protected_views
from tests.request.protection.decorators import (
    HIDING,
    OPEN,
    AlwaysEqual,
    caching,
    caching_openly,
    keeping_names,
    losing_names,
)


def same(view):
    return view


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


def test_no_growth_by_methods(app, client):
    def view():
        return "open"

    app.url_map.add(Rule("/", endpoint="view"))
    app.endpoint("view")(view)
    methods = [f"BREW{number}" for number in range(20)]
    for method in ("GET", *methods):
        assert client.open("/", method=method).status_code == 200
    cached = {method for _, method in requirement._cache}
    assert "GET" in cached
    assert cached.isdisjoint(methods)


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


def test_marks_keep_no_function_alive(app):
    def view():
        return "reached"

    kept = [weakref.ref(each) for each in (view, require_api_key(view), api_key_exempt(keeping_names(view)))]
    del view
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3

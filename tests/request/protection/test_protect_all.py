"""``APIKEY_PROTECT_ALL`` and exemptions."""

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


@pytest.fixture
def app(make_app, tmp_path):
    app = make_app(APIKEY_PROTECT_ALL=True)
    (tmp_path / "file.txt").write_text("static")
    app.static_folder = str(tmp_path)
    return app


class Open(MethodView):
    @keeping_names
    def get(self):
        return "open"


@api_key_exempt
class Exempt(Open):
    @require_api_key
    def post(self):
        return "reached"


class Subclass(Exempt):
    pass


class Page:
    @api_key_exempt
    def show(self):
        return "open"


def test_guarded(app, view, assert_guarded):
    blueprint = Blueprint("blueprint", __name__)
    for target, path in ((app, "/"), (blueprint, "/blueprint")):
        target.get(path)(view)
    app.register_blueprint(blueprint)
    assert_guarded("/")
    assert_guarded("/blueprint")


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "BREW"])
def test_unknown_path(client, issue, method):
    assert client.open("/nowhere", method=method).status_code == 401
    assert client.open("/nowhere", method=method, headers={"X-API-Key": issue().key}).status_code == 404


def test_method_not_allowed(app, client, issue, view):
    app.get("/")(view)
    assert client.post("/").status_code == 401
    assert client.post("/", headers={"X-API-Key": issue().key}).status_code == 405


def test_rule_without_a_view(app, client):
    app.add_url_rule("/", endpoint="missing")
    assert client.get("/").status_code == 401


def test_preflight(app, view, client, reached):
    app.get("/")(view)
    assert client.options("/").status_code == 200
    assert reached == []


def test_static_files(app, client, issue):
    assert client.get("/static/file.txt").status_code == 401
    with client.get("/static/file.txt", headers={"X-API-Key": issue().key}) as response:
        assert response.text == "static"
    api_key_exempt(app.view_functions["static"])
    with client.get("/static/file.txt") as response:
        assert response.text == "static"


@pytest.mark.parametrize(
    "exempt",
    [
        api_key_exempt,
        lambda view: keeping_names(api_key_exempt(view)),
        lambda view: api_key_exempt(keeping_names(view)),
        lambda view: api_key_exempt(functools.partial(view)),
        lambda view: keeping_names(api_key_exempt(functools.partial(view))),
        lambda view: api_key_exempt(losing_names(view)),
        lambda _: Page().show,
        lambda _: Exempt.as_view("exempt"),
        lambda _: keeping_names(Exempt.as_view("exempt")),
    ],
    ids=[
        "view",
        "wrapped",
        "wrapper",
        "partial",
        "wrapped partial",
        "hiding wrapper",
        "bound method",
        "class",
        "wrapped class",
    ],
)
def test_exemption_seen_through_decorators(app, view, assert_open, assert_guarded, exempt):
    app.add_url_rule("/open", "open", exempt(lambda: "open"))
    app.get("/")(view)
    assert_open("/open")
    assert_guarded("/")


@pytest.mark.parametrize(
    "copy",
    [
        without_wrapped,
        losing_names,
        functools.partial,
        lambda exempt: functools.update_wrapper(keeping_names(exempt), lambda: None),
        lambda _: without_wrapped(Exempt.as_view("exempt")),
        lambda _: Subclass.as_view("subclass"),
    ],
    ids=["attributes", "nothing", "partial", "wraps another", "attributes of a class", "subclass"],
)
def test_copied_exemption(app, client, copy):
    """``functools.wraps`` copies the mark to functions that are not exempt."""
    app.add_url_rule("/", "view", copy(api_key_exempt(lambda: "open")))
    assert client.get("/").status_code == 401


def test_exempt_after_a_request(app, view, assert_open, assert_guarded):
    registered = app.get("/")(view)
    assert_guarded("/")
    api_key_exempt(registered)
    assert_open("/")


def test_required_method_of_an_exempt_view_class(app, client, assert_open):
    app.add_url_rule("/", view_func=Exempt.as_view("exempt"))
    assert_open("/")
    assert client.post("/").status_code == 401


def test_exempt_blueprint_and_nested_ones(app, assert_open, client):
    parent, child = Blueprint("parent", __name__), Blueprint("child", __name__)
    for target, path in ((parent, "/parent"), (child, "/child"), (app, "/other")):
        target.get(path, endpoint="view")(lambda: "open")
    parent.register_blueprint(child)
    app.register_blueprint(parent)
    api_key_exempt(parent)
    assert_open("/parent")
    assert_open("/child")
    assert client.get("/other").status_code == 401


def test_function_of_an_exempt_partial(app, view, assert_open, assert_guarded):
    app.add_url_rule("/public", "public", api_key_exempt(functools.partial(view)))
    app.add_url_rule("/", "private", view)
    assert_guarded("/")
    assert_open("/public")


@pytest.mark.parametrize(
    "wrong",
    [None, "view", InASlot(None), len, Open().get],
    ids=["None", "text", "slots", "builtin", "bound method"],
)
def test_exempt_refuses_what_takes_no_mark(wrong):
    """The function of a bound method serves other objects too."""
    with pytest.raises(TypeError, match="@api_key_exempt takes"):
        api_key_exempt(wrong)

"""Protected blueprints and the blueprints nested in them, in every order of registration."""

import pytest
from flask import Blueprint
from flask.views import MethodView

from flask_apikey import api_key_exempt, require_api_key
from tests.request.protection.decorators import keeping_names


@pytest.fixture
def blueprint(view):
    blueprint = Blueprint("blueprint", __name__)
    blueprint.add_url_rule("/", "view", view)
    return blueprint


@pytest.fixture
def parent(blueprint):
    """A blueprint around the other one."""
    parent = Blueprint("parent", __name__)
    parent.register_blueprint(blueprint)
    return parent


@pytest.fixture
def status(client, issue):
    """Returns the status of a request with a key of these scopes, and the scopes that it lacks."""

    def status(*scopes):
        response = client.get("/", headers={"X-API-Key": issue(scopes=scopes).key})
        return response.status_code, None if response.json is None else response.json["missing_scopes"]

    return status


def test_registered_under_other_names_and_prefixes(app, api_keys, blueprint, assert_guarded):
    app.register_blueprint(blueprint, url_prefix="/before")
    api_keys.protect(blueprint)
    app.register_blueprint(blueprint, url_prefix="/after", name="other")
    assert_guarded("/before/")
    assert_guarded("/after/")


@pytest.mark.parametrize("name", ["child", "renamed"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_nested(app, api_keys, blueprint, assert_guarded, name, when):
    grandparent, parent = Blueprint("grandparent", __name__), Blueprint("parent", __name__)
    parent.register_blueprint(blueprint, name=name)
    if when == "before":
        api_keys.protect(grandparent)
    grandparent.register_blueprint(parent, url_prefix="/deep")
    app.register_blueprint(grandparent)
    if when == "after":
        api_keys.protect(grandparent)
    assert_guarded("/deep/")


def test_parent_neighbour_and_exempt_view(app, api_keys, blueprint, parent, assert_open, assert_guarded):
    neighbour = Blueprint("blueprint2", __name__)
    for target, path in ((parent, "/parent"), (neighbour, "/neighbour")):
        target.get(path, endpoint="open")(lambda: "open")
    blueprint.get("/exempt", endpoint="exempt")(api_key_exempt(lambda: "open"))
    api_keys.protect(blueprint)
    app.register_blueprint(blueprint, name="again")
    app.register_blueprint(parent, url_prefix="/nested")
    app.register_blueprint(neighbour)
    for path in ("/nested/parent", "/neighbour", "/exempt"):
        assert_open(path)
    assert_guarded("/")
    assert_guarded("/nested/")


def test_view_class_and_static_files(app, api_keys, tmp_path, client, issue):
    (tmp_path / "file.txt").write_text("static")
    blueprint = Blueprint("blueprint", __name__, static_folder=tmp_path, static_url_path="/files", url_prefix="/b")

    class Resource(MethodView):
        def get(self):
            return "reached"

    blueprint.add_url_rule("/", view_func=Resource.as_view("resource"))
    app.register_blueprint(blueprint)
    api_keys.protect(blueprint)
    for path in ("/b/", "/b/files/file.txt"):
        assert client.get(path).status_code == 401
        with client.get(path, headers={"X-API-Key": issue().key}) as response:
            assert response.status_code == 200


def test_exempt_blueprint_in_a_protected_one(app, api_keys, blueprint, parent, assert_open):
    api_keys.protect(parent)
    api_key_exempt(blueprint)
    app.register_blueprint(parent)
    assert_open("/")


def test_protected_blueprint_in_an_exempt_one(app, api_keys, blueprint, parent, assert_guarded):
    api_key_exempt(parent)
    api_keys.protect(blueprint)
    app.register_blueprint(parent)
    assert_guarded("/")


@pytest.mark.parametrize("order", ["exempt above", "exempt below"])
def test_exemption_keeps_requirement_of_view(app, view, assert_guarded, order):
    inner, outer = (require_api_key, api_key_exempt) if order == "exempt above" else (api_key_exempt, require_api_key)
    app.get("/")(outer(inner(view)))
    assert_guarded("/")


@pytest.mark.parametrize("decorator", [lambda view: view, keeping_names], ids=["bare", "wrapped"])
def test_scopes_of_blueprints_and_view_combined(app, api_keys, view, status, decorator):
    child, parent = Blueprint("child", __name__), Blueprint("parent", __name__)
    child.add_url_rule("/", "view", decorator(require_api_key(scopes=["view"])(view)))
    parent.register_blueprint(child)
    app.register_blueprint(parent)
    api_keys.protect(child, scopes=["child"])
    api_keys.protect(parent, scopes=["parent"])
    assert status("child", "parent") == (403, ["view"])
    assert status("view", "parent") == (403, ["child"])
    assert status("view", "child") == (403, ["parent"])
    assert status("view", "child", "parent") == (200, None)


def test_protected_twice(app, api_keys, blueprint, status):
    app.register_blueprint(blueprint)
    api_keys.protect(blueprint, scopes=["a"])
    api_keys.protect(blueprint, scopes=["b"])
    assert status() == (403, ["a", "b"])


def test_optional_view_of_a_protected_blueprint(app, api_keys, blueprint, view, assert_guarded):
    blueprint.get("/optional", endpoint="optional")(require_api_key(optional=True)(view))
    api_keys.protect(blueprint)
    app.register_blueprint(blueprint)
    assert_guarded("/optional")


@pytest.mark.parametrize("wrong", ["blueprint", None, lambda: None], ids=["text", "None", "function"])
def test_protect_refuses_other_objects(api_keys, wrong):
    with pytest.raises(TypeError, match=r"takes a Blueprint.*@require_api_key"):
        api_keys.protect(wrong)

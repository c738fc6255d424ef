"""Protected blueprints and the blueprints nested in them, in every order of registration."""

import pytest
from flask import Blueprint
from flask.views import MethodView

from flask_apikey import api_key_exempt, require_api_key
from tests.request.protection.decorators import keeping_names


class TestBlueprints:
    @pytest.fixture
    def blueprint(self, view):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.add_url_rule("/", "view", view)
        return blueprint

    def test_registered_before(self, app, api_keys, blueprint, assert_guarded):
        app.register_blueprint(blueprint)
        api_keys.protect(blueprint)
        assert_guarded("/")

    def test_registered_after(self, app, api_keys, blueprint, assert_guarded):
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert_guarded("/")

    def test_registered_under_other_names_and_prefixes(self, app, api_keys, blueprint, assert_guarded, reached):
        app.register_blueprint(blueprint, url_prefix="/one")
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint, url_prefix="/two", name="other")
        for path in ("/one/", "/two/"):
            assert_guarded(path)
            reached.clear()

    @pytest.mark.parametrize("name", ["child", "renamed"])
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_nested(self, app, api_keys, blueprint, assert_guarded, name, when):
        grandparent, parent = Blueprint("grandparent", __name__), Blueprint("parent", __name__)
        parent.register_blueprint(blueprint, name=name)
        if when == "before":
            api_keys.protect(grandparent)
        grandparent.register_blueprint(parent, url_prefix="/deep")
        app.register_blueprint(grandparent)
        if when == "after":
            api_keys.protect(grandparent)
        assert_guarded("/deep/")

    def test_parent_of_a_protected_blueprint(self, app, api_keys, blueprint, assert_open, assert_guarded):
        parent = Blueprint("parent", __name__)
        parent.get("/open", endpoint="open")(lambda: "open")
        parent.register_blueprint(blueprint)
        api_keys.protect(blueprint)
        app.register_blueprint(parent)
        assert_open("/open")
        assert_guarded("/")

    def test_neighbour_with_a_similar_name(self, app, api_keys, blueprint, assert_open):
        neighbour = Blueprint("blueprint2", __name__)
        neighbour.get("/open", endpoint="open")(lambda: "open")
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        app.register_blueprint(neighbour)
        assert_open("/open")

    def test_view_class_and_static_files(self, app, api_keys, tmp_path, client, issue):
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

    def test_exempt_view(self, app, api_keys, blueprint, assert_open, assert_guarded):
        blueprint.get("/open", endpoint="open")(api_key_exempt(lambda: "open"))
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert_open("/open")
        assert_guarded("/")

    def test_exempt_blueprint_in_a_protected_one(self, app, api_keys, blueprint, assert_open):
        parent = Blueprint("parent", __name__)
        api_keys.protect(parent)
        parent.register_blueprint(api_key_exempt(blueprint))
        app.register_blueprint(parent)
        assert_open("/")

    def test_protected_blueprint_in_an_exempt_one(self, app, api_keys, blueprint, assert_guarded):
        parent = api_key_exempt(Blueprint("parent", __name__))
        parent.register_blueprint(blueprint)
        api_keys.protect(blueprint)
        app.register_blueprint(parent)
        assert_guarded("/")

    @pytest.mark.parametrize(
        "decorate",
        [lambda view: api_key_exempt(require_api_key(view)), lambda view: require_api_key(api_key_exempt(view))],
    )
    def test_exemption_keeps_requirement_of_view(self, app, view, assert_guarded, decorate):
        app.get("/")(decorate(view))
        assert_guarded("/")

    def test_scopes_of_blueprints_and_view_combined(self, app, api_keys, view, client, issue):
        child, parent = Blueprint("child", __name__), Blueprint("parent", __name__)
        child.get("/")(require_api_key(scopes=["view"])(view))
        parent.register_blueprint(child)
        app.register_blueprint(parent)
        api_keys.protect(child, scopes=["child"])
        api_keys.protect(parent, scopes=["parent"])
        every = ["view", "child", "parent"]
        for missing in every:
            scopes = [scope for scope in every if scope != missing]
            response = client.get("/", headers={"X-API-Key": issue(scopes=scopes).key})
            assert response.status_code == 403
            assert response.json["missing_scopes"] == [missing]
        assert client.get("/", headers={"X-API-Key": issue(scopes=every).key}).status_code == 200

    def test_more_scopes_than_the_blueprint(self, app, api_keys, view, reached, issue):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.add_url_rule("/", "view", keeping_names(require_api_key(scopes=["view"])(view)))
        app.register_blueprint(blueprint)
        api_keys.protect(blueprint, scopes=["blueprint"])
        for scopes in (["view"], ["blueprint"]):
            assert app.test_client(api_key=issue(scopes=scopes).key).get("/").status_code == 403
        assert reached == []
        assert app.test_client(api_key=issue(scopes=["view", "blueprint"]).key).get("/").status_code == 200

    def test_protected_twice(self, app, api_keys, blueprint, client, issue):
        app.register_blueprint(blueprint)
        api_keys.protect(blueprint, scopes=["a"])
        api_keys.protect(blueprint, scopes=["b"])
        response = client.get("/", headers={"X-API-Key": issue().key})
        assert response.json["missing_scopes"] == ["a", "b"]

    def test_optional_view_of_a_protected_blueprint(self, app, api_keys, blueprint, view, assert_guarded):
        blueprint.get("/optional", endpoint="optional")(require_api_key(optional=True)(view))
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert_guarded("/optional")

    @pytest.mark.parametrize("wrong", ["blueprint", None, lambda: None])
    def test_protect_refuses_other_objects(self, api_keys, wrong):
        with pytest.raises(TypeError, match=r"takes a Blueprint.*@require_api_key"):
            api_keys.protect(wrong)

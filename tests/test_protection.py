"""What is protected, however it was registered, and what is not."""

import functools
import inspect

import pytest
from flask import Blueprint, Flask, Response, redirect, url_for
from flask.views import MethodView, View

from flask_apikey import (
    APIKeys,
    ConfigurationError,
    InvalidValue,
    api_key_exempt,
    check_api_key,
    current_api_key,
    require_api_key,
)


def keeping_names(view):
    @functools.wraps(view)
    def wrapper(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapper


def losing_names(view):
    def wrapper(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapper


@pytest.fixture
def reached():
    """What the views note when they run."""
    return []


@pytest.fixture
def view(reached):
    def view():
        reached.append("view")
        return "reached"

    return view


@pytest.fixture
def assert_guarded(client, issue, reached):
    """Fails unless a path is closed to everything but a key."""
    key = issue().key

    def check(path, method="GET"):
        for headers in ({}, {"X-API-Key": "x"}, {"Authorization": "Basic dTpw"}, {"X-API-Key": key[:-1] + "!"}):
            response = client.open(path, method=method, headers=headers)
            assert response.status_code == 401, f"{method} {path} with {headers} answered {response.status}"
            assert response.json["code"] in ("missing_key", "invalid_key")
        assert reached == []
        assert client.open(path, method=method, headers={"X-API-Key": key}).status_code == 200
        assert len(reached) == 1

    return check


@pytest.fixture
def assert_closed(app, view, client, reached):
    """Sends a request to a protected view; fails if the view runs."""
    app.route("/", methods=["GET", "POST"])(require_api_key(view))

    def check(method, path, **request):
        response = client.open(path, method=method, **request)
        assert reached == []
        return response

    return check


@pytest.fixture
def assert_open(client):
    def check(path, method="GET"):
        response = client.open(path, method=method)
        assert response.status_code == 200, f"{method} {path} without a key answered {response.status}"

    return check


def test_a_plain_view(app, view, assert_guarded):
    app.get("/")(require_api_key(view))
    assert_guarded("/")


def test_a_plain_view_with_the_decorator_called(app, view, assert_guarded):
    app.get("/")(require_api_key()(view))
    assert_guarded("/")


def test_a_plain_view_with_the_decorator_above_the_route(app, view, assert_guarded):
    require_api_key(app.get("/")(view))
    assert_guarded("/")


def test_a_view_without_the_decorator_stays_open(app, view, assert_open):
    app.get("/")(view)
    assert_open("/")


class Compact:
    __slots__ = ("view",)

    def __init__(self, view):
        self.view = view

    def __call__(self):
        return self.view()


def test_a_callable_without_attributes(app, view, assert_guarded):
    app.add_url_rule("/", "view", require_api_key(Compact(view)))
    assert_guarded("/")


def test_a_callable_without_attributes_or_decorator_stays_open(app, view, assert_open):
    app.add_url_rule("/", "view", Compact(view))
    assert_open("/")


def test_the_decorator_keeps_name_docstring_and_arguments(app, client, issue):
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


@pytest.mark.parametrize("between", [keeping_names, losing_names])
def test_below_another_decorator_below_the_route(app, view, assert_guarded, between):
    app.add_url_rule("/", "view", between(require_api_key(view)))
    assert_guarded("/")


def test_above_another_decorator_above_the_route(app, view, assert_guarded):
    require_api_key(keeping_names(app.get("/")(view)))
    assert_guarded("/")


@pytest.mark.parametrize("outer", [keeping_names, losing_names])
def test_below_another_decorator_above_the_route(app, view, assert_guarded, outer):
    outer(require_api_key(app.get("/")(view)))
    assert_guarded("/")


def test_above_a_route_decorator_that_registers_a_wrapper_of_its_own(app, view, assert_guarded):
    def route(function):
        app.add_url_rule("/", "view", keeping_names(function))
        return function

    require_api_key(route(view))
    assert_guarded("/")


def test_a_view_that_is_wrapped_after_it_was_registered(app, view, assert_guarded):
    app.add_url_rule("/", "view", view)
    app.view_functions["view"] = keeping_names(app.view_functions["view"])
    require_api_key(view)
    assert_guarded("/")


def test_above_a_decorator_that_hides_what_it_wraps_above_its_route(app, view, assert_guarded):
    def hiding(function):
        def wrapper():
            return function()

        return wrapper

    require_api_key(hiding(app.get("/")(view)))
    assert_guarded("/")


def test_the_check_comes_before_a_decorator_that_answers_by_itself(app, view, client):
    def cached(function):
        @functools.wraps(function)
        def wrapper():
            return "from the cache"

        return wrapper

    app.get("/")(cached(require_api_key(view)))
    assert client.get("/").status_code == 401


def test_every_route_and_endpoint_of_a_view(app, view, assert_guarded, reached):
    app.get("/one")(view)
    require_api_key(view)
    app.add_url_rule("/two", "two", view)
    assert_guarded("/one")
    reached.clear()
    assert_guarded("/two")


def test_an_endpoint_that_gets_its_view_later(app, view, assert_guarded):
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


def test_a_trailing_slash_redirect_leads_to_the_check(app, view, client, reached):
    app.get("/list/")(require_api_key(view))
    assert client.get("/list", follow_redirects=True).status_code == 401
    assert reached == []


def test_a_redirect_inside_the_application_leads_to_the_check(app, view, client, reached):
    app.get("/secret")(require_api_key(view))
    app.get("/open", endpoint="open")(lambda: redirect(url_for("view")))
    assert client.get("/open", follow_redirects=True).status_code == 401
    assert reached == []


@pytest.mark.parametrize("path", ["//", "/./", "/%2e/", "/?api_key={key}", "/?key={key}", "/?X-API-Key={key}"])
def test_neither_odd_paths_nor_the_query_string_open_a_view(assert_closed, issue, path):
    response = assert_closed("GET", path.format(key=issue().key), follow_redirects=True)
    assert response.status_code in (401, 404)


@pytest.mark.parametrize("source", ["form", "json", "cookie"])
def test_a_key_elsewhere_than_in_the_two_headers_opens_nothing(assert_closed, client, issue, source):
    key = issue().key
    sent = {"X-API-Key": key, "api_key": key, "Authorization": f"Api-Key {key}"}
    if source == "cookie":
        client.set_cookie("X-API-Key", key)
    response = assert_closed("POST", "/", **{"form": {"data": sent}, "json": {"json": sent}, "cookie": {}}[source])
    assert response.json["code"] == "missing_key"


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_a_method_override_header_opens_nothing(assert_closed, header):
    assert assert_closed("POST", "/", headers={header: "OPTIONS"}).status_code == 401


def test_a_function_that_is_called_by_an_open_view_is_checked_too(app, client, issue, view):
    guarded = require_api_key(view)

    @app.get("/")
    def outer():
        return guarded()

    assert client.get("/").status_code == 401
    assert client.get("/", headers={"X-API-Key": issue().key}).status_code == 200


def test_a_before_request_function_can_carry_the_decorator(app, client, issue):
    blueprint = Blueprint("blueprint", __name__)
    blueprint.before_request(require_api_key(lambda: None))
    blueprint.get("/", endpoint="view")(lambda: "reached")
    app.register_blueprint(blueprint)
    assert client.get("/").status_code == 401
    assert client.get("/", headers={"X-API-Key": issue().key}).status_code == 200


def test_a_partial_and_an_object_that_can_be_called(app, view, assert_guarded, reached):
    class Callable:
        def __call__(self):
            return view()

    app.add_url_rule("/partial", "partial", functools.partial(require_api_key(view)))
    app.add_url_rule("/marked-partial", "marked", require_api_key(functools.partial(view)))
    app.add_url_rule("/object", "object", require_api_key(Callable()))
    for path in ("/partial", "/marked-partial", "/object"):
        assert_guarded(path)
        reached.clear()


def test_a_bound_method(app, view, assert_guarded):
    class Resource:
        def show(self):
            return view()

    resource = Resource()
    app.add_url_rule("/", "show", resource.show)
    require_api_key(resource.show)
    assert_guarded("/")


def test_a_view_that_streams(app, reached, assert_guarded):
    @app.get("/")
    @require_api_key
    def stream():
        reached.append("stream")
        yield "reached"

    assert_guarded("/")


@pytest.mark.parametrize("order", ["below", "above"])
def test_an_async_view(app, reached, client, issue, order):
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


def test_an_async_view_stays_a_coroutine_function():
    async def view():
        return "reached"

    assert inspect.iscoroutinefunction(require_api_key(view))


class TestViewClasses:
    def test_one_decorated_method(self, app, view, assert_guarded, assert_open):
        class Resource(MethodView):
            @require_api_key
            def post(self):
                return view()

            def get(self):
                return "open"

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_open("/")
        assert_guarded("/", "POST")

    def test_head_falls_to_the_decorated_get(self, app, view, client, reached):
        class Resource(MethodView):
            @require_api_key
            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert client.head("/").status_code == 401
        assert reached == []

    def test_an_inherited_decorated_method(self, app, view, assert_guarded):
        class Base(MethodView):
            @require_api_key
            def get(self):
                return view()

        class Resource(Base):
            pass

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_an_async_method(self, app, view, assert_guarded):
        class Resource(MethodView):
            @require_api_key
            async def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_the_decorators_attribute(self, app, view, assert_guarded):
        class Resource(MethodView):
            decorators = (require_api_key,)

            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_the_decorators_attribute_with_scopes_among_others(self, app, client, issue, view):
        class Resource(MethodView):
            decorators = (losing_names, require_api_key(scopes=["read"]), keeping_names)

            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert client.get("/").status_code == 401
        assert client.get("/", headers={"X-API-Key": issue().key}).status_code == 403
        assert client.get("/", headers={"X-API-Key": issue(scopes=["read"]).key}).status_code == 200

    @pytest.mark.parametrize("base", [View, MethodView])
    @pytest.mark.parametrize("every_request", [True, False])
    def test_a_decorated_class(self, app, view, assert_guarded, base, every_request):
        @require_api_key
        class Resource(base):
            init_every_request = every_request

            def dispatch_request(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"), methods=["GET"])
        assert_guarded("/")

    def test_a_class_that_is_decorated_after_it_was_registered(self, app, view, assert_guarded):
        class Resource(MethodView):
            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        require_api_key(Resource)
        assert_guarded("/")

    def test_the_result_of_as_view(self, app, view, assert_guarded):
        class Resource(MethodView):
            def get(self):
                return view()

        app.add_url_rule("/", view_func=require_api_key(Resource.as_view("resource")))
        assert_guarded("/")

    def test_a_subclass_of_a_decorated_class(self, app, view, assert_guarded):
        @require_api_key
        class Base(MethodView):
            pass

        class Resource(Base):
            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_a_subclass_that_replaces_the_decorators(self, app, view, assert_guarded):
        @require_api_key
        class Base(MethodView):
            pass

        class Resource(Base):
            decorators = (losing_names,)

            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_the_base_of_a_decorated_class_stays_open(self, app, view, assert_open):
        class Base(MethodView):
            def get(self):
                return view()

        @require_api_key
        class Resource(Base):
            pass

        app.add_url_rule("/", view_func=Base.as_view("base"))
        assert_open("/")

    def test_a_decorated_subclass_cannot_weaken_its_base(self, app, view, assert_guarded):
        @require_api_key
        class Base(MethodView):
            pass

        @require_api_key(optional=True)
        class Resource(Base):
            decorators = ()

            def get(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/")

    def test_an_exempt_view_of_a_decorated_class(self, app, view, assert_guarded):
        class Resource(MethodView):
            def get(self):
                return view()

        function = Resource.as_view("resource")
        require_api_key(Resource)
        app.add_url_rule("/", view_func=api_key_exempt(function))
        assert_guarded("/")

    def test_only_view_classes_can_be_decorated(self):
        class Thing:
            pass

        with pytest.raises(TypeError, match=r"Thing.*flask\.views\.View"):
            require_api_key(Thing)


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

    def test_the_parent_of_a_protected_blueprint_stays_open(
        self, app, api_keys, blueprint, assert_open, assert_guarded
    ):
        parent = Blueprint("parent", __name__)
        parent.get("/open", endpoint="open")(lambda: "open")
        parent.register_blueprint(blueprint)
        api_keys.protect(blueprint)
        app.register_blueprint(parent)
        assert_open("/open")
        assert_guarded("/")

    def test_a_neighbour_whose_name_begins_alike_stays_open(self, app, api_keys, blueprint, assert_open):
        neighbour = Blueprint("blueprint2", __name__)
        neighbour.get("/open", endpoint="open")(lambda: "open")
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        app.register_blueprint(neighbour)
        assert_open("/open")

    def test_a_view_class_and_static_files_of_the_blueprint(self, app, api_keys, tmp_path, client, issue):
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

    def test_an_exempt_view_of_a_protected_blueprint(self, app, api_keys, blueprint, assert_open, assert_guarded):
        blueprint.get("/open", endpoint="open")(api_key_exempt(lambda: "open"))
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert_open("/open")
        assert_guarded("/")

    def test_an_exempt_blueprint_inside_a_protected_one(self, app, api_keys, blueprint, assert_open):
        parent = Blueprint("parent", __name__)
        api_keys.protect(parent)
        parent.register_blueprint(api_key_exempt(blueprint))
        app.register_blueprint(parent)
        assert_open("/")

    def test_a_protected_blueprint_inside_an_exempt_one(self, app, api_keys, blueprint, assert_guarded):
        parent = api_key_exempt(Blueprint("parent", __name__))
        parent.register_blueprint(blueprint)
        api_keys.protect(blueprint)
        app.register_blueprint(parent)
        assert_guarded("/")

    @pytest.mark.parametrize(
        "decorate",
        [lambda view: api_key_exempt(require_api_key(view)), lambda view: require_api_key(api_key_exempt(view))],
    )
    def test_exemption_does_not_end_what_the_view_itself_requires(self, app, view, assert_guarded, decorate):
        app.get("/")(decorate(view))
        assert_guarded("/")

    def test_the_scopes_of_blueprints_and_view_add_up(self, app, api_keys, view, client, issue):
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

    @pytest.mark.parametrize("hidden", [losing_names, keeping_names])
    def test_a_view_may_ask_for_more_than_its_blueprint(self, app, api_keys, view, reached, issue, hidden):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.add_url_rule("/", "view", hidden(require_api_key(scopes=["view"])(view)))
        app.register_blueprint(blueprint)
        api_keys.protect(blueprint, scopes=["blueprint"])
        for scopes in (["view"], ["blueprint"]):
            assert app.test_client(api_key=issue(scopes=scopes).key).get("/").status_code == 403
        assert reached == []
        assert app.test_client(api_key=issue(scopes=["view", "blueprint"]).key).get("/").status_code == 200

    def test_protecting_twice_adds_up(self, app, api_keys, blueprint, client, issue):
        app.register_blueprint(blueprint)
        api_keys.protect(blueprint, scopes=["a"])
        api_keys.protect(blueprint, scopes=["b"])
        response = client.get("/", headers={"X-API-Key": issue().key})
        assert response.json["missing_scopes"] == ["a", "b"]

    def test_an_optional_view_of_a_protected_blueprint_needs_a_key(
        self, app, api_keys, blueprint, view, assert_guarded
    ):
        blueprint.get("/optional", endpoint="optional")(require_api_key(optional=True)(view))
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert_guarded("/optional")

    @pytest.mark.parametrize("wrong", ["blueprint", None, lambda: None])
    def test_only_blueprints_can_be_protected(self, api_keys, wrong):
        with pytest.raises(TypeError, match=r"takes a Blueprint.*@require_api_key"):
            api_keys.protect(wrong)


class TestProtectAll:
    @pytest.fixture
    def app(self, make_app, tmp_path):
        app = make_app(APIKEY_PROTECT_ALL=True)
        (tmp_path / "file.txt").write_text("static")
        app.static_folder = str(tmp_path)
        return app

    def test_views_that_ask_for_nothing(self, app, view, assert_guarded):
        app.get("/")(view)
        assert_guarded("/")

    def test_views_of_blueprints(self, app, view, assert_guarded):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.get("/")(view)
        app.register_blueprint(blueprint)
        assert_guarded("/")

    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "BREW"])
    def test_a_path_that_leads_nowhere_tells_nothing_to_the_keyless(self, client, issue, method):
        assert client.open("/nowhere", method=method).status_code == 401
        assert client.open("/nowhere", method=method, headers={"X-API-Key": issue().key}).status_code == 404

    def test_a_method_that_is_not_allowed_tells_nothing_to_the_keyless(self, app, client, issue, view):
        app.get("/")(view)
        assert client.post("/").status_code == 401
        assert client.post("/", headers={"X-API-Key": issue().key}).status_code == 405

    def test_static_files(self, client, issue):
        assert client.get("/static/file.txt").status_code == 401
        with client.get("/static/file.txt", headers={"X-API-Key": issue().key}) as response:
            assert response.text == "static"

    def test_static_files_can_be_exempt(self, app, client):
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

    def test_a_view_that_was_called_before(self, app, view, assert_open, assert_guarded):
        registered = app.get("/")(view)
        assert_guarded("/")
        api_key_exempt(registered)
        assert_open("/")

    def test_an_exempt_view_class(self, app, assert_open):
        @api_key_exempt
        class Resource(MethodView):
            def get(self):
                return "open"

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_open("/")

    def test_a_required_method_of_an_exempt_view_class(self, app, view, assert_open, assert_guarded):
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

    def test_an_exempt_blueprint_and_those_inside_it(self, app, assert_open, client):
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

    def test_a_neighbour_of_an_exempt_view_stays_closed(self, app, view, assert_guarded, assert_open):
        app.get("/open", endpoint="open")(api_key_exempt(lambda: "open"))
        app.get("/")(view)
        assert_open("/open")
        assert_guarded("/")

    def test_a_view_that_calls_an_exempt_view_class_is_not_exempt(self, app, view, assert_guarded, assert_open):
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

    def test_the_method_of_another_object_is_not_exempt_with_one(self, app, client):
        class Page:
            def show(self):
                return "reached"

        public, private = Page(), Page()
        app.add_url_rule("/public", "public", api_key_exempt(public.show))
        app.add_url_rule("/again", "again", public.show)
        app.add_url_rule("/private", "private", private.show)
        assert client.get("/public").status_code == client.get("/again").status_code == 200
        assert client.get("/private").status_code == 401

    def test_a_preflight_passes(self, app, view, client, reached):
        app.get("/")(view)
        assert client.options("/").status_code == 200
        assert reached == []


class TestOptions:
    @pytest.mark.parametrize("order", ["below", "above"])
    def test_a_preflight_that_flask_answers_passes_without_a_key(self, app, view, client, reached, order):
        if order == "below":
            app.get("/")(require_api_key(view))
        else:
            require_api_key(app.get("/")(view))
        response = client.options("/")
        assert response.status_code == 200
        assert "GET" in response.headers["Allow"]
        assert "Cache-Control" not in response.headers
        assert reached == []

    def test_a_preflight_of_a_protected_blueprint_passes(self, app, api_keys, view, client, reached):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.get("/")(view)
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert client.options("/").status_code == 200
        assert reached == []

    def test_a_view_that_answers_options_itself_is_guarded(self, app, view, assert_guarded):
        app.route("/", methods=["GET", "OPTIONS"])(require_api_key(view))
        assert_guarded("/", "OPTIONS")

    def test_a_view_that_answers_options_itself_is_guarded_by_its_blueprint(self, app, api_keys, view, assert_guarded):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.route("/", methods=["OPTIONS"])(view)
        api_keys.protect(blueprint)
        app.register_blueprint(blueprint)
        assert_guarded("/", "OPTIONS")

    def test_a_class_that_answers_options_itself_is_guarded(self, app, view, assert_guarded):
        @require_api_key
        class Resource(MethodView):
            def options(self):
                return view()

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert_guarded("/", "OPTIONS")

    def test_a_view_without_automatic_options_is_guarded(self, app, view, client, reached):
        app.add_url_rule("/", "view", require_api_key(view), methods=["GET"], provide_automatic_options=False)
        assert client.options("/").status_code == 405
        assert reached == []


class TestOptional:
    @pytest.fixture(autouse=True)
    def _view(self, app, api_keys):
        @app.get("/")
        @require_api_key(optional=True, scopes=["read"])
        def view():
            return {"caller": current_api_key.name if current_api_key else None}

    def test_without_a_key_it_is_reached_by_nobody_in_particular(self, client):
        response = client.get("/")
        assert response.json == {"caller": None}
        assert response.headers["Cache-Control"] == "no-store"

    def test_with_a_key_it_is_reached_by_its_caller(self, client, issue):
        key = issue(name="ci", scopes=["read"]).key
        assert client.get("/", headers={"X-API-Key": key}).json == {"caller": "ci"}

    def test_a_bad_key_is_refused_all_the_same(self, client, issue):
        assert client.get("/", headers={"X-API-Key": "x"}).status_code == 401
        assert client.get("/", headers={"X-API-Key": ""}).status_code == 401
        assert client.get("/", headers={"X-API-Key": issue().key}).json["code"] == "insufficient_scope"

    def test_a_revoked_key_is_refused_all_the_same(self, app, api_keys, client, issue):
        issued = issue(scopes=["read"])
        with app.app_context():
            api_keys.revoke(issued.record.id)
        assert client.get("/", headers={"X-API-Key": issued.key}).json["code"] == "key_revoked"

    def test_optional_outside_does_not_open_what_is_required_inside(self, app, view, client, reached):
        hidden = losing_names(require_api_key(view))
        app.get("/hidden", endpoint="hidden")(require_api_key(optional=True)(hidden))
        assert client.get("/hidden").status_code == 401
        assert reached == []

    def test_required_around_optional_is_required(self, app, client):
        app.get("/both", endpoint="both")(require_api_key(require_api_key(optional=True)(lambda: "reached")))
        app.get("/htob", endpoint="htob")(require_api_key(optional=True)(require_api_key(lambda: "reached")))
        assert client.get("/both").status_code == 401
        assert client.get("/htob").status_code == 401


class TestScopes:
    @pytest.mark.parametrize(
        ("granted", "missing"),
        [
            ([], ["read", "write"]),
            (["read"], ["write"]),
            (["write", "other"], ["read"]),
            (["read:all", "writer"], ["read", "write"]),
            (["READ", "WRITE"], ["read", "write"]),
        ],
    )
    def test_a_key_without_all_of_them_is_refused(self, app, view, issue, reached, granted, missing):
        app.get("/")(require_api_key(scopes=["read", "write"])(view))
        response = app.test_client(api_key=issue(scopes=granted).key).get("/")
        assert response.status_code == 403
        assert response.json["missing_scopes"] == missing
        assert reached == []

    @pytest.mark.parametrize("granted", [["read", "write"], ["read", "write", "more"], ["*"], ["*", "read"]])
    def test_a_key_with_all_of_them_passes(self, app, view, client, issue, granted):
        app.get("/")(require_api_key(scopes=["read", "write"])(view))
        assert client.get("/", headers={"X-API-Key": issue(scopes=granted).key}).status_code == 200

    def test_a_key_without_scopes_passes_where_none_is_required(self, app, view, client, issue):
        app.get("/")(require_api_key(view))
        assert client.get("/", headers={"X-API-Key": issue().key}).status_code == 200

    def test_a_view_that_requires_the_star_is_open_to_the_star_only(self, app, view, client, issue):
        app.get("/")(require_api_key(scopes=["*"])(view))
        assert client.get("/", headers={"X-API-Key": issue(scopes=["read"]).key}).status_code == 403
        assert client.get("/", headers={"X-API-Key": issue(scopes=["*"]).key}).status_code == 200

    def test_stacked_decorators_add_up(self, app, view, client, issue):
        app.get("/")(require_api_key(scopes=["a"])(require_api_key(scopes=["b"])(view)))
        assert client.get("/", headers={"X-API-Key": issue(scopes=["a"]).key}).json["missing_scopes"] == ["b"]
        assert client.get("/", headers={"X-API-Key": issue(scopes=["b"]).key}).json["missing_scopes"] == ["a"]

    @pytest.mark.parametrize("wrong", ["read", 5, ["two words"], [""], [5], [b"read"], ['"quoted"'], ["é"]])
    def test_malformed_scopes_are_refused_where_they_are_written(self, wrong):
        with pytest.raises(InvalidValue, match="scopes"):
            require_api_key(scopes=wrong)

    @pytest.mark.parametrize("wrong", ["read", ["read"], 5, Blueprint("blueprint", __name__)])
    def test_what_is_no_view_is_refused(self, wrong):
        with pytest.raises(TypeError, match="@require_api_key"):
            require_api_key(wrong)


class TestCheckInsideAView:
    @pytest.fixture(autouse=True)
    def _view(self, app, api_keys, reached):
        @app.get("/<tenant>")
        def view(tenant):
            check_api_key(scopes=[f"tenant:{tenant}"])
            reached.append(tenant)
            return {"caller": current_api_key.name}

    def test_without_a_key_it_goes_no_further(self, client, reached):
        assert client.get("/a").json["code"] == "missing_key"
        assert client.get("/a", headers={"X-API-Key": "x"}).json["code"] == "invalid_key"
        assert reached == []

    def test_what_one_request_needed_is_not_asked_of_the_next(self, client, issue):
        keys = {tenant: issue(name=tenant, scopes=[f"tenant:{tenant}"]).key for tenant in "abc"}
        for path in keys:
            for tenant, key in keys.items():
                response = client.get(f"/{path}", headers={"X-API-Key": key})
                if path == tenant:
                    assert response.json == {"caller": tenant}
                    assert response.headers["Cache-Control"] == "no-store"
                else:
                    assert response.status_code == 403
                    assert response.json["missing_scopes"] == [f"tenant:{path}"]

    def test_it_adds_to_what_the_decorator_asks(self, app, client, issue):
        @app.get("/both/<tenant>")
        @require_api_key(scopes=["read"])
        def both(tenant):
            check_api_key(scopes=[f"tenant:{tenant}"])
            return "reached"

        for scopes, status in ((["read"], 403), (["tenant:a"], 403), (["read", "tenant:a"], 200)):
            assert client.get("/both/a", headers={"X-API-Key": issue(scopes=scopes).key}).status_code == status

    def test_a_scope_that_cannot_be_one_lets_nobody_pass(self, app, client, issue, reached):
        app.config["PROPAGATE_EXCEPTIONS"] = False
        assert client.get("/two words", headers={"X-API-Key": issue(scopes=["*"]).key}).status_code == 500
        assert reached == []

    def test_without_api_keys_it_lets_nobody_pass(self):
        with Flask("bare").test_request_context(), pytest.raises(ConfigurationError, match="init_app"):
            check_api_key()


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

    def test_a_decorated_view(self, bare, view, never_200):
        bare.get("/")(require_api_key(view))
        never_200()

    def test_a_decorated_class(self, bare, view, never_200):
        @require_api_key
        class Resource(MethodView):
            def get(self):
                return view()

        bare.add_url_rule("/", view_func=Resource.as_view("resource"))
        never_200()

    def test_an_optional_view(self, bare, view, never_200):
        bare.get("/")(require_api_key(optional=True)(view))
        never_200()

    def test_a_protected_blueprint(self, bare, view, never_200):
        blueprint = Blueprint("blueprint", __name__)
        blueprint.get("/")(view)
        APIKeys().protect(blueprint)
        bare.register_blueprint(blueprint)
        never_200()

    def test_the_error_says_what_to_do(self, bare, view):
        bare.testing = True
        bare.get("/")(require_api_key(view))
        with pytest.raises(ConfigurationError, match="init_app"):
            bare.test_client().get("/")

    def test_open_views_stay_open(self, bare, view):
        bare.get("/")(view)
        assert bare.test_client().get("/").status_code == 200


def test_an_earlier_before_request_function_that_answers_keeps_its_answer(make_app, view, reached):
    app = make_app()
    app.before_request(lambda: Response("maintenance", 503))
    APIKeys(app)
    app.get("/")(require_api_key(view))
    assert app.test_client().get("/").text == "maintenance"
    assert reached == []

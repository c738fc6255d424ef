"""Protected functions that are reached in another way than by the rule of their own view."""

import pytest
from flask import Blueprint, request
from flask.views import MethodView

from flask_apikey import ConfigurationError, check_api_key, require_api_key
from tests.request.protection.decorators import losing_names


@pytest.fixture
def app(make_app):
    return make_app(PROPAGATE_EXCEPTIONS=False)


@pytest.fixture
def secret(app, view):
    """A protected view."""
    return app.get("/secret", endpoint="secret")(require_api_key(scopes=["read"])(view))


def by_view_functions(app, secret):
    app.get("/")(losing_names(app.view_functions["secret"]))


def by_a_changed_method(app, secret):
    class Resource(MethodView):
        def get(self):
            return "open"

        def post(self):
            return secret()

    app.add_url_rule("/", view_func=Resource.as_view("resource"))

    @app.before_request
    def change():
        request.method = "POST"


def by_an_error_handler(app, secret):
    app.register_error_handler(404, lambda _: secret())


def by_a_decorated_hook(app, secret):
    app.get("/")(lambda: "open")
    app.before_request(require_api_key(lambda: None))


def behind_a_check_of_its_own(app, secret):
    """A cache around `outer` would answer without either check."""

    def outer():
        check_api_key(scopes=["read"])
        return secret()

    app.get("/")(outer)


WAYS = [
    by_view_functions,
    by_a_changed_method,
    by_an_error_handler,
    by_a_decorated_hook,
    behind_a_check_of_its_own,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_function_below_the_decorator_fails(app, api_keys, client, issue, secret, reached, way):
    way(app, secret)
    key = issue(scopes=["read"]).key
    assert client.get("/", headers={"X-API-Key": key}).status_code == 500
    assert client.get("/").status_code in ({401, 500} if way is behind_a_check_of_its_own else {500})
    assert reached == []


def test_error_handler_of_a_refusal(app, client, secret, reached):
    """It answers the 401 of the hook, so the request has no valid key."""
    app.register_error_handler(401, lambda _: secret())
    assert client.get("/secret").status_code == 500
    assert reached == []


def test_request_that_the_hook_did_not_see(app, issue, secret, reached):
    with app.test_request_context("/secret", headers={"X-API-Key": issue(scopes=["read"]).key}):
        with pytest.raises(ConfigurationError, match="secret"):
            app.dispatch_request()
        app.preprocess_request()
        assert app.dispatch_request() == "reached"


@pytest.mark.parametrize(
    ("outer", "status"),
    [({"scopes": ["read"]}, 200), ({"scopes": ["read", "write"]}, 200), ({}, 500), ({"optional": True}, 500)],
    ids=["same", "more", "less", "optional"],
)
def test_call_from_another_protected_view(app, client, issue, secret, outer, status):
    app.get("/")(require_api_key(**outer)(lambda: secret()))  # noqa: PLW0108  # the closure is what is tested
    assert client.get("/", headers={"X-API-Key": issue(scopes=["*"]).key}).status_code == status
    assert client.get("/").status_code == (500 if "optional" in outer else 401)


def test_call_after_another_check(app, client, issue, secret):
    """A check inside a view adds to that of the hook, and does not replace it."""

    @app.get("/")
    @require_api_key(scopes=["read"])
    def outer():
        check_api_key(scopes=["write"])
        return secret()

    assert client.get("/", headers={"X-API-Key": issue(scopes=["*"]).key}).status_code == 200
    assert client.get("/", headers={"X-API-Key": issue(scopes=["read"]).key}).status_code == 403


def test_method_of_a_view_class_that_calls_another(app, client, issue, view):
    class Resource(MethodView):
        @require_api_key
        def get(self):
            return view()

        @require_api_key(scopes=["write"])
        def post(self):
            return self.get()

        def put(self):
            return self.get()

    app.add_url_rule("/", view_func=Resource.as_view("resource"))
    headers = {"X-API-Key": issue(scopes=["write"]).key}
    assert client.post("/", headers=headers).status_code == 200
    assert client.put("/", headers=headers).status_code == 500


@pytest.mark.parametrize("protected_by", ["blueprint", "decorator above the route"])
def test_view_without_the_decorator_in_front(app, api_keys, client, view, protected_by):
    """The hook alone checks it, by its rule."""
    blueprint = Blueprint("blueprint", __name__)
    blueprint.get("/secret", endpoint="secret")(view)
    app.register_blueprint(blueprint)
    if protected_by == "blueprint":
        api_keys.protect(blueprint)
    else:
        require_api_key(view)
    app.get("/")(losing_names(app.view_functions["blueprint.secret"]))
    assert client.get("/secret").status_code == 401
    assert client.get("/").text == "reached"

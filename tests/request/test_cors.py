"""Preflights of protected views, and CORS headers of refusals, with Flask-CORS and Flask-Caching."""

import functools

import pytest
from flask import Blueprint, Response, make_response, request
from flask.views import MethodView
from flask_caching import Cache
from flask_cors import CORS, cross_origin

from flask_apikey import APIKeyProblem, APIKeys, StorageError, check_api_key, require_api_key

ORIGIN = "https://shop.example"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-api-key"}
ORIGINS = [ORIGIN, "https://admin.example"]
CROSS_ORIGIN = cross_origin(origins=ORIGINS, max_age=60)


def above_the_check(app, view):
    app.get("/")(CROSS_ORIGIN(require_api_key(view)))


def below_the_check(app, view):
    app.get("/")(require_api_key(CROSS_ORIGIN(view)))


def below_a_cache(app, view):
    app.get("/")(Cache(app, config={"CACHE_TYPE": "SimpleCache"}).cached()(CROSS_ORIGIN(require_api_key(view))))


def in_a_protected_blueprint(app, view):
    blueprint = Blueprint("shop", __name__)
    blueprint.get("/")(CROSS_ORIGIN(view))
    app.register_blueprint(blueprint)
    app.extensions["apikey"].extension.protect(blueprint)


def in_a_blueprint_with_its_own_check(app, view):
    blueprint = Blueprint("shop", __name__)
    blueprint.get("/")(CROSS_ORIGIN(require_api_key(view)))
    app.register_blueprint(blueprint)
    app.extensions["apikey"].extension.protect(blueprint, scopes=["read"])


def by_the_view_itself(app, view):
    app.route("/", methods=["GET", "OPTIONS"])(CROSS_ORIGIN(require_api_key(view)))


def on_a_view_class(app, view):
    class Shop(MethodView):
        decorators = (CROSS_ORIGIN,)
        methods = ("GET", "OPTIONS")
        provide_automatic_options = False

        def get(self):
            return view()

        options = get

    app.add_url_rule("/", view_func=require_api_key(Shop).as_view("shop"))


def with_a_view_argument(app, view):
    app.get("/", defaults={"page": 1})(CROSS_ORIGIN(require_api_key(lambda page: view())))


STACKS = [
    above_the_check,
    below_the_check,
    below_a_cache,
    in_a_protected_blueprint,
    in_a_blueprint_with_its_own_check,
    by_the_view_itself,
    on_a_view_class,
    with_a_view_argument,
]


@pytest.fixture
def reached():
    """Entries of the views that ran."""
    return []


@pytest.fixture
def view(reached):
    def view():
        reached.append(request.method)
        return "secret", {"X-Secret": "header", "Set-Cookie": "a=b"}

    return view


@pytest.fixture(params=["before", "after", None])
def shop(request, make_app, view):
    """Make an application with a stack, and with ``CORS(app)`` before or after `APIKeys`, or without it."""

    def shop(add, *, backend=None, **config):
        app = make_app(**config)
        everything = {r"/*": {"origins": "*", "expose_headers": "X-All"}}
        if request.param == "before":
            CORS(app, resources=everything)
        api_keys = APIKeys(app, backend=backend)
        add(app, view)
        if request.param == "after":
            CORS(app, resources=everything)
        with app.app_context():
            api_keys.init_storage()
            return app.test_client(), api_keys.create(name="ci", scopes=["read"]).key

    return shop


def is_for_the_shop(response):
    return response.headers.getlist("Access-Control-Allow-Origin") == [ORIGIN] and "Origin" in response.vary


@pytest.mark.parametrize("add", STACKS)
@pytest.mark.parametrize("protect_all", [False, True])
def test_preflight(shop, reached, add, protect_all):
    client, key = shop(add, APIKEY_PROTECT_ALL=protect_all)
    for _ in range(2):
        response = client.options("/", headers=PREFLIGHT)
        assert (response.status_code, response.data, reached) == (200, b"", [])
        assert is_for_the_shop(response)
        assert "GET" in response.allow
        assert response.headers["Access-Control-Max-Age"] == "60"
        assert "X-Secret" not in response.headers
        # A cache that is above the view has the answer of the next preflight.
        answer = client.get("/", headers={"Origin": ORIGIN, "X-API-Key": key})
        assert (answer.text, is_for_the_shop(answer)) == ("secret", True)
        assert client.get("/").status_code == 401
        reached.clear()


@pytest.mark.parametrize("add", STACKS)
@pytest.mark.parametrize("missing", ["Origin", "Access-Control-Request-Method"])
def test_other_options_need_a_key(shop, reached, add, missing):
    client, _ = shop(add)
    headers = {name: value for name, value in PREFLIGHT.items() if name != missing}
    for more in ({}, {"X-API-Key": "x"}):
        assert client.options("/", headers=headers | more).status_code == 401
    assert client.options("/", headers=PREFLIGHT | {"X-API-Key": "x"}).status_code == 401
    assert reached == []


@pytest.mark.parametrize("add", STACKS)
@pytest.mark.parametrize("has_error_handler", [False, True])
def test_refusals_carry_cors_headers(shop, backend, add, has_error_handler):
    client, key = shop(add, backend=backend)
    if has_error_handler:
        client.application.register_error_handler(APIKeyProblem, lambda exc: make_response({}, exc.code))
    with client.application.app_context():
        weak = client.application.extensions["apikey"].extension.create(name="weak", denied_ips=["127.0.0.1"])
    for presented, status in ((None, 401), ("x", 401), (weak.key, 403)):
        headers = {"Origin": ORIGIN} | ({} if presented is None else {"X-API-Key": presented})
        response = client.get("/", headers=headers)
        assert (response.status_code, is_for_the_shop(response)) == (status, True)
        assert "Access-Control-Expose-Headers" not in response.headers
    backend.failure = StorageError("down")
    response = client.get("/", headers={"Origin": ORIGIN, "X-API-Key": key})
    assert (response.status_code, is_for_the_shop(response)) == (503, True)
    other = client.get("/", headers={"Origin": "https://other.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_application_wide_cors(make_app, view, reached):
    app = make_app(APIKEY_PROTECT_ALL=True)
    APIKeys(app)
    CORS(app, origins=ORIGINS)
    app.get("/")(view)
    client = app.test_client()
    response = client.options("/", headers=PREFLIGHT)
    assert (response.status_code, is_for_the_shop(response), reached) == (200, True, [])
    response = client.get("/", headers={"Origin": ORIGIN})
    assert (response.status_code, is_for_the_shop(response)) == (401, True)


def test_blueprint_wide_cors(make_app, view):
    app = make_app()
    APIKeys(app)
    blueprint = Blueprint("shop", __name__)
    CORS(blueprint, origins=ORIGINS)
    blueprint.get("/")(require_api_key(view))
    app.register_blueprint(blueprint)
    assert is_for_the_shop(app.test_client().options("/", headers=PREFLIGHT))
    assert is_for_the_shop(app.test_client().get("/", headers={"Origin": ORIGIN}))


def test_refusal_inside_the_view(shop):
    def add(app, view):
        @app.get("/")
        @CROSS_ORIGIN
        @require_api_key
        def books():
            check_api_key(scopes=["write"])

    client, key = shop(add)
    response = client.get("/", headers={"Origin": ORIGIN, "X-API-Key": key})
    assert (response.status_code, is_for_the_shop(response)) == (403, True)


def own_view(app, view):
    app.route("/", methods=["GET", "OPTIONS"])(require_api_key(view))


def own_view_marked_later(app, view):
    app.route("/", methods=["GET", "OPTIONS"])(view)
    require_api_key(view)


def own_view_in_a_protected_blueprint(app, view):
    blueprint = Blueprint("shop", __name__)
    blueprint.route("/", methods=["GET", "OPTIONS"])(view)
    app.register_blueprint(blueprint)
    app.extensions["apikey"].extension.protect(blueprint)


def own_method(app, view):
    class Shop(MethodView):
        @require_api_key
        def options(self):
            return view()

        get = options

    app.add_url_rule("/", view_func=Shop.as_view("shop"))


def own_method_of_a_protected_class(app, view):
    class Shop(MethodView):
        def options(self):
            return view()

        get = options

    app.add_url_rule("/", view_func=require_api_key(Shop).as_view("shop"))


def below_an_open_decorator(app, view):
    @functools.wraps(guarded := require_api_key(view))
    def outer():
        return guarded()

    app.route("/", methods=["GET", "OPTIONS"])(outer)


def with_an_optional_key_in_a_protected_blueprint(app, view):
    own_view_in_a_protected_blueprint(app, require_api_key(optional=True)(view))


@pytest.mark.parametrize(
    "add",
    [
        own_view,
        own_view_marked_later,
        own_view_in_a_protected_blueprint,
        own_method,
        own_method_of_a_protected_class,
        below_an_open_decorator,
        with_an_optional_key_in_a_protected_blueprint,
    ],
)
def test_view_that_answers_options_never_runs_for_a_preflight(shop, reached, add):
    client, key = shop(add)
    response = client.options("/", headers=PREFLIGHT)
    assert (response.status_code, reached) == (401, [])
    assert client.options("/", headers=PREFLIGHT | {"X-API-Key": key}).text == "secret"


def hand_written_cors(view):
    @functools.wraps(view)
    def wrapper(*args, **kwargs):
        response = Response() if request.method == "OPTIONS" else make_response(view(*args, **kwargs))
        response.headers["Access-Control-Allow-Origin"] = ORIGIN
        return response

    return wrapper


def test_hand_written_cors(shop, reached):
    def add(app, view):
        app.route("/", methods=["GET", "OPTIONS"])(hand_written_cors(require_api_key(view)))

    client, _ = shop(add)
    response = client.options("/", headers=PREFLIGHT)
    assert (response.status_code, response.headers["Access-Control-Allow-Origin"], reached) == (200, ORIGIN, [])
    assert client.get("/", headers={"Origin": ORIGIN}).status_code == 401


@pytest.mark.parametrize("status", [200, 302, 404, 500])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_cache_above_the_view_reveals_nothing(shop, status, is_streamed):
    closed = []

    class Stream:
        def __iter__(self):
            yield b"secret"

        def close(self):
            closed.append(True)

    def add(app, view):
        @functools.wraps(guarded := require_api_key(view))
        def cached():
            return Response(
                Stream() if is_streamed else "secret",
                status,
                {"Location": "/secret", "ETag": "secret", "Set-Cookie": "secret", "vary": "Accept", "ALLOW": "GET"},
            )

        assert guarded
        app.route("/", methods=["GET", "OPTIONS"])(cached)

    client, _ = shop(add)
    with client.options("/", headers=PREFLIGHT) as response:
        assert "secret" not in response.text + str(response.headers)
        assert "Accept" in response.vary
        assert "GET" in response.allow
        assert response.status_code == (status if status >= 400 else 200)
    assert closed == [True] * is_streamed

"""Functions that an application registers around requests, before and after `APIKeys`."""

import gc
from weakref import ref

import pytest
from flask import Blueprint, Response, redirect, request
from flask.globals import request_ctx
from flask.views import MethodView

from flask_apikey import APIKeys, api_key_exempt, require_api_key
from flask_apikey.problems import APIKeyProblem
from flask_apikey.signals import api_key_exposed
from tests.support.diagnosis import details, findings

HTTPS = "https://localhost"


@pytest.fixture(params=["before", "after"])
def register(request, make_app):
    """Make an application that registers its functions before or after `APIKeys`, and a key."""

    def register(add):
        app = make_app(TESTING=False)
        if request.param == "before":
            add(app)
        api_keys = APIKeys(app)
        if request.param == "after":
            add(app)
        app.get("/")(require_api_key(lambda: "view"))
        with app.app_context():
            api_keys.init_storage()
            return app, api_keys.create(name="ci").key

    return register


def by_the_application(app, function):
    app.before_request(function)


def by_a_blueprint(app, function):
    blueprint = Blueprint("pages", __name__)
    blueprint.before_app_request(function)
    app.register_blueprint(blueprint)


@pytest.mark.parametrize("add", [by_the_application, by_a_blueprint])
def test_check_precedes_every_answer(register, add):
    app, key = register(lambda app: add(app, lambda: "cached"))
    client = app.test_client()
    assert client.get("/", base_url=HTTPS).status_code == 401
    assert client.get("/", base_url=HTTPS, headers={"X-API-Key": "x"}).status_code == 401
    assert client.get("/", base_url=HTTPS, headers={"X-API-Key": key}).text == "cached"


def test_exposure_precedes_a_redirect(register):
    app, key = register(lambda app: app.before_request(lambda: redirect(HTTPS)))
    exposed = []
    with (
        api_key_exposed.connected_to(lambda _, key: exposed.append(key.id)),
        app.test_client().get("/", headers={"X-API-Key": key}) as response,
    ):
        assert response.json["code"] == "https_required"
    assert len(exposed) == 1


def test_vary_beside_a_public_answer(register):
    def make_public(response):
        response.headers.update({"Cache-Control": "public, max-age=600", "Vary": "Accept"})
        return response

    app, key = register(lambda app: app.after_request(make_public))
    for headers in ({}, {"X-API-Key": key}):
        response = app.test_client().get("/", base_url=HTTPS, headers=headers)
        assert set(response.vary) == {"Accept", "Authorization", "X-API-Key"}


def test_doctor_names_functions_in_front(register):
    def intruder(response=None):
        return response

    app, _ = register(lambda app: app.before_request(lambda: None))
    assert "hooks_before_check" not in findings(app)
    app.before_request_funcs[None].insert(0, Response)
    app.after_request_funcs[None].insert(0, intruder)
    found = findings(app)["hooks_before_check"]
    assert [name.rpartition(".")[2] for (name,) in details(found, "function")] == ["Response", "intruder"]


class Shelf(MethodView):
    def get(self):
        return "book"

    def delete(self):
        return "deleted"


def by_its_method():
    request.method = request.headers.get("X-HTTP-Method-Override", request.method)


def by_its_path():
    if request.path.startswith("/en/"):
        rule_and_arguments = request_ctx.url_adapter.match(request.path[3:], "DELETE", return_rule=True)
        request.url_rule, request.view_args = rule_and_arguments
        request.method, request.routing_exception = "DELETE", None


@pytest.mark.parametrize("change", [by_its_method, by_its_path])
@pytest.mark.parametrize("protect_all", [False, True])
def test_view_that_another_function_chooses(make_app, change, protect_all):
    app = make_app(APIKEY_PROTECT_ALL=protect_all)
    api_keys = APIKeys(app)
    shelves = Blueprint("shelves", __name__)
    shelves.add_url_rule("/shelf", view_func=Shelf.as_view("shelf"))
    api_keys.protect(shelves, scopes=["write"])
    app.register_blueprint(shelves)
    app.get("/en/<path:path>")(api_key_exempt(lambda path: path))
    app.before_request(change)
    with app.app_context():
        api_keys.init_storage()
        weak, strong = (api_keys.create(name="ci", scopes=scopes).key for scopes in ([], ["write"]))
    for key, status in ((None, 401), ("x", 401), (weak, 403), (strong, 200)):
        headers = {"X-HTTP-Method-Override": "DELETE"} | ({} if key is None else {"X-API-Key": key})
        path = "/shelf" if change is by_its_method else "/en/shelf"
        for method in ("OPTIONS", "GET"):
            if path == "/en/shelf" and method == "OPTIONS":
                continue
            response = app.test_client().open(path, method=method, headers=headers)
            assert (response.status_code, response.text == "deleted") == (status, status == 200)


@pytest.mark.parametrize("name", ["CDN-Cache-Control", "Surrogate-Control", "X-Accel-Expires"])
@pytest.mark.parametrize("others", [{}, {"Cache-Control": "no-store"}])
def test_vary_beside_a_header_for_one_cache(make_app, name, others):
    app = make_app()
    api_keys = APIKeys(app)
    app.get("/")(require_api_key(lambda: ("books", {name: "max-age=600", **others})))
    with app.app_context():
        api_keys.init_storage()
        key = api_keys.create(name="ci").key
    response = app.test_client().get("/", headers={"X-API-Key": key})
    assert set(response.vary) == {"Authorization", "X-API-Key"}
    assert response.headers.getlist("Cache-Control") == ["no-store"]


def test_error_handler_that_returns_nothing(make_app):
    app = make_app(TESTING=False, APIKEY_PROTECT_ALL=True)
    APIKeys(app)
    reached = []
    app.add_url_rule("/guarded", view_func=lambda: reached.append(True) or "reached")
    app.register_error_handler(APIKeyProblem, lambda problem: None)
    assert app.test_client().get("/guarded", base_url=HTTPS).status_code == 500
    assert not reached


def test_refused_request_is_freed_at_once(make_app):
    app = make_app(APIKEY_PROTECT_ALL=True)
    APIKeys(app)
    app.add_url_rule("/", view_func=lambda: "view")
    problems = []
    app.register_error_handler(
        APIKeyProblem, lambda problem: problems.append(ref(problem)) or ("refused", problem.code)
    )
    gc.disable()
    try:
        assert app.test_client().get("/", base_url=HTTPS).status_code == 401
        assert [problem() for problem in problems] == [None]
    finally:
        gc.enable()

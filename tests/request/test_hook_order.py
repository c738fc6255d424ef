"""Functions that an application registers around requests, before and after `APIKeys`."""

import pytest
from flask import Blueprint, Response, redirect

from flask_apikey import APIKeys, require_api_key
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

"""Descriptions in OpenAPI, changed by `flask_apikey.openapi.document`."""

import pytest
from flask import Blueprint, Flask
from openapi_spec_validator import validate

from flask_apikey import APIKeys, InvalidValue, api_key_exempt, require_api_key
from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.openapi import document

SCHEMES = ["Authorization.Api-Key", "Authorization.Bearer", "X-API-Key"]


def new_view():
    return lambda **variables: "shown"


def answered():
    return {"200": {"description": "OK"}}


@pytest.fixture
def app():
    app = Flask("described")
    app.config.update(APIKEY_FERNET_KEY=generate_fernet_key(), APIKEY_STORAGE_URI="sqlite:///:memory:")
    APIKeys(app)
    return app


def described(app, paths, **parts):
    spec = {"openapi": "3.1.0", "info": {"title": "Reports", "version": "1"}, "paths": paths, **parts}
    assert document(spec, app) is spec
    validate(spec)
    return spec


def security_of(app, decorator, operation=None, **parts):
    app.get("/", endpoint="view")(decorator(new_view()))
    paths = {"/": {"get": {"responses": answered()} if operation is None else operation}}
    return described(app, paths, **parts)["paths"]["/"]["get"]["security"]


def test_scopes_of_a_view_are_listed(app):
    security = security_of(app, require_api_key(scopes=["b", "a"]))
    assert security == [{scheme: ["a", "b"]} for scheme in SCHEMES]


def test_each_alternative_scope_suffices(app):
    security = security_of(app, require_api_key(scopes=["a"], any_scope=["c", "b"]))
    assert security == [{scheme: ["a", other]} for other in "bc" for scheme in SCHEMES]


def test_optional_key_may_be_left_out(app):
    security = security_of(app, require_api_key(optional=True))
    assert security == [*({scheme: []} for scheme in SCHEMES), {}]


def test_other_credentials_are_needed_too(app):
    parts = {"components": {"securitySchemes": {"login": {"type": "http", "scheme": "basic"}}}}
    operation = {"responses": answered(), "security": [{"login": []}]}
    security = security_of(app, require_api_key(), operation, **parts)
    assert security == [{"login": [], scheme: []} for scheme in SCHEMES]


def test_common_credentials_are_needed_too(app):
    parts = {"components": {"securitySchemes": {"login": {"type": "http", "scheme": "basic"}}}}
    security = security_of(app, require_api_key(), security=[{"login": []}], **parts)
    assert security == [{"login": [], scheme: []} for scheme in SCHEMES]


def test_second_call_changes_nothing(app):
    app.get("/")(require_api_key(optional=True, scopes=["a"])(new_view()))
    login = {"security": [{"login": []}]}
    parts = {"components": {"securitySchemes": {"login": {"type": "http", "scheme": "basic"}}}}
    once: dict = described(app, {"/": {"get": {"responses": answered(), **login}}}, **parts)
    twice: dict = described(app, {"/": {"get": {"responses": answered(), **login}}}, **parts)
    assert document(twice, app) == once


def test_own_responses_are_kept(app):
    app.get("/")(require_api_key(new_view()))
    own: dict = {401: {"description": "mine"}, "403": {"description": "mine"}}
    document({"openapi": "3.1.0", "paths": {"/": {"get": {"responses": own}}}}, app)
    assert [own[401], own["403"]] == [{"description": "mine"}] * 2
    assert set(own) == {401, "403", "429", "503"}


def test_refusals_are_problem_documents(app):
    app.get("/")(require_api_key(new_view()))
    spec = described(app, {"/": {"get": {"responses": answered()}}})
    responses = spec["components"]["responses"]
    assert "`missing_key`" in responses["APIKeyProblem401"]["description"]
    assert "WWW-Authenticate" in responses["APIKeyProblem401"]["headers"]
    assert "Retry-After" in responses["APIKeyProblem429"]["headers"]
    assert responses["APIKeyProblem503"]["content"].keys() == {"application/problem+json"}


def test_accepted_headers_are_the_schemes():
    app = Flask("own_headers")
    app.config.update(APIKEY_FERNET_KEY=generate_fernet_key(), APIKEY_STORAGE_URI="sqlite:///:memory:")
    app.config["APIKEY_ACCEPT"] = ("X-Acme-Key", "Authorization: Token")
    APIKeys(app)
    app.get("/")(require_api_key(new_view()))
    spec = described(app, {"/": {"get": {"responses": answered()}}})
    assert spec["components"]["securitySchemes"] == {
        "Authorization.Token": {"type": "http", "scheme": "Token"},
        "X-Acme-Key": {"type": "apiKey", "in": "header", "name": "X-Acme-Key"},
    }


def test_protection_of_blueprints_and_of_the_application_counts(app):
    app.config["APIKEY_PROTECT_ALL"] = True
    app.extensions.clear()
    api_keys = APIKeys(app)
    blueprint = Blueprint("things", "things", url_prefix="/things")
    api_keys.protect(blueprint, scopes=["things"])
    blueprint.get("/<uuid:thing>")(new_view())
    app.register_blueprint(blueprint)
    app.get("/open", endpoint="open")(api_key_exempt(lambda: ""))
    app.get("/closed", endpoint="closed")(lambda: "")
    variable = {"name": "thing", "in": "path", "required": True, "schema": {"type": "string"}}
    paths = {
        "/things/{thing}": {"parameters": [variable], "get": {"responses": answered()}},
        "/open": {"get": {"responses": answered()}},
        "/closed": {"get": {"responses": answered()}},
    }
    found = described(app, paths)["paths"]
    assert found["/things/{thing}"]["get"]["security"][0] == {"Authorization.Api-Key": ["things"]}
    assert "security" not in found["/open"]["get"]
    assert found["/closed"]["get"]["security"][0] == {"Authorization.Api-Key": []}


def test_description_without_protected_views_stays_as_it_is(app):
    app.get("/")(new_view())
    spec = described(app, {"/": {"get": {"responses": answered()}}})
    assert "components" not in spec


@pytest.mark.parametrize("spec", [None, "openapi: 3.1.0", [], {}, {"paths": {}}], ids=repr)
def test_other_values_are_refused(app, spec):
    with pytest.raises(InvalidValue, match="'openapi' or 'swagger'"):
        document(spec, app)


def test_application_without_api_keys_is_refused():
    with pytest.raises(ConfigurationError, match="init_app"):
        document({"openapi": "3.1.0", "paths": {}}, Flask("other"))

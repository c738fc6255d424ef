"""``APIKEY_ACCEPT`` over HTTP."""

import io
import logging

import pytest
from flask import request
from werkzeug.test import create_environ

from flask_apikey import APIKeys, ConfigurationError, require_api_key
from flask_apikey.core.keys.key_headers import KeyHeaders
from flask_apikey.logs import RedactKeys
from flask_apikey.request.cors import is_preflight
from flask_apikey.testing import APIKeyClient

JWT = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"
ACCEPT = ["Authorization: Token", "Authorization: Bearer", "X-Acme-Key"]


@pytest.fixture
def app(make_app):
    app = make_app(APIKEY_ACCEPT=ACCEPT)

    @app.get("/")
    @require_api_key(scopes=["read"])
    def view():
        return {"open": True}, {"Cache-Control": "private"}

    @app.get("/tokens")
    @require_api_key(optional=True)
    def tokens():
        return {"token": request.headers.get("Authorization")}

    return app


@pytest.fixture
def key(issue):
    return issue(scopes=["read"]).key


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": "Token {key}"}, None),
        ({"Authorization": "bearer {key}"}, None),
        ({"X-Acme-Key": "{key}"}, None),
        ({"X-Acme-Key": "{key}", "X-API-Key": "{key}"}, None),
        ({"Authorization": f"Bearer {JWT}", "X-Acme-Key": "{key}"}, None),
        ({"Authorization": "Api-Key {key}"}, "missing_key"),
        ({"X-API-Key": "{key}"}, "missing_key"),
        ({"Authorization": f"Bearer {JWT}"}, "missing_key"),
        ({"Authorization": f"Token {JWT}"}, "invalid_key"),
        ({"Authorization": "Token {key}", "X-Acme-Key": "{key}"}, "invalid_key"),
        ({"X-Acme-Key": "{key},{key}"}, "invalid_key"),
    ],
)
def test_where_a_key_is_read(client, key, headers, code):
    answer = client.get("/", headers={name: value.format(key=key) for name, value in headers.items()})
    assert answer.json.get("code") == code


def test_answers_name_the_setting(client, key, issue):
    missing = client.get("/")
    assert missing.headers["WWW-Authenticate"] == "Token"
    assert missing.json["detail"] == (
        "Send a key as 'Authorization: Token <key>', as 'Authorization: Bearer <key>' or as 'X-Acme-Key: <key>'."
    )
    invalid = client.get("/", headers={"X-Acme-Key": "x"})
    assert invalid.headers["WWW-Authenticate"] == "Token error=invalid_key"
    narrow = client.get("/", headers={"X-Acme-Key": issue().key})
    assert narrow.headers["WWW-Authenticate"] == "Token error=insufficient_scope, scope=read"
    accepted = client.get("/", headers={"X-Acme-Key": key})
    assert set(accepted.vary) == {"Authorization", "X-Acme-Key"}


def test_jwt_of_the_application_passes(client):
    answer = client.get("/tokens", headers={"Authorization": f"Bearer {JWT}"})
    assert answer.json == {"token": f"Bearer {JWT}"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [({}, True), ({"X-API-Key": "x"}, True), ({"X-Acme-Key": "x"}, False), ({"Authorization": "x"}, False)],
)
def test_preflight_has_no_key(app, headers, expected):
    preflight = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    with app.test_request_context(method="OPTIONS", headers={**preflight, **headers}):
        assert is_preflight(request, KeyHeaders(ACCEPT)) is expected


class Recorded:
    def __init__(self):
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.addFilter(RedactKeys())

    def __call__(self, message, *args):
        logger = logging.getLogger("an.application")
        logger.addHandler(self.handler)
        logger.warning(message, *args)
        logger.removeHandler(self.handler)
        return self.stream.getvalue()


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    "presented",
    [
        {"X-Acme-Key": "hunter2hunter2"},
        {"Authorization": "Token hunter2hunter2"},
        [("x-acme-key", "hunter2hunter2")],
        {"HTTP_X_ACME_KEY": "hunter2hunter2"},
        "X-Acme-Key: hunter2hunter2",
        '{\\"X-Acme-Key\\": \\"hunter2hunter2\\"}',
        "curl -H 'authorization:Token  hunter2hunter2' http://localhost",
    ],
)
def test_values_of_the_headers_are_redacted(presented):
    written = Recorded()("got %s", presented)
    assert "hunter2" not in written
    assert "[redacted]" in written
    # structlog passes values by name.
    assert "hunter2" not in str(RedactKeys()(None, "info", {"event": "request", "headers": presented}))


@pytest.mark.usefixtures("client")
def test_example_and_id_are_not_redacted(key):
    written = Recorded()("Send 'X-Acme-Key: <key>' and not 'X-Acme-Key: %s'", key)
    assert "'X-Acme-Key: <key>'" in written
    assert f"{key[:21]}[redacted]" in written


@pytest.mark.parametrize("accept", [ACCEPT, ["X-Acme-Key"], ["Authorization: Bearer"], None])
def test_client_sends_an_accepted_header(make_app, accept, clock):
    app = make_app(**({} if accept is None else {"APIKEY_ACCEPT": accept}))
    api_keys = APIKeys(app, clock=clock)
    app.get("/")(require_api_key(lambda: {"open": True}))
    with app.app_context():
        key = api_keys.create(name="ci").key
    client = app.test_client(api_key=key)
    assert isinstance(client, APIKeyClient)
    assert client.get("/").status_code == 200
    assert client.open(create_environ("/")).status_code == 200


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("X-API-Key", "must be a list of headers, not str; in the environment: '[\"X-API-Key\"]'"),
        ([1], "must hold text only, not int"),
        ([], "must name at least one header, such as 'X-API-Key'"),
        (["Authorization: Basic"], "the credentials of 'Authorization: Basic' are not a key: choose another scheme"),
    ],
)
def test_refused_setting(make_app, value, problem):
    with pytest.raises(ConfigurationError) as refused:
        APIKeys(make_app(APIKEY_ACCEPT=value))
    assert str(refused.value) == f"APIKEY_ACCEPT: {problem}"

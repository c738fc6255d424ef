"""Test your own application: a client with a key, and a clock that you set."""

from datetime import timedelta

import pytest
from flask import Flask

from flask_apikey import APIKeys, generate_fernet_key, require_api_key
from flask_apikey.testing import APIKeyClient, FrozenClock


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture
def app(clock):
    app = Flask(__name__)
    app.config.update(TESTING=True, APIKEY_FERNET_KEY=generate_fernet_key(), APIKEY_STORAGE_URI="sqlite:///:memory:")
    app.test_client_class = APIKeyClient
    app.add_url_rule("/reports", view_func=require_api_key(scopes=["reports:read"])(lambda: {"reports": []}))
    app.api_keys = APIKeys(app, clock=clock)
    with app.app_context():
        yield app


def test_a_key_needs_its_scope(app):
    reader, other = (app.api_keys.create(name="ci", scopes=scopes).key for scopes in (["reports:read"], []))
    assert app.test_client(api_key=reader).get("/reports").status_code == 200
    assert app.test_client(api_key=other).get("/reports").json["code"] == "insufficient_scope"
    assert app.test_client().get("/reports").json["code"] == "missing_key"


def test_a_key_expires(app, clock):
    client = app.test_client(api_key=app.api_keys.create(name="ci", scopes=["reports:read"], lifetime="30d").key)
    clock.advance(timedelta(days=30))
    assert client.get("/reports").json["code"] == "key_expired"

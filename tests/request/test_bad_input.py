"""Keys that are almost right."""

import json
import logging

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_apikey import APIKeys, require_api_key
from flask_apikey.core.model import keystring
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey_sql import SQLBackend
from tests.conftest import WatchedBackend


class Service:
    """A protected application, called as a server calls it: with raw header values."""

    def __init__(self):
        self.app = Flask("service")
        self.app.config.update(
            APIKEY_FERNET_KEY=generate_fernet_key(), APIKEY_MIN_FAILURE_TIME=0, APIKEY_FAILURE_LIMIT=None, TESTING=True
        )
        self.backend = WatchedBackend(SQLBackend("sqlite:///:memory:"))
        self.api_keys = APIKeys(self.app, backend=self.backend)
        self.reached = 0
        self.app.get("/")(require_api_key(self.view))
        with self.app.app_context():
            self.issued = self.api_keys.create(name="ci")
            self.other = self.api_keys.create(name="other")

    def view(self):
        self.reached += 1
        return "reached"

    def get(self, **headers):
        self.backend.looked_up.clear()
        self.reached = 0
        environ = {f"HTTP_{name}": value.decode("latin-1") for name, value in headers.items() if value is not None}
        return self.app.test_client().get("/", environ_overrides=environ)


@pytest.fixture(scope="module")
def service():
    service = Service()
    yield service
    service.backend.close()


@pytest.fixture
def assert_refused(service, caplog):
    """Fails unless the headers are answered by a 401 problem that shows and logs nothing of them."""
    caplog.set_level(logging.DEBUG)

    def check(*, looked_up, **headers):
        caplog.clear()
        response = service.get(**headers)
        assert response.status_code == 401
        assert response.content_type == "application/problem+json"
        assert json.loads(response.data)["code"] in ("missing_key", "invalid_key")
        assert response.www_authenticate.type == "api-key"
        assert service.reached == 0
        assert len(service.backend.looked_up) == looked_up
        reasons = {"unknown", "wrong_secret"} if looked_up else {"malformed"}
        assert {(record.event, record.reason, record.key_id is not None) for record in caplog.records} <= {
            ("authentication", reason, bool(looked_up)) for reason in reasons
        }

    return check


fixtures_are_shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

secrets = st.text(
    st.sampled_from(keystring.ALPHABET), min_size=keystring.SECRET_LENGTH, max_size=keystring.SECRET_LENGTH
)


@fixtures_are_shared
@given(data=st.data())
def test_mutated_key_with_checksum(service, assert_refused, data):
    body = service.issued.key[: -keystring.CHECKSUM_LENGTH]
    position = data.draw(st.integers(0, len(body) - 1).filter(lambda position: body[position] != "_"))
    other = data.draw(st.sampled_from(keystring.ALPHABET).filter(lambda character: character != body[position]))
    body = body[:position] + other + body[position + 1 :]
    assert_refused(X_API_KEY=(body + keystring.checksum(body)).encode(), looked_up=1)


@fixtures_are_shared
@given(
    prefix=st.sampled_from(["fak", "acme", "x" * 32]),
    secret=secrets,
)
def test_forged_secret(service, assert_refused, prefix, secret):
    body = f"{prefix}_{service.issued.record.id}_{secret}"
    assert_refused(X_API_KEY=(body + keystring.checksum(body)).encode(), looked_up=1)


def test_parts_of_two_keys(service, assert_refused):
    ids = [service.issued.record.id, service.other.record.id]
    own = [each.key.split("_")[-1][: keystring.SECRET_LENGTH] for each in (service.issued, service.other)]
    for key_id, secret in zip(ids, reversed(own), strict=True):
        body = f"fak_{key_id}_{secret}"
        assert_refused(X_API_KEY=(body + keystring.checksum(body)).encode(), looked_up=1)


@pytest.mark.parametrize(
    "form",
    [
        "{0},{0}",
        "{0}, {0}",
        "{0} {0}",
        "{0};",
        '"{0}"',
        "Api-Key {0}",
        "key={0}",
        "{0}\0",
        "{0}\n",
        "\x0b{0}",
        "{0}\xa0",
        "\xff{0}",
        "{0}%00",
        "<{0}>",
    ],
)
def test_genuine_key_in_another_form(service, assert_refused, form):
    value = form.format(service.issued.key).encode("latin-1")
    assert_refused(X_API_KEY=value, looked_up=0)
    assert_refused(AUTHORIZATION=b"Api-Key " + value, looked_up=0)


def test_genuine_key_in_repeated_headers(service):
    key = service.issued.key
    response = service.app.test_client().get("/", headers=[("X-API-Key", key), ("X-API-Key", key)])
    assert response.status_code == 401
    authorization = ("Authorization", f"Api-Key {key}")
    assert service.app.test_client().get("/", headers=[authorization, authorization]).status_code == 401


def test_genuine_key(service):
    # The counterpart of every refusal here.
    key = service.issued.key.encode()
    for headers in ({"X_API_KEY": key}, {"AUTHORIZATION": b"Api-Key " + key}, {"AUTHORIZATION": b"bearer " + key}):
        assert service.get(**headers).status_code == 200
        assert len(service.backend.looked_up) == 1

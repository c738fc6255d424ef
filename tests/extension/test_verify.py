"""Verification outside of a request, and other arguments."""

import re
from datetime import timedelta

import pytest

from flask_apikey import (
    APIKeyError,
    InvalidValue,
    check_api_key,
)
from flask_apikey.core.keys.authenticator import Verdict
from tests.extension.views import add_view


class TestVerify:
    @pytest.mark.parametrize("text", ["", "nonsense", "x" * 100_000, "é", "\ud800", "\0"])
    def test_malformed_key(self, app, api_keys, text):
        with app.app_context():
            assert api_keys.verify(text).verdict is Verdict.MALFORMED

    def test_key_of_another_type(self, app, api_keys):
        with app.app_context(), pytest.raises(InvalidValue, match="key must be a str, not bytes"):
            api_keys.verify(b"fak_")

    @pytest.mark.parametrize("wrong", [5, b"10.0.0.1", "", "nowhere", "10.0.0.0/8", "10.0.0.1:80", "1" * 10_000])
    def test_invalid_address(self, app, api_keys, issue, wrong):
        key = issue().key
        with app.app_context(), pytest.raises(InvalidValue, match="address must be an IP address, not"):
            api_keys.verify(key, address=wrong)

    def test_address(self, app, api_keys, issue):
        issued = issue(allowed_ips=["10.0.0.0/8"])
        with app.app_context():
            decision = api_keys.verify(issued.key, address="10.1.2.3")
            assert decision.accepted
            assert decision.key == issued.record
            assert api_keys.verify(issued.key, address="192.0.2.1").verdict is Verdict.ADDRESS_REFUSED
            assert api_keys.verify(issued.key).verdict is Verdict.ADDRESS_REFUSED
            assert api_keys.verify(issued.key[:-1]).verdict is Verdict.MALFORMED


def test_durations_as_text(app, api_keys, issue, clock):
    issued = issue(lifetime="90d")
    assert issued.record.expires_at == clock() + timedelta(days=90)
    with app.app_context():
        rolled = api_keys.roll(issued.record.id, grace="1h")
        assert rolled.record.previous_secrets_expire_at == (clock() + timedelta(hours=1),)
        assert list(api_keys.list(expiring_within="13w")) == [rolled.record]
        assert list(api_keys.list(expiring_within="12w")) == []
        clock.advance(timedelta(minutes=30))
        assert api_keys.finish_roll(issued.record.id, unused_for="30m").ended == 1
        with pytest.raises(InvalidValue, match="lifetime: expected a whole number and a unit"):
            api_keys.create(name="ci", lifetime="90")


def test_missing_key_answer_names_each_header(app, client, issue):
    add_view(app)
    issued = issue()
    ways = re.findall(r"'([\w-]+): ([^']*)<key>'", client.get("/").json["detail"])
    assert len(ways) == 3
    for header, scheme in ways:
        assert client.get("/", headers={header: scheme + issued.key}).status_code == 200


@pytest.mark.parametrize(
    "call",
    [
        lambda api_keys, key: api_keys.create(name="ci", scopes=[f"{key} "]),
        lambda api_keys, key: api_keys.create(name="ci", allowed_ips=[key]),
        lambda api_keys, key: api_keys.create(name="ci", lifetime=key),
        lambda api_keys, key: api_keys.create_many([{"name": "ci", "scopes": [f"{key} "]}]),
        lambda api_keys, key: api_keys.get(key),
        lambda api_keys, key: api_keys.list(status=key),
        lambda api_keys, key: api_keys.usage(by=key),
        lambda api_keys, key: check_api_key(scopes=[f"{key} "]),
    ],
)
def test_error_shows_no_key_that_was_passed_by_mistake(app, api_keys, issue, call):
    with app.app_context():
        api_keys.init_storage()
        key = issue().key
        with pytest.raises(APIKeyError) as caught:
            call(api_keys, key)
    assert key[-40:] not in f"{caught.value!r} {caught.value}"

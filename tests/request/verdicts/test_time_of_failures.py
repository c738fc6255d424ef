"""Delays of refusals."""

import pytest

from tests.request.verdicts.attempts import (
    Scene,
    address_denied,
    expired,
    malformed,
    no_key,
    revoked,
    unknown,
    wrong_secret,
)


class TestTimeOfFailures:
    """Delays of refusals, measured as the arguments of `time.sleep`."""

    @pytest.fixture
    def waits(self, monkeypatch):
        waits = []
        monkeypatch.setattr("flask_apikey.request.hooks.time.sleep", waits.append)
        return waits

    @pytest.fixture
    def scene(self, make_app, backend, clock):
        return Scene(make_app(APIKEY_MIN_FAILURE_TIME="1s"), backend, clock)

    @pytest.mark.parametrize("attempt", [malformed, unknown, wrong_secret, revoked, expired, address_denied])
    def test_refused_key(self, scene, waits, attempt):
        attempt(scene)
        (wait,) = waits
        assert 0 < wait <= 1

    def test_no_delay_without_a_refused_key(self, scene, waits):
        assert scene.get(scene.issue().key).status_code == 200
        no_key(scene)
        assert waits == []

    def test_zero(self, make_app, backend, clock, waits):
        malformed(Scene(make_app(APIKEY_MIN_FAILURE_TIME=0), backend, clock))
        assert waits == []

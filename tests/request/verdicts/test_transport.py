"""Plain HTTP and HTTPS."""

import pytest

from tests.request.verdicts.attempts import PLAIN, SECURE, Scene, another_secret


class TestTransport:
    @pytest.fixture(autouse=True)
    def _production(self, scene):
        scene.app.testing = False

    def test_same_refusal_without_a_look_up(self, scene):
        good, revoked_key = scene.issue(), scene.issue()
        scene.revoke(revoked_key)
        scene.backend.looked_up.clear()
        responses = [
            scene.get(good.key),
            scene.get(Authorization=f"Api-Key {good.key}"),
            scene.get(Authorization=f"Bearer {good.key}"),
            scene.get(revoked_key.key),
            scene.get(another_secret(good)),
            scene.get("nonsense"),
            scene.get(""),
            scene.get("x" * 5000),
            scene.get(Authorization="Basic dTpw"),
            scene.get(),
        ]
        assert {(r.status, r.data, str(r.headers)) for r in responses} == {
            (responses[0].status, responses[0].data, str(responses[0].headers))
        }
        assert responses[0].json["code"] == "https_required"
        assert scene.backend.looked_up == []

    @pytest.mark.parametrize("reason", ["https", "debug", "testing"])
    def test_allowed_transport(self, scene, reason):
        if reason != "https":
            setattr(scene.app, reason, True)
        key = scene.issue().key
        assert scene.get(key, base_url=SECURE if reason == "https" else PLAIN).status_code == 200

    def test_forwarding_headers(self, scene):
        headers = {"X-Forwarded-Proto": "https", "Forwarded": "proto=https", "X-Forwarded-Ssl": "on"}
        assert scene.get(scene.issue().key, **headers).json["code"] == "https_required"


@pytest.mark.parametrize("relaxed", ["TESTING", "DEBUG"])
def test_https_enforced_while_testing(make_app, backend, clock, relaxed):
    scene = Scene(make_app(APIKEY_ENFORCE_HTTPS=True, **{"TESTING": False, relaxed: True}), backend, clock)
    assert scene.get(scene.issue().key).json["code"] == "https_required"


def test_plain_http_allowed(make_app, backend, clock):
    scene = Scene(make_app(APIKEY_ENFORCE_HTTPS=False, TESTING=False), backend, clock)
    assert scene.get(scene.issue().key).status_code == 200

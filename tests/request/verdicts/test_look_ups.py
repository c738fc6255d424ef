"""Look-ups in the storage."""

import pytest

from flask_apikey import require_api_key
from tests.request.verdicts.attempts import (
    address_denied,
    another_scheme,
    conflicting,
    empty,
    expired,
    malformed,
    no_key,
    revoked,
    scope_missing,
    unknown,
    wrong_secret,
)


class TestLookUps:
    def test_one_look_up_per_request(self, scene):
        scene.app.get("/twice", endpoint="twice")(require_api_key(require_api_key(scopes=["read"])(lambda: "reached")))
        key = scene.issue().key
        scene.backend.looked_up.clear()
        assert scene.app.test_client().get("/twice", headers={"X-API-Key": key}).status_code == 200
        assert len(scene.backend.looked_up) == 1

    @pytest.mark.parametrize("attempt", [unknown, wrong_secret, revoked, expired, address_denied, scope_missing])
    def test_one_look_up_per_refusal(self, scene, attempt):
        assert attempt(scene).status_code in (401, 403)
        assert len(scene.backend.looked_up) - (attempt is revoked) == 1  # revoking looks it up too

    @pytest.mark.parametrize("attempt", [no_key, another_scheme, malformed, empty, conflicting])
    def test_no_look_up_of_malformed_keys(self, scene, attempt):
        assert attempt(scene).status_code == 401
        assert scene.backend.looked_up == []

    def test_open_view(self, scene):
        scene.app.get("/open", endpoint="open")(lambda: "open")
        key = scene.issue().key
        for sent in (key, "nonsense"):
            response = scene.app.test_client().get("/open", headers={"X-API-Key": sent})
            assert (response.status_code, "Cache-Control" in response.headers) == (200, False)
        assert scene.backend.looked_up == []

"""Accepted keys, and the caching of answers."""

import pytest

from flask_apikey import require_api_key
from tests.request.verdicts.attempts import Scene


def test_accepted_key(scene):
    response = scene.get(scene.issue(name="ci").key)
    assert response.status_code == 200
    assert response.text == "ci"
    assert response.headers["Cache-Control"] == "no-store"
    assert "WWW-Authenticate" not in response.headers


@pytest.mark.parametrize("header", ["Api-Key {}", "api-key {}", "Bearer {}", "bearer {}"])
def test_key_in_authorization(scene, header):
    assert scene.get(Authorization=header.format(scene.issue().key)).status_code == 200


def test_cache_control_of_the_view(scene):
    @scene.app.get("/cached")
    @require_api_key
    def cached():
        return "reached", {"Cache-Control": "private, max-age=60"}

    key = scene.issue().key
    response = scene.app.test_client().get("/cached", headers={"X-API-Key": key})
    assert response.headers.getlist("Cache-Control") == ["private, max-age=60"]


def test_vary_of_cacheable_answers(scene):
    @scene.app.get("/cached")
    @require_api_key(optional=True)
    def cached():
        return "reached", {"Cache-Control": "public, max-age=60", "Vary": "Accept, authorization"}

    for headers in ({"X-API-Key": scene.issue().key}, {}):
        response = scene.app.test_client().get("/cached", headers=headers)
        assert {name.lower() for name in response.vary} == {"accept", "authorization", "x-api-key"}


def test_no_store_of_the_view(scene):
    @scene.app.get("/fresh")
    @require_api_key
    def fresh():
        return "reached", {"Cache-Control": "no-store"}

    response = scene.app.test_client().get("/fresh", headers={"X-API-Key": scene.issue().key})
    assert response.headers.getlist("Cache-Control") == ["no-store"]
    assert "Vary" not in response.headers
    assert "Vary" not in scene.get().headers


def test_no_store_for_a_failing_view(scene):
    scene.app.config["PROPAGATE_EXCEPTIONS"] = False

    @scene.app.get("/broken")
    @require_api_key
    def broken():
        raise RuntimeError("broken")

    response = scene.app.test_client().get("/broken", headers={"X-API-Key": scene.issue().key})
    assert response.status_code == 500
    assert response.headers["Cache-Control"] == "no-store"


def test_accepted_prefixes_of_an_application(make_app, backend, clock):
    """Applications on one storage, as before and after a change of the prefix."""
    old = Scene(make_app(APIKEY_PREFIX="acme_old"), backend, clock)
    issued = old.issue()
    statuses = {}
    for accepted in (["acme_new"], ["acme_new", "acme_old"]):
        new = Scene(make_app(APIKEY_PREFIX="acme_new", APIKEY_ACCEPTED_PREFIXES=accepted), backend, clock)
        assert new.get(new.issue().key).status_code == 200
        answers = [new.get(issued.key), *(new.get(Authorization=f"{s} {issued.key}") for s in ("Api-Key", "Bearer"))]
        statuses[len(accepted)] = [(each.json or {}).get("code", each.status_code) for each in answers]
        assert new.works(issued) == [len(accepted) == 2]
    assert statuses == {1: ["invalid_key", "invalid_key", "missing_key"], 2: [200, 200, 200]}

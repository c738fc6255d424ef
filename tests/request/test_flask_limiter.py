"""Flask-Limiter in the same application."""

import pytest
from flask_limiter import Limiter

from flask_apikey import APIKeys, current_api_key, require_api_key

HTTPS = "https://localhost"


def _owner():
    return current_api_key.owner


@pytest.mark.parametrize("limiter_first", [False, True])
def test_limits_by_owner(make_app, limiter_first):
    app, api_keys, limiter = make_app(), APIKeys(), Limiter(_owner, default_limits=["2/hour"], storage_uri="memory://")
    for extension in (limiter, api_keys) if limiter_first else (api_keys, limiter):
        extension.init_app(app)
    app.get("/")(require_api_key(lambda: "view"))
    with app.app_context():
        api_keys.init_storage()
        keys = [api_keys.create(name="ci", owner=owner).key for owner in ("a", "b")]
    client = app.test_client()
    for _ in range(3):
        # Refusals consume nothing of an owner's limit.
        assert client.get("/", base_url=HTTPS, headers={"X-API-Key": "junk"}).status_code == 401
    for key in keys:
        statuses = [client.get("/", base_url=HTTPS, headers={"X-API-Key": key}).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]

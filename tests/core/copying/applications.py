"""Applications whose keys are copied."""

import json

from flask_apikey import APIKeys
from flask_apikey.cli import apikey


def app_with_keys(make_app, uri):
    """Create five keys with seven lifecycle events."""
    app = make_app(APIKEY_STORAGE_URI=uri)
    api_keys = APIKeys(app)
    with app.app_context():
        ids = [api_keys.create(name=f"key {number}").record.id for number in range(5)]
        api_keys.update(ids[0], name="renamed")
        api_keys.revoke(ids[1], reason="left")
    return app


def verified(app):
    """Verify the history of an application's storage."""
    return json.loads(app.test_cli_runner().invoke(apikey, ["audit", "--verify", "--json"]).stdout)

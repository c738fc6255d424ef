"""Storages that are copied, with keys, history and usage."""

import json
from datetime import timedelta

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import DAY, LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.testing.samples import NOW

MIDNIGHT = 20_000 * DAY
ENDPOINTS = ("/books", "/books/<int:id>", "/日本")


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


def used(storage, keys, hours, count=1):
    """Count accepted and refused requests of every key in each hour, and return the number of rows."""
    rows = [
        UsageRow(UsageLabel(key.record.id, hour, endpoint, "GET", status, reason, owner), count)
        for key in keys
        for hour in hours
        for endpoint in ENDPOINTS
        for status, reason, owner in (("2xx", "", "team-7"), ("", "expired", ""))
    ]
    uses = [use(key, NOW + timedelta(hours=hours[-1] - MIDNIGHT)) for key in keys]
    storage.usage.add(UsageBatch(new_id(), 1, rows, uses, NOW))
    return len(rows)


def use(key, at, address="192.0.2.7"):
    return LastUse(key.record.id, 1, at, address)

"""Storages that are copied, with keys, history and usage."""

import json
import os
from dataclasses import replace
from datetime import timedelta

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model.history import REVOKED, UPDATED
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import SealedSecrets
from flask_apikey.core.model.usage import DAY, LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.storage.chains import all_chains
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import utc_now
from flask_apikey.testing.samples import NOW, stored_key

MIDNIGHT = 20_000 * DAY
ENDPOINTS = ("/books", "/books/<int:id>", "/日本")


class Writer:
    """Changes keys of a storage as an application does."""

    def __init__(self, backend, ring):
        self.backend = backend
        self.repository = KeyRepository(backend, ring, utc_now)

    def add(self, number=1, **values):
        """Add keys, and return them by id."""
        return sorted((self._add(values) for _ in range(number)), key=lambda key: key.record.id)

    def change(self, key, **values):
        """Change fields of a key as it is stored now, and return it."""
        event = REVOKED if "revoked_at" in values else UPDATED
        return self.repository.change(
            key.record.id, lambda stored: Change(replace(stored.record, **{"name": "changed", **values}), event)
        )[0]

    def remove(self, key):
        self.repository.remove(self.repository.get(key.record.id))

    def record_without_key(self):
        self.repository.record_without_key("rotation.run", {})

    def _add(self, values):
        record = stored_key(**values).record
        self.repository.add(record, SealedSecrets((os.urandom(32),)))
        return self.backend.get(record.id)


def all_rows(backend):
    """Keys and tombstones by id, with their seals."""
    return list(backend.scan(KeyFilter(pruned=None)))


def same_content(one, other):
    """Assert that two storages hold the same rows and events."""
    assert all_rows(one) == all_rows(other)
    assert list(all_chains(one.history)) == list(all_chains(other.history))


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

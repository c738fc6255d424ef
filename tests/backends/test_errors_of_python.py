"""Exceptions that drivers raise besides their own: of encodings, of types, of numbers without a column."""

from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_apikey import APIKeys, Conflict, StorageError, require_api_key
from flask_apikey.core.model.history import EventPosition
from flask_apikey.core.model.keys import Cursor, Resealing, Rotation
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import Seal
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageField, UsageFilter, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import EventFilter, KeyFilter
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.testing.samples import NOW, recorded, stored_key
from flask_apikey_sql import SQLBackend

SURROGATE = "lone \udcff surrogate"
HUGE = 2**63


@pytest.fixture
def backend(any_storage_uri):
    with closing(backend_for(any_storage_uri)) as backend:
        backend.init_storage()
        yield backend


ROTATION = Rotation(from_fingerprint=SURROGATE, to_fingerprint="1" * 16, started_at=NOW, due_at=NOW + timedelta(days=1))
LABEL = {"hour": 490_000, "endpoint": "/", "method": "GET", "status": "2xx"}


def row(**values):
    return UsageRow(
        UsageLabel(
            **{"key_id": new_id(), "hour": 490_000, "endpoint": "/", "method": "GET", "status": "2xx", **values}
        ),
        1,
    )


def batch(rows=(), last_uses=(), **values):
    return UsageBatch(**{"writer": new_id(), "number": 1, "written_at": NOW, **values}, rows=rows, last_uses=last_uses)


def operations(backend):
    key, event = recorded(stored_key(name=SURROGATE))
    good, of_good = recorded(stored_key())
    moment = NOW.replace(year=9999)
    return {
        "add": lambda: backend.add(key),
        "add with event": lambda: backend.add(good, event=replace(of_good, reason=SURROGATE)),
        "add_many": lambda: backend.add_many([stored_key(), key], events=[of_good, event]),
        "get": lambda: backend.get(SURROGATE),
        "find": lambda: backend.find(KeyFilter(owner=SURROGATE), after=None, limit=1),
        "search": lambda: backend.find(KeyFilter(search=SURROGATE), after=None, limit=1),
        "find after": lambda: backend.find(KeyFilter(), after=Cursor(moment, SURROGATE), limit=1),
        "scan": lambda: list(backend.scan(KeyFilter(owner=SURROGATE))),
        "count": lambda: backend.count(KeyFilter(owner=SURROGATE)),
        "update": lambda: backend.update(key, expected_version=1, expected_seal=SURROGATE),
        "revoke_unsealed": lambda: backend.revoke_unsealed(new_id(), revoked_at=NOW, reason=SURROGATE),
        "events": lambda: backend.history.events(EventFilter(owner=SURROGATE), after=None, limit=1),
        "events after": lambda: backend.history.events(
            EventFilter(), after=EventPosition(NOW, SURROGATE, HUGE), limit=1
        ),
        "chains": lambda: backend.history.chains(after=(SURROGATE, HUGE), limit=1),
        "append": lambda: backend.history.append([replace(event, number=HUGE)]),
        "remove": lambda: backend.history.remove([replace(event, hash=SURROGATE)]),
        "usage": lambda: backend.usage.add(batch([row(endpoint=SURROGATE)])),
        "huge usage": lambda: backend.usage.add(batch([row(hour=HUGE)])),
        "last use": lambda: backend.usage.add(batch([row()], [LastUse(new_id(), HUGE, NOW, None)])),
        "huge batch": lambda: backend.usage.add(batch([row()], number=HUGE)),
        "totals": lambda: backend.usage.totals([UsageField.HOUR], UsageFilter(owner=SURROGATE)),
        "endpoints": lambda: backend.usage.endpoints(SURROGATE, limit=1),
        "last_uses": lambda: backend.usage.last_uses([SURROGATE]),
        "rows": lambda: backend.usage.rows(after=row(endpoint=SURROGATE).label, limit=1),
        "put": lambda: backend.usage.put([row(endpoint=SURROGATE)], []),
        "fold": lambda: backend.usage.fold(before=HUGE * 24),
        "prune": lambda: backend.usage.prune(before=HUGE * 24),
        "reseal": lambda: backend.rotation.reseal(
            [Resealing(SURROGATE, Seal(SURROGATE, "0" * 16), Seal(SURROGATE, "1" * 16))]
        ),
        "rotation": lambda: backend.rotation.put(ROTATION, expected_version=0),
    }


def sends_surrogates(backend):
    # With SQLAlchemy 2.0, PyMySQL sends a surrogate as a byte, which no stored value has.
    return (
        isinstance(backend, SQLBackend)
        and sa.__version__.startswith("2.0.")
        and backend._database.opened.get().connections.engine.dialect.name == "mysql"
    )


def test_each_operation_raises_storage_errors_only(backend):
    refused, texts = [], []
    for name, operation in operations(backend).items():
        try:
            operation()
        except Conflict:
            assert name == "update"
            assert sends_surrogates(backend)
        except StorageError as exc:
            refused.append(name)
            texts += [str(exc), str(exc.__cause__), str(exc.__context__)]
    assert not [text for text in texts if SURROGATE in text]
    assert "add" in refused
    if not sends_surrogates(backend):
        assert {"get", "count", "put", "reseal"} <= set(refused)
        assert len(refused) > 15


def test_request_gets_503_and_its_key_stays_out_of_the_log(backend, fernet_key, monkeypatch, caplog):
    app = Flask(__name__)
    app.config.update(TESTING=True, APIKEY_FERNET_KEY=fernet_key, APIKEY_MIN_FAILURE_TIME=0)
    api_keys = APIKeys(app, backend=backend)

    @app.get("/")
    @require_api_key
    def view():
        return "open"

    with app.app_context():
        key = api_keys.create(name="ci").key
    for error in (TypeError(key), UnicodeEncodeError("latin-1", key, 0, 1, "no"), OverflowError(key), KeyError(key)):

        def get(_key_id, error=error):
            raise error

        monkeypatch.setattr(backend, "get", get)
        answer = app.test_client().get("/", headers={"X-API-Key": key})
        assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
        assert f"reason={type(error).__name__} was raised" in caplog.text
    assert key[-49:] not in caplog.text

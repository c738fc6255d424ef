"""The methods of `APIKeys`."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from flask import Flask
from typing_extensions import assert_type

from flask_apikey import APIKey, APIKeys, Decision, IssuedKey, Status
from flask_apikey.core.storage.contract import Backend
from flask_apikey.storage import LastUse
from flask_apikey.testing import FrozenClock
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_sql import SQLBackend

app = Flask(__name__)
api_keys = APIKeys()
api_keys.init_app(app, backend=SQLBackend("sqlite:///:memory:"), clock=FrozenClock())

NOW = datetime.now(timezone.utc)

issued = api_keys.create(
    name="ci",
    owner="user-1",
    scopes=["reports:read"],
    lifetime="90d",
    allowed_ips=("192.0.2.0/24",),
    metadata={"team": ["a", 1, None]},
)
assert_type(issued, IssuedKey)
assert_type(issued.key, str)
assert_type(issued.record, APIKey)
assert_type(issued.record.expires_at, datetime | None)
assert_type(issued.record.scopes, frozenset[str])
assert_type(issued.record.status(NOW), Status)

api_keys.create(name="ci", lifetime=None)
api_keys.create(name="ci", lifetime=timedelta(days=1))
api_keys.create()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a key needs a name
api_keys.create("ci")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # by keyword only
api_keys.create(name="ci", expires_at="2030-01-01")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a datetime
issued.record.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # frozen

assert_type(api_keys.get("8sQ2dKf0LmX7Tz1B"), APIKey)
assert_type(api_keys.list(owner="user-1", status="active", expiring_within="7d"), Iterator[APIKey])
assert_type(api_keys.count(search="export", unused_for="90d"), int)
assert_type(api_keys.last_uses(["8sQ2dKf0LmX7Tz1B"])["8sQ2dKf0LmX7Tz1B"].latest, LastUse | None)
api_keys.list(limit="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number

assert_type(api_keys.update("8sQ2dKf0LmX7Tz1B", name="other", expires_at=None, scopes=()), APIKey)
api_keys.update("8sQ2dKf0LmX7Tz1B", nam="other")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # unknown
api_keys.update("8sQ2dKf0LmX7Tz1B", name=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # required

assert_type(api_keys.roll("8sQ2dKf0LmX7Tz1B", grace="24h"), IssuedKey)
assert_type(api_keys.revoke("8sQ2dKf0LmX7Tz1B", reason="left"), APIKey)
assert_type(api_keys.reveal("8sQ2dKf0LmX7Tz1B"), str)
assert_type(api_keys.prune(ended_before=NOW), int)

decision = api_keys.verify(issued.key, address="192.0.2.1")
assert_type(decision, Decision)
assert_type(decision.accepted, bool)
assert_type(decision.key, APIKey | None)
api_keys.verify(b"key")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # keys are strings

backends: list[Backend] = [SQLBackend.from_uri("sqlite:///:memory:"), MongoDBBackend("mongodb://localhost/keys")]
assert_type(SQLBackend.from_uri("sqlite:///:memory:"), SQLBackend)
APIKeys(app, backend=backends[0])
APIKeys(app, backend="sqlite:///:memory:")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a backend
SQLBackend(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # neither a URI nor an engine

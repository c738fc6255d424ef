"""Issuing many keys at once: few statements, all or none, and a report where a storage keeps some."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_apikey import InvalidValue, StorageError
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model import keystring
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend, EventFilter, KeyFilter
from flask_apikey.signals import api_key_created
from flask_apikey_sql import SQLBackend
from tests.support.keys import KeyScene, Lifecycle

DAY = timedelta(days=1)


@pytest.fixture
def ring(fernet_key):
    return FernetKeyring(fernet_key)


@pytest.fixture
def keys(storage, ring, clock):
    return Lifecycle(storage, ring, IssuePolicy(prefix="acme"), clock)


def test_keys_are_issued_in_order(app, clock):
    scene = KeyScene(app, clock)
    created = []
    receive = api_key_created.connect_via(app)(lambda _sender, key: created.append(key))
    arguments: list[dict[str, Any]] = [
        {"name": "all", "owner": "a", "scopes": ["x"], "lifetime": "90d", "allowed_ips": ["::1"], "metadata": {"a": 1}},
        {"name": "for ever", "lifetime": None, "metadata": None},
        {"name": "moment", "expires_at": clock() + DAY, "denied_ips": ["::1"]},
        *({"name": f"key {number}"} for number in range(20)),
    ]
    issued = scene.do("create_many", iter(arguments), reason="import")
    records = [each.record for each in issued]
    assert [record.name for record in records] == [each["name"] for each in arguments]
    assert [scene.do("get", record.id) for record in records] == records == created
    assert records[0].expires_at == clock() + timedelta(days=90)
    assert (records[0].owner, records[0].scopes, records[0].metadata) == ("a", {"x"}, {"a": 1})
    assert (records[1].expires_at, records[2].expires_at) == (None, clock() + DAY)
    assert all(scene.works(*issued[3:]))
    assert len({each.key for each in issued}) == len(issued)
    events = scene.backend.history.events(EventFilter(), after=None, limit=100)
    assert {(event.key_id, event.event, event.number, event.reason) for event in events} == {
        (record.id, "key.created", 1, "import") for record in records
    }
    del receive


def test_few_statements(keys, storage):
    statements = []
    engine = storage._opened.get().engine
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    assert len(keys.create_many({"name": f"key {number}"} for number in range(2000))) == 2000
    assert len(statements) == 2
    assert storage.count(KeyFilter()) == 2000


def test_no_keys(keys):
    assert keys.create_many([]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name is missing"),
        ({"name": ""}, "name must not be empty"),
        ({"name": "ci", "scopes": "read"}, "scopes must be a list"),
        ({"name": "ci", "lifetime": "1d", "expires_at": "2030-01-01"}, "exclude each other"),
        ({"name": "ci", "metadata": [1]}, "metadata must be a mapping"),
        *(
            ({"name": "ci", name: None}, f"no argument {name}")
            for name in ("id", "version", "created_at", "revoked_at")
        ),
        ({"name": "ci", 5: 1}, "no argument 5"),
        ({"name": "ci", "reason": "x"}, "no argument reason"),
        *((other, "must be a mapping") for other in ("ci", 5, None, ["name"])),
    ],
    ids=str,
)
def test_invalid_arguments_issue_no_key(keys, storage, arguments, message):
    with pytest.raises(InvalidValue, match=message) as caught:
        keys.create_many([{"name": "first"}, arguments, {"name": "last"}])
    assert str(caught.value).startswith("keys[1]: ")
    assert storage.count(KeyFilter()) == 0


def test_sql_stores_all_or_none(keys, storage):
    with storage._opened.get().engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TRIGGER refuse BEFORE INSERT ON flask_apikey_keys WHEN NEW.name = 'refused' "
                "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
        )
    with pytest.raises(StorageError, match="not this one; no key was issued"):
        keys.create_many({"name": name} for name in ("first", "second", "refused"))
    assert storage.count(KeyFilter(pruned=None)) == 0


class OneByOne(SQLBackend):
    """Backend without bulk inserts, whose third insert fails."""

    add_many = Backend.add_many
    has_failed = False

    def add(self, key, *, event=None):
        if key.record.name == "third":
            self.has_failed = True
            raise StorageError("gone")
        super().add(key, event=event)


@pytest.fixture
def one_by_one():
    backend = OneByOne("sqlite:///:memory:")
    backend.init_storage()
    yield backend
    backend.close()


def test_stored_keys_are_reported(one_by_one, ring, clock, monkeypatch):
    keys = Lifecycle(one_by_one, ring, clock=clock)
    secrets = []
    mint = keystring.mint
    monkeypatch.setattr(keystring, "mint", lambda *arguments: secrets.append(mint(*arguments)) or secrets[-1])
    monkeypatch.setattr("flask_apikey.core.keys.lifecycle._PAGE", 2)
    with pytest.raises(StorageError) as caught:
        keys.create_many({"name": name} for name in ("first", "second", "third", "fourth"))
    assert str(caught.value) == (
        "gone; 2 of 4 keys are stored, with secrets that nobody knows: "
        "revoke the keys that were created at 2026-01-01T00:00:00+00:00"
    )
    assert len(secrets) == 4
    assert not any(secret in str(caught.value) for secret in secrets)


def test_storage_that_does_not_answer(one_by_one, ring, clock, monkeypatch):
    keys = Lifecycle(one_by_one, ring, clock=clock)
    find = one_by_one.find

    def fail_too(*arguments, **options):
        if one_by_one.has_failed:
            raise StorageError("gone")
        return find(*arguments, **options)

    monkeypatch.setattr(one_by_one, "find", fail_too)
    with pytest.raises(StorageError, match="gone; whether some of the keys are stored is unknown"):
        keys.create_many({"name": name} for name in ("first", "third"))


def test_existing_id(keys, storage, clock, monkeypatch):
    taken = keys.create(name="first").record
    clock.advance(DAY)
    ids = iter(["0" * 16, taken.id])
    monkeypatch.setattr(keystring, "new_id", lambda: next(ids))
    with pytest.raises(StorageError, match=f"{taken.id} exists already; no key was issued"):
        keys.create_many([{"name": "second"}, {"name": "third"}])
    assert [key.record for key in storage.find(KeyFilter(), after=None, limit=9)] == [taken]

"""Tables and rows."""

from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_apikey import StorageError
from flask_apikey.core.model.keys import Cursor, DamagedKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageField, UsageFilter, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.testing.samples import NOW, stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.tables import KEYS_TABLE


def test_init_storage_adds_tables_of_a_later_version(tmp_path):
    uri = f"sqlite:///{tmp_path}/keys.db"
    older = SQLBackend(uri)
    older._tables = older._tables[:2]
    older.init_storage()
    key = stored_key()
    older.add(key)
    older.close()
    backend = SQLBackend(uri)
    batch = UsageBatch("w", 1, [UsageRow(UsageLabel(key.record.id, 1, "/", "GET", "2xx"), 1)], [], NOW)
    assert {f"table flask_apikey_{name}" for name in ("usage", "last_uses", "usage_writers")} <= {
        *backend.missing_parts()
    }
    with pytest.raises(StorageError, match="flask apikey init"):
        backend.usage.add(batch)
    backend.init_storage()
    assert backend.missing_parts() == []
    backend.usage.add(batch)
    assert backend.usage.sum(UsageField.KEY, UsageFilter()) == {key.record.id: 1}
    assert backend.get(key.record.id) == key
    backend.close()


def test_init_storage_refuses_tables_that_lack_a_column(sql_uri):
    with closing(SQLBackend(sql_uri)) as backend:
        backend.init_storage()
        with backend._opened.get().engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE flask_apikey_keys DROP COLUMN name"))
        assert backend.missing_parts() == ["column flask_apikey_keys.name"]
        with pytest.raises(StorageError, match=r"of another version, and lack the columns flask_apikey_keys.name: add"):
            backend.init_storage()


def test_sum_over_more_keys_than_parameters(backend):
    key_ids = [f"{number:016}" for number in range(260_000)]
    rows = [UsageRow(UsageLabel(key_id, 1, "/", "GET", "2xx"), 1) for key_id in key_ids[::1000]]
    backend.usage.add(UsageBatch("w", 1, rows, [LastUse(key_ids[-1], 1, NOW, None)], NOW))
    assert backend.usage.sum(UsageField.STATUS, UsageFilter(key_ids=key_ids)) == {"2xx": 260}
    assert len(backend.usage.last_uses(key_ids)) == 1


@pytest.mark.parametrize("upkeep", ["fold", "prune"])
def test_old_writers_are_forgotten(backend, upkeep):
    hour = int(NOW.timestamp()) // 3600
    rows = [UsageRow(UsageLabel(new_id(), hour, "/", "GET", "2xx"), 1)]
    batches = [UsageBatch(f"w{days}", 1, rows, [], NOW - timedelta(days=days)) for days in (40, 29, 0)]
    for batch in batches:
        backend.usage.add(batch)
    getattr(backend.usage, upkeep)(before=hour - 31 * 24)
    getattr(backend.usage, upkeep)(before=hour)
    with backend._opened.get().engine.connect() as connection:
        assert {*connection.scalars(sa.text("SELECT writer FROM flask_apikey_usage_writers"))} == {"w29", "w0"}
    for batch in batches[1:]:
        backend.usage.add(batch)
    assert sum(backend.usage.sum(UsageField.HOUR, UsageFilter()).values()) == 3


@pytest.mark.parametrize(
    ("column", "nonsense"),
    [
        ("created_at", "'yesterday'"),
        ("expires_at", "9e99"),
        ("previous_secrets_expire_at", "'soon'"),
        ("allowed_ips", "'everywhere'"),
        ("metadata", "'{'"),
        ("metadata", "'[]'"),
        ("metadata", "'" + "[" * 100_000 + "'"),
        ("version", "'first'"),
        ("name", "x'00'"),
        ("owner", "x'00'"),
        ("history_hash", "x'00'"),
    ],
)
def test_damaged_row_is_refused_and_logged(backend, tmp_path, column, nonsense, caplog):
    keys = sorted([stored_key() for _ in range(5)], key=lambda key: key.record.id)
    backend.add_many(keys)
    with sa.create_engine(f"sqlite:///{tmp_path}/keys.db").begin() as connection:
        connection.execute(
            sa.text(f"UPDATE {KEYS_TABLE} SET {column} = {nonsense} WHERE id = :id"), {"id": keys[1].record.id}
        )
    with pytest.raises(StorageError, match=keys[1].record.id):
        backend.get(keys[1].record.id)
    others = [keys[0], *keys[2:]]
    for limit in (1, 2, 10):
        assert list(_all(backend, limit)) == others
    assert list(backend.find(KeyFilter(search="A KEY"), after=None, limit=10)) == others
    assert keys[1].record.id in caplog.text
    assert backend.get(keys[0].record.id) == keys[0]


@pytest.mark.parametrize("page", [1, 2, 3, 5, 100])
def test_scan_in_pages(backend, tmp_path, monkeypatch, page):
    monkeypatch.setattr("flask_apikey_sql.backend._PAGE", page)
    keys = [stored_key(id=letter * 16) for letter in "1Aabz"]
    backend.add_many(keys)
    with sa.create_engine(f"sqlite:///{tmp_path}/keys.db").begin() as connection:
        connection.execute(sa.text(f"UPDATE {KEYS_TABLE} SET metadata = '[' WHERE id = :id"), {"id": "A" * 16})
    scanned = list(backend.scan(KeyFilter()))
    assert [each.id if isinstance(each, DamagedKey) else each for each in scanned] == [keys[0], "A" * 16, *keys[2:]]


def _all(backend, limit):
    after = None
    while page := backend.find(KeyFilter(), after=after, limit=limit):
        yield from page
        after = Cursor(page[-1].record.created_at, page[-1].record.id)

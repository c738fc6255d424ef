"""Query plans of SQL databases, for each filter of keys."""

import re
from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import to_microseconds
from flask_apikey.testing.samples import NOW, stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.changes import changes_since
from flask_apikey_sql.queries import listing, number, scanning
from flask_apikey_sql.tables import KEYS_TABLE, to_row

ROWS = 3_000
IN_A_WEEK = NOW + timedelta(days=7)
OPEN = {"revoked": False, "suspended": False, "expires_after": NOW}
# Without partial indexes, as on MariaDB, "revoked" and "adopted" have the keys in the order of all listings.
IN_ORDER = {"created_at", "revoked", "adopted"}
LISTINGS = {
    "all": (KeyFilter(), IN_ORDER),
    "active": (KeyFilter(**OPEN), IN_ORDER),
    "unused": (KeyFilter(**OPEN, created_before=NOW - timedelta(days=9)), IN_ORDER),
    "adopted": (KeyFilter(adopted=True), IN_ORDER),
    "revoked": (KeyFilter(revoked=True), {"revoked", "revoked_at", "adopted"}),
    "suspended": (KeyFilter(revoked=False, suspended=True, expires_after=NOW), {"suspended_at"}),
    "expired": (KeyFilter(revoked=False, expires_by=NOW), {"expires_at"}),
    "expiring": (KeyFilter(**OPEN, expires_by=IN_A_WEEK), {"expires_at"}),
    "of an owner": (KeyFilter(owner="o1"), {"owner"}),
    "revoked of an owner": (KeyFilter(owner="o1", revoked=True), {"owner", "revoked", "revoked_at"}),
    "expiring of an owner": (
        KeyFilter(owner="o1", **OPEN, expires_by=NOW + timedelta(days=7)),
        {"owner", "expires_at"},
    ),
}
SCANS = {
    "pruned": (KeyFilter(ended_by=NOW - timedelta(days=90)), {"revoked_at", "expires_at"}),
    "revoked with its owner": (KeyFilter(owner="o1", revoked=False, expires_after=NOW), {"owner"}),
}


@pytest.fixture
def backend(sql_uri):
    """A backend with many keys, of which few are revoked, suspended, expired or about to expire."""
    with closing(SQLBackend(sql_uri)) as backend:
        backend.init_storage()
        rows = [to_row(stored_key()) for _ in range(ROWS)]
        for number_, row in enumerate(rows):
            row["owner"] = f"o{number_ % 100}"
            row["created_at"] += number_
            row["expires_at"] = to_microseconds(NOW + timedelta(days=300))
        for row in rows[:5]:
            row["revoked_at"] = row["created_at"]
        for row in rows[5:10]:
            row["suspended_at"] = row["created_at"]
        for row in rows[10:15]:
            row["expires_at"] = to_microseconds(NOW - timedelta(days=100))
        for row in rows[20:25]:
            row["adopted"] = "sha256"
        for row in rows[15:20]:
            row["expires_at"] = to_microseconds(NOW + timedelta(days=1))
        with backend._opened.get().engine.begin() as connection:
            connection.execute(backend._keys.insert(), rows)
        yield backend


def _used_indexes(connection, statement):
    """Return the suffixes of the indexes in the plan of a statement."""
    text = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    rows = connection.exec_driver_sql(f"{explain} {text}").mappings()
    # MySQL and MariaDB list the indexes that they do not use in another column.
    plan = " ".join(str(row.get("key", dict(row))) for row in rows)
    return set(re.findall(r"ix_flask_apikey_keys_(\w+)", plan))


def test_filters_use_indexes(backend):
    with backend._opened.get().engine.connect() as connection:
        # Few rows make a scan as cheap as an index.
        analyze = {"sqlite": [], "postgresql": ["ANALYZE", "SET enable_seqscan = off"]}
        for statement in analyze.get(connection.dialect.name, ["ANALYZE TABLE flask_apikey_keys"]):
            connection.execute(sa.text(statement))
        found: dict[tuple[str, object], set[str]] = {}
        for name, (key_filter, _) in LISTINGS.items():
            for newest_first in (False, True):
                statement = listing(backend._keys, key_filter, after=None, limit=20, newest_first=newest_first)
                found[name, newest_first] = _used_indexes(connection, statement)
        for name in ("revoked", "suspended", "expired", "expiring", "of an owner"):
            found[name, "count"] = _used_indexes(connection, number(backend._keys, LISTINGS[name][0]))
        for name, (key_filter, _) in SCANS.items():
            found[name, "scan"] = _used_indexes(connection, scanning(backend._keys, key_filter, after="", limit=1_000))
        found["changed", None] = _used_indexes(connection, changes_since(backend._keys, NOW, limit=1_000))
    expected = {"changed": {"changed_at"}} | {name: indexes for name, (_, indexes) in {**LISTINGS, **SCANS}.items()}
    wrong = {key: used for key, used in found.items() if not used or not used <= expected[key[0]]}
    assert wrong == {}
    assert found["pruned", "scan"] == {"revoked_at", "expires_at"}


def test_init_creates_missing_indexes(backend):
    missing = "ix_flask_apikey_keys_expires_at"
    suffix = f" ON {KEYS_TABLE}" if backend._database.opened.get().engine.dialect.name in {"mysql", "mariadb"} else ""
    with backend._database.opened.get().engine.begin() as connection:
        connection.execute(sa.text(f"DROP INDEX {missing}{suffix}"))
    assert backend.missing_parts() == [f"index {missing}"]
    backend.init_storage()
    assert backend.missing_parts() == []

"""Usage of a source that was edited by somebody who can write to its database. No seal covers it."""

import json
from datetime import timedelta

import mongomock_ng
import pytest

from flask_apikey.core.copying.usage import copy_usage, requests_counted
from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import DAY
from flask_apikey.core.times import to_microseconds, utc_now
from flask_apikey.testing.samples import NOW, stored_key
from flask_apikey_mongodb import MongoDBBackend
from tests.core.copying.conftest import opened
from tests.core.copying.storages import MIDNIGHT, used

TOMORROW = to_microseconds(utc_now() + timedelta(days=2))
LABEL = {"hour": MIDNIGHT, "endpoint": "/x", "method": "GET", "status": "2xx", "reason": "", "owner": "", "span": 1}
COUNT = {**LABEL, "count": 1}
LAST_USE = {"secret": 1, "at": to_microseconds(NOW), "address": "192.0.2.7"}


@pytest.fixture
def target(tmp_path):
    yield from opened(f"sqlite:///{tmp_path}/target.db")


@pytest.fixture
def keys(source, target):
    keys = sorted((stored_key() for _ in range(3)), key=lambda key: key.record.id)
    for storage in (source, target):
        storage.add_many(keys)
    used(source, keys, [MIDNIGHT])
    return keys


def insert(backend, table, **values):
    with backend._opened.get().engine.begin() as connection:
        connection.execute(backend._metadata.tables[f"flask_apikey_{table}"].insert().values(values))


INVALID_COUNTS = {
    "negative": {"count": -5},
    "zero": {"count": 0},
    "huge": {"count": 2**62},
    "text-as-count": {"count": "many"},
    "fraction": {"count": 1.5},
    "before-1970": {"hour": -1},
    "future": {"hour": TOMORROW // 3_600_000_000},
    "text-as-hour": {"hour": "now"},
    "middle-of-a-day": {"hour": MIDNIGHT + 1, "span": DAY},
    "span": {"span": 5},
    "text-as-span": {"span": "x"},
    "no-endpoint": {"endpoint": ""},
    "long-endpoint": {"endpoint": "/" * 501},
    "escape-in-endpoint": {"endpoint": "\x1b[31m"},
    "space-after-endpoint": {"endpoint": "/x "},
    "long-method": {"method": "G" * 21},
    "status": {"status": "200"},
    "long-status": {"status": "2xx" * 9},
    "status-with-reason": {"status": "200", "reason": "expired"},
    "neither-status-nor-reason": {"status": ""},
    "long-reason": {"status": "", "reason": "x" * 41},
    "long-owner": {"owner": "x" * 201},
    "escape-in-owner": {"owner": "\x1b[31m"},
    "space-before-owner": {"owner": " x"},
    "bytes": {"endpoint": b"/x"},
}


@pytest.mark.parametrize("values", INVALID_COUNTS.values(), ids=INVALID_COUNTS)
@pytest.mark.parametrize("dry_run", [True, False], ids=["dry-run", "copy"])
def test_invalid_count_is_left_out(source, target, keys, values, dry_run):
    rows = list(source.usage.all_rows())
    insert(source, "usage", **{**COUNT, "key_id": keys[1].record.id, **values})
    report = copy_usage(source, target, dry_run=dry_run)
    assert (report.refusals.count, report.counts) == (1, len(rows))
    assert report.refusals.first[0].id == keys[1].record.id
    assert list(target.usage.all_rows()) == ([] if dry_run else rows)


@pytest.mark.parametrize(
    "key_id",
    [new_id, lambda: "!", lambda: "x" * 999, lambda: b"x", lambda: ""],
    ids=["unknown", "short", "long", "bytes", "empty"],
)
def test_count_of_an_unknown_key_is_left_out(source, target, keys, key_id):
    rows = list(source.usage.all_rows())
    insert(source, "usage", **COUNT, key_id=key_id())
    report = copy_usage(source, target)
    assert (report.refusals.count, report.counts) == (1, len(rows))
    assert list(target.usage.all_rows()) == rows


def test_counts_of_tombstones_are_copied(source, target):
    key = stored_key(pruned_at=NOW, name="")
    for storage in (source, target):
        storage.add(key)
    insert(source, "usage", **COUNT, key_id=key.record.id)
    report = copy_usage(source, target)
    assert (report.refusals.count, report.counts) == (0, 1)


def test_infinite_count_fails_the_copy(source, target, keys):
    insert(source, "usage", **{**COUNT, "count": float("inf"), "key_id": keys[1].record.id})
    with pytest.raises(StorageError, match="a count of requests is damaged"):
        copy_usage(source, target)
    assert requests_counted(target) == 0


INVALID_LAST_USES = {
    "negative-secret": {"secret": -1},
    "future-secret": {"secret": TOMORROW},
    "text-as-secret": {"secret": "x"},
    "before-1970": {"at": -1},
    "future": {"at": TOMORROW},
    "far-future": {"at": 2**62},
    "text-as-time": {"at": "now"},
    "text-as-address": {"address": "\x1b[31m"},
    "long-address": {"address": "1" * 99},
    "unusual-address": {"address": "::ffff:192.0.2.7"},
    "number-as-address": {"address": b"\x00"},
}


@pytest.mark.parametrize("values", INVALID_LAST_USES.values(), ids=INVALID_LAST_USES)
def test_invalid_last_use_is_left_out(source, target, keys, values):
    other = stored_key()
    for storage in (source, target):
        storage.add(other)
    insert(source, "last_uses", **{**LAST_USE, "key_id": other.record.id, **values})
    report = copy_usage(source, target)
    assert [refusal.id for refusal in report.refusals.first] == [other.record.id]
    assert (report.refusals.count, report.last_uses) == (1, 3)
    ids = [key.record.id for key in (*keys, other)]
    assert len(target.usage.last_uses(ids)) == 3


def test_damaged_last_use_in_mongodb_is_left_out(target):
    source = MongoDBBackend(mongomock_ng.MongoClient())
    source.init_storage()
    keys = [stored_key() for _ in range(3)]
    for storage in (source, target):
        storage.add_many(keys)
    used(source, keys, [MIDNIGHT])
    source.usage._last_uses.update_one({"key_id": keys[1].record.id}, {"$unset": {"at": 1}})
    report = copy_usage(source, target)
    assert [refusal.id for refusal in report.refusals.first] == [keys[1].record.id]
    assert report.last_uses == 2
    source.close()


def test_usage_of_a_refused_key_is_not_copied(source, target, at_source, copy):
    key, _ = at_source.add(2)
    used(source, [key], [MIDNIGHT])
    with source._opened.get().engine.begin() as connection:
        connection.execute(source._keys.update().where(source._keys.c.id == key.record.id).values(seal="garbage"))
    result = copy("--verify", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["added"], report["counts"], report["last_uses"]) == (1, 0, 0)
    assert {refusal["key_id"] for refusal in report["refusals"]} == {key.record.id}
    assert list(target.usage.all_rows()) == []

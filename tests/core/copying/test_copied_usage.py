"""Counts and last uses, copied from one storage to another."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import mongomock_ng
import pytest

from flask_apikey.core.copying.usage import copy_usage, requests_counted
from flask_apikey.core.model.usage import DAY, UsageBatch, UsageLabel, UsageRow
from flask_apikey.testing.samples import NOW, stored_key
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_sql import SQLBackend
from tests.core.copying.storages import MIDNIGHT, all_rows, use, used


def make_sql(path):
    return SQLBackend(f"sqlite:///{path}")


def make_mongodb(_):
    return MongoDBBackend(mongomock_ng.MongoClient())


@pytest.fixture(params=[(make_sql, make_mongodb), (make_mongodb, make_sql)], ids=["SQL-MongoDB", "MongoDB-SQL"])
def storages(request, tmp_path):
    made = [make(tmp_path / f"{number}.db") for number, make in enumerate(request.param)]
    for each in made:
        each.init_storage()
    yield made
    for each in made:
        each.close()


@pytest.fixture
def source(storages):
    return storages[0]


@pytest.fixture
def target(storages):
    return storages[1]


@pytest.fixture
def keys():
    return [stored_key(created_at=NOW + timedelta(seconds=number)) for number in range(5)]


def by_day(storage):
    days = Counter()
    for row in storage.usage.all_rows():
        days[row.label._replace(hour=row.label.hour // DAY, span=DAY)] += row.count
    return days


def uses_in(storage, keys):
    return sorted(storage.usage.last_uses([key.record.id for key in keys]), key=lambda use: use.key_id)


def test_copy_keeps_counts_and_last_uses(source, target, keys):
    for each in (source, target):
        each.add_many(keys)
    rows = used(source, keys, range(MIDNIGHT - 20, MIDNIGHT + 20))
    source.usage.fold(before=MIDNIGHT)
    report = copy_usage(source, target)
    assert list(target.usage.all_rows()) == list(source.usage.all_rows())
    assert report.counts == rows // 40 * 21
    assert report.last_uses == len(keys)
    assert uses_in(target, keys) == uses_in(source, keys)
    assert requests_counted(target) == rows


@pytest.mark.parametrize("source_folds", [False, True])
@pytest.mark.parametrize("target_folds", [False, True])
@pytest.mark.parametrize("some_come_later", [False, True])
def test_fold_between_copies_keeps_totals(source, target, keys, source_folds, target_folds, some_come_later):
    for each in (source, target):
        each.add_many(keys)
    used(source, keys, range(MIDNIGHT, MIDNIGHT + 2 * DAY, 5))
    copy_usage(source, target)
    if source_folds:
        source.usage.fold(before=MIDNIGHT + DAY)
    if target_folds:
        target.usage.fold(before=MIDNIGHT + 2 * DAY)
    if some_come_later:
        used(source, keys[1:3], [MIDNIGHT + 5, MIDNIGHT + DAY, MIDNIGHT + DAY + 1, MIDNIGHT + 2 * DAY])
    report = copy_usage(source, target)
    assert bool(report.counts) is bool(report.last_uses) is some_come_later
    assert by_day(target) == by_day(source)
    again = copy_usage(source, target)
    assert (again.counts, again.last_uses) == (0, 0)


@pytest.mark.parametrize("page", [1, 1_000])
def test_day_folded_for_some_keys_keeps_totals(source, target, keys, monkeypatch, page):
    monkeypatch.setattr("flask_apikey.core.copying.usage._DAYS", page)
    for each in (source, target):
        each.add_many(keys)
    used(source, keys, [MIDNIGHT, MIDNIGHT + 5])
    copy_usage(source, target)
    used(source, keys[::2], [MIDNIGHT + 5], count=3)
    source.usage.fold(before=MIDNIGHT + DAY)
    used(source, keys, [MIDNIGHT + 7])
    assert copy_usage(source, target).counts > 0
    assert by_day(target) == by_day(source)
    assert copy_usage(source, target).counts == 0


def test_counts_removed_from_the_source_stay_at_the_target(source, target, keys):
    for each in (source, target):
        each.add_many(keys)
    used(source, keys, range(MIDNIGHT - DAY, MIDNIGHT + 3))
    copy_usage(source, target)
    copied = by_day(target)
    source.usage.prune(before=MIDNIGHT - DAY + 5)
    assert copy_usage(source, target).counts == 0
    source.usage.prune(before=MIDNIGHT)
    used(source, keys, [MIDNIGHT + 3])
    assert copy_usage(source, target).counts == 30
    assert by_day(target) == copied + Counter(dict.fromkeys(by_day(source), 1))


def test_last_uses_folded_at_the_source_are_copied(source, target, keys):
    rolled = replace(keys[0].record, rolled_at=NOW + timedelta(hours=1))
    source.add(replace(keys[0], record=rolled))
    source.usage.add(UsageBatch("w", 1, [], [use(keys[0], NOW + timedelta(hours=3))], NOW))
    target.add_many(all_rows(source))
    copy_usage(source, target)
    source.usage.fold_last_uses()
    assert copy_usage(source, target).last_uses == 1
    target.usage.fold_last_uses()
    assert uses_in(target, keys) == uses_in(source, keys)


def test_requests_of_report_mode_are_copied(source, target, keys):
    """Those without a key too, in hours and folded, once."""
    for storage in (source, target):
        storage.add_many(keys)
    key_id = keys[0].record.id
    labels = [
        UsageLabel("", MIDNIGHT, "/books", "GET", "2xx", "missing"),
        UsageLabel("", MIDNIGHT + 1, "/books", "GET", "5xx", "unknown"),
        UsageLabel(key_id, MIDNIGHT, "/books", "GET", "2xx", "revoked", "team-7"),
        UsageLabel(key_id, MIDNIGHT, "/books", "GET", "", "revoked", "team-7"),
    ]
    source.usage.add(UsageBatch("writer", 1, [UsageRow(label, 2) for label in labels], [], NOW))
    for _ in range(2):
        report = copy_usage(source, target)
        assert report.refusals.count == 0
        assert all_rows(target) == all_rows(source)
        assert requests_counted(target) == 8
        source.usage.fold(before=MIDNIGHT + 2 * DAY)

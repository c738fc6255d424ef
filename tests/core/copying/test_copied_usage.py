"""Counts and last uses, copied from one storage to another."""

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import mongomock_ng
import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.copying.usage import copy_usage, requests_counted
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import DAY, LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.testing.samples import NOW, stored_key
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.usage import SQLUsage

MIDNIGHT = 20_000 * DAY
ENDPOINTS = ("/books", "/books/<int:id>", "/日本")


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


def used(storage, keys, hours, count=1):
    """Count accepted and refused requests of every key in each hour, and return the number of rows."""
    rows = [
        UsageRow(UsageLabel(key.record.id, hour, endpoint, "GET", status, reason), count)
        for key in keys
        for hour in hours
        for endpoint in ENDPOINTS
        for status, reason in (("2xx", ""), ("", "expired"))
    ]
    uses = [use(key, NOW + timedelta(hours=hours[-1] - MIDNIGHT)) for key in keys]
    storage.usage.add(UsageBatch(new_id(), 1, rows, uses, NOW))
    return len(rows)


def use(key, at, address="192.0.2.7"):
    return LastUse(key.record.id, 1, at, address)


def by_day(storage):
    days = Counter()
    for row in storage.usage.all_rows():
        days[row.label._replace(hour=row.label.hour // DAY, span=DAY)] += row.count
    return days


def uses_in(storage, keys):
    return sorted(storage.usage.last_uses([key.record.id for key in keys]), key=lambda use: use.key_id)


def test_copy_keeps_counts_and_last_uses(source, target, keys):
    source.add_many(keys)
    rows = used(source, keys, range(MIDNIGHT - 20, MIDNIGHT + 20))
    source.usage.fold(before=MIDNIGHT)
    report = copy_usage(source, target)
    assert list(target.usage.all_rows()) == list(source.usage.all_rows())
    assert report.counts == rows // 40 * 21
    assert report.last_uses == len(keys)
    assert uses_in(target, keys) == uses_in(source, keys)
    assert requests_counted(target) == rows


def test_repeated_copy_brings_new_requests(source, target, keys):
    source.add_many(keys)
    used(source, keys, [MIDNIGHT, MIDNIGHT + 1])
    copy_usage(source, target)
    again = copy_usage(source, target)
    assert (again.counts, again.last_uses) == (0, 0)
    used(source, keys[:1], [MIDNIGHT + 1, MIDNIGHT + 2])
    again = copy_usage(source, target)
    assert (again.counts, again.last_uses) == (12, 1)
    assert list(target.usage.all_rows()) == list(source.usage.all_rows())


@pytest.mark.parametrize("source_folds", [False, True])
@pytest.mark.parametrize("target_folds", [False, True])
@pytest.mark.parametrize("some_come_later", [False, True])
def test_fold_between_copies_keeps_totals(source, target, keys, source_folds, target_folds, some_come_later):
    source.add_many(keys)
    used(source, keys, range(MIDNIGHT, MIDNIGHT + 2 * DAY, 5))
    copy_usage(source, target)
    if source_folds:
        source.usage.fold(before=MIDNIGHT + DAY)
    if target_folds:
        target.usage.fold(before=MIDNIGHT + 2 * DAY)
    if some_come_later:
        used(source, keys[1:3], [MIDNIGHT + 5, MIDNIGHT + DAY, MIDNIGHT + DAY + 1])
    report = copy_usage(source, target)
    assert bool(report.counts) is some_come_later
    assert by_day(target) == by_day(source)
    assert copy_usage(source, target).counts == 0


@pytest.mark.parametrize("page", [1, 1_000])
def test_day_folded_for_some_keys_keeps_totals(source, target, keys, monkeypatch, page):
    monkeypatch.setattr("flask_apikey.core.copying.usage._DAYS", page)
    source.add_many(keys)
    used(source, keys, [MIDNIGHT, MIDNIGHT + 5])
    copy_usage(source, target)
    used(source, keys[::2], [MIDNIGHT + 5], count=3)
    source.usage.fold(before=MIDNIGHT + DAY)
    used(source, keys, [MIDNIGHT + 7])
    assert copy_usage(source, target).counts > 0
    assert by_day(target) == by_day(source)
    assert copy_usage(source, target).counts == 0


def test_counts_removed_from_the_source_stay_at_the_target(source, target, keys):
    source.add_many(keys)
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
    copy_usage(source, target)
    source.usage.fold_last_uses()
    assert copy_usage(source, target).last_uses == 1
    target.add_many(list(source.all_keys()))
    target.usage.fold_last_uses()
    assert uses_in(target, keys) == uses_in(source, keys)


def fold_before_merging(target, monkeypatch):
    merge = type(target.usage).merge

    def fold_and_merge(self, rows, uses):
        if rows:
            self.fold(before=MIDNIGHT + DAY)
        return merge(self, rows, uses)

    monkeypatch.setattr(type(target.usage), "merge", fold_and_merge)


class TestCommand:
    @pytest.fixture
    def source(self, tmp_path, keys):
        backend = make_sql(tmp_path / "source.db")
        backend.init_storage()
        backend.add_many([stored_key(id=key.record.id) for key in keys])
        used(backend, keys, [MIDNIGHT])
        yield backend
        backend.close()

    @pytest.fixture
    def target(self, tmp_path):
        backend = make_sql(tmp_path / "target.db")
        backend.init_storage()
        yield backend
        backend.close()

    @pytest.fixture
    def copy(self, make_app, tmp_path, source, target, monkeypatch):
        # The keys here are sealed under another Fernet key.
        monkeypatch.setattr("flask_apikey.cli.copy_command.refuse_unreadable", lambda *_: None)
        app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/source.db")
        APIKeys(app)

        def copy(*options):
            return app.test_cli_runner().invoke(apikey, ["copy", "--to", f"sqlite:///{tmp_path}/target.db", *options])

        return copy

    def test_verify_reports_usage_of_both_sides(self, copy, source, target):
        result = copy("--verify", "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert (report["counts"], report["last_uses"], report["verified"]) == (30, 5, True)
        assert (report["usage_compared"], report["left_behind"]) == (True, [])
        assert report["source"]["requests"] == report["target"]["requests"] == 30
        assert list(target.usage.all_rows()) == list(source.usage.all_rows())

    def test_verify_finds_missing_counts(self, copy, target, monkeypatch):
        monkeypatch.setattr(SQLUsage, "merge", lambda self, rows, uses: len(rows))
        result = copy("--verify", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["verified"] is False

    def test_verify_finds_doubled_counts(self, copy, source, target, keys, monkeypatch):
        assert copy().exit_code == 0
        used(source, keys[:2], [MIDNIGHT, MIDNIGHT + 1], count=2)
        fold_before_merging(target, monkeypatch)
        result = copy("--verify", "--json")
        assert result.exit_code == 1
        assert "it has counted more requests of key" in result.stderr

    def test_a_dry_run_counts_and_writes_nothing(self, copy, target):
        report = json.loads(copy("--dry-run", "--json").stdout)
        assert (report["counts"], report["last_uses"]) == (30, 5)
        assert list(target.usage.all_rows()) == []

    def test_target_without_usage_gets_the_keys(self, copy, target, backend, monkeypatch):
        plain = type(backend)(target)
        monkeypatch.setattr("flask_apikey.cli.copy_command.backend_for", lambda _: plain)
        result = copy("--verify")
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines()[-2:] == [
            "Every key of the source is at the target.",
            "Left behind, because the target does not keep it: usage, history, rotation.",
        ]
        report = json.loads(copy("--verify", "--json").stdout)
        assert (report["verified"], report["usage_compared"]) == (True, False)
        assert report["left_behind"] == ["usage", "history", "rotation"]
        assert "usage, history, rotation" in copy("--dry-run").stderr
        assert len(list(target.all_keys())) == 5
        assert list(target.usage.all_rows()) == []

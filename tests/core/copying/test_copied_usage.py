"""``flask apikey copy`` brings counts and last uses along."""

import json
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import mongomock_ng
import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.copying.usage import copy_usage, requests_counted
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import DAY, HOUR, LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import KeepsUsage
from flask_apikey.core.times import EPOCH, utc_now
from flask_apikey.testing.samples import NOW, stored_key
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_sql import SQLBackend

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
    """Let every key be used in each of the hours, and refused."""
    rows = [
        UsageRow(UsageLabel(key.record.id, hour, endpoint, "GET", status, reason), count)
        for key in keys
        for hour in hours
        for endpoint in ENDPOINTS
        for status, reason in (("2xx", ""), ("", "expired"))
    ]
    uses = [use(key, NOW + timedelta(hours=hours[-1] - MIDNIGHT)) for key in keys]
    storage.add_usage(UsageBatch(new_id(), 1, rows, uses, NOW))
    return len(rows)


def use(key, at, address="192.0.2.7"):
    return LastUse(key.record.id, 1, at, address)


def by_day(storage):
    days = Counter()
    for row in storage.all_usage_rows():
        days[row.label._replace(hour=row.label.hour // DAY, span=DAY)] += row.count
    return days


def uses_in(storage, keys):
    return sorted(storage.last_uses([key.record.id for key in keys]), key=lambda use: use.key_id)


def test_every_count_arrives_with_its_hour_and_every_last_use(source, target, keys):
    source.add_many(keys)
    rows = used(source, keys, range(MIDNIGHT - 20, MIDNIGHT + 20))
    source.fold_usage(before=MIDNIGHT)
    report = copy_usage(source, target)
    assert list(target.all_usage_rows()) == list(source.all_usage_rows())
    assert report.counts == rows // 40 * 21
    assert report.last_uses == len(keys)
    assert uses_in(target, keys) == uses_in(source, keys)
    assert requests_counted(target) == rows


def test_a_repeated_copy_writes_what_came_since(source, target, keys):
    source.add_many(keys)
    used(source, keys, [MIDNIGHT, MIDNIGHT + 1])
    copy_usage(source, target)
    again = copy_usage(source, target)
    assert (again.counts, again.last_uses) == (0, 0)
    used(source, keys[:1], [MIDNIGHT + 1, MIDNIGHT + 2])
    again = copy_usage(source, target)
    assert (again.counts, again.last_uses) == (12, 1)
    assert list(target.all_usage_rows()) == list(source.all_usage_rows())


def test_larger_counts_and_later_uses_of_the_target_stay(source, target, keys):
    source.add_many(keys)
    used(source, keys, [MIDNIGHT, MIDNIGHT + 1], count=2)
    used(target, keys[:1], [MIDNIGHT + 1, MIDNIGHT + 9], count=5)
    before = {row.label: row.count for row in target.all_usage_rows()}
    report = copy_usage(source, target)
    after = {row.label: row.count for row in target.all_usage_rows()}
    assert before.items() <= after.items()
    assert report.counts == 4 * 12 + 6
    assert report.last_uses == 4
    assert uses_in(target, keys[:1]) == [use(keys[0], NOW + timedelta(hours=9))]


@pytest.mark.parametrize("source_folds", [False, True])
@pytest.mark.parametrize("target_folds", [False, True])
@pytest.mark.parametrize("some_come_later", [False, True])
def test_a_fold_between_two_copies_doubles_and_loses_nothing(
    source, target, keys, source_folds, target_folds, some_come_later
):
    source.add_many(keys)
    used(source, keys, range(MIDNIGHT, MIDNIGHT + 2 * DAY, 5))
    copy_usage(source, target)
    if source_folds:
        source.fold_usage(before=MIDNIGHT + DAY)
    if target_folds:
        target.fold_usage(before=MIDNIGHT + 2 * DAY)
    if some_come_later:
        used(source, keys[1:3], [MIDNIGHT + 5, MIDNIGHT + DAY, MIDNIGHT + DAY + 1])
    report = copy_usage(source, target)
    assert bool(report.counts) is some_come_later
    assert by_day(target) == by_day(source)
    assert copy_usage(source, target).counts == 0


@pytest.mark.parametrize("page", [1, 1_000])
@pytest.mark.parametrize("late_batch", [False, True])
def test_a_day_that_is_folded_for_some_keys_only_doubles_nothing(source, target, keys, monkeypatch, page, late_batch):
    monkeypatch.setattr("flask_apikey.core.copying.usage._PAGE", page)
    source.add_many(keys)
    used(source, keys[::2], [MIDNIGHT, MIDNIGHT + 5], count=3)
    source.fold_usage(before=MIDNIGHT + DAY)
    used(source, keys[1::2], [MIDNIGHT, MIDNIGHT + 5], count=3)
    used(target, keys, [MIDNIGHT, MIDNIGHT + 5], count=2)
    if late_batch:
        used(source, keys, [MIDNIGHT + 7])
        used(target, keys, [MIDNIGHT + 6])
    assert copy_usage(source, target).counts > 0
    assert by_day(target) == by_day(source) + Counter(
        {label: 1 for label in by_day(source) if late_batch and label.key_id in [key.record.id for key in keys[1::2]]}
    )
    assert copy_usage(source, target).counts == 0


def test_hours_of_the_target_are_not_folded(source, target, keys):
    source.add_many(keys[:1])
    used(source, keys[:1], [MIDNIGHT, MIDNIGHT + 5], count=3)
    source.fold_usage(before=MIDNIGHT + DAY)
    used(target, keys, [MIDNIGHT, MIDNIGHT + 5])
    before = list(target.all_usage_rows())
    copy_usage(source, target)
    assert [row for row in target.all_usage_rows() if row.label.span == HOUR] == before
    assert by_day(target) == by_day(source) | {
        label: count for label, count in by_day(target).items() if label.key_id != keys[0].record.id
    }


def test_a_fold_of_the_target_meanwhile_doubles_no_day_that_the_source_has_folded(source, target, keys, monkeypatch):
    source.add_many(keys)
    used(source, keys, [MIDNIGHT, MIDNIGHT + 5], count=3)
    source.fold_usage(before=MIDNIGHT + DAY)
    used(target, keys, [MIDNIGHT, MIDNIGHT + 5])
    fold_before_merging(target, monkeypatch)
    for _ in range(2):
        copy_usage(source, target)
    assert by_day(target) == by_day(source)


def fold_before_merging(target, monkeypatch):
    merge = type(target).merge_usage

    def fold_and_merge(self, rows, uses):
        if rows:
            self.fold_usage(before=MIDNIGHT + DAY)
        return merge(self, rows, uses)

    monkeypatch.setattr(type(target), "merge_usage", fold_and_merge)


def test_a_copy_that_stopped_anywhere_goes_on(source, target, keys, monkeypatch):
    monkeypatch.setattr("flask_apikey.core.copying.usage._PAGE", 7)
    source.add_many(keys)
    used(source, keys, range(MIDNIGHT - 3, MIDNIGHT + 3))
    source.fold_usage(before=MIDNIGHT)
    used(target, keys, [MIDNIGHT - 2])
    merge, stopped = target.merge_usage, 0

    def merge_and_stop(rows, uses):
        merge(rows, uses)
        raise InterruptedError

    monkeypatch.setattr(target, "merge_usage", merge_and_stop)
    for _ in range(5):
        with suppress(InterruptedError):
            copy_usage(source, target)
            break
        stopped += 1
    assert stopped == 5
    monkeypatch.setattr(target, "merge_usage", merge)
    copy_usage(source, target)
    assert by_day(target) == by_day(source)
    assert uses_in(target, keys) == uses_in(source, keys)


class TestOnTheCommandLine:
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
        # Whether the Fernet keys fit is another test's.
        monkeypatch.setattr("flask_apikey.cli.copy_command.refuse_unreadable", lambda *_: None)
        app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/source.db")
        APIKeys(app)

        def copy(*options):
            return app.test_cli_runner().invoke(apikey, ["copy", "--to", f"sqlite:///{tmp_path}/target.db", *options])

        return copy

    def test_what_was_written_is_reported_and_both_sides_are_compared(self, copy, source, target):
        result = copy("--verify", "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert (report["counts"], report["last_uses"], report["verified"]) == (30, 5, True)
        assert (report["usage_compared"], report["left_behind"]) == (True, [])
        assert report["source"]["requests"] == report["target"]["requests"] == 30
        assert list(target.all_usage_rows()) == list(source.all_usage_rows())

    def test_verify_finds_counts_that_are_missing(self, copy, target, monkeypatch):
        monkeypatch.setattr(SQLBackend, "merge_usage", lambda self, rows, uses: len(rows))
        result = copy("--verify", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["verified"] is False

    def test_verify_finds_counts_that_were_added_twice(self, copy, source, target, keys, monkeypatch):
        assert copy().exit_code == 0
        used(source, keys[:2], [MIDNIGHT, MIDNIGHT + 1], count=2)
        fold_before_merging(target, monkeypatch)
        result = copy("--verify", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["verified"] is False
        assert "more than it should" in json.loads(result.stdout)["problems"][0]

    def test_verify_leaves_counts_of_the_present_alone(self, copy, source, target, keys, monkeypatch):
        today = (utc_now() - EPOCH) // timedelta(hours=1)
        used(source, keys, [today])
        merge = SQLBackend.merge_usage

        def merge_and_count(self, rows, uses):
            merge(self, rows, uses)
            used(target, keys, [today])
            return len(rows)

        monkeypatch.setattr(SQLBackend, "merge_usage", merge_and_count)
        result = copy("--verify")
        assert result.exit_code == 0, result.output

    def test_a_dry_run_counts_and_writes_nothing(self, copy, target):
        report = json.loads(copy("--dry-run", "--json").stdout)
        assert (report["counts"], report["last_uses"]) == (30, 5)
        assert list(target.all_usage_rows()) == []

    def test_a_target_that_keeps_no_usage_gets_the_keys_and_says_so(self, copy, target, backend, monkeypatch):
        plain = type(backend)(target)
        assert not isinstance(plain, KeepsUsage)
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
        assert list(target.all_usage_rows()) == []

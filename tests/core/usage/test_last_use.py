"""Last uses of the current and of previous secrets."""

from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse
from flask_apikey.core.times import to_microseconds
from flask_apikey.core.usage.last_use import KeyLastUse, current_secret, folded_last_uses, last_uses_of
from flask_apikey.testing.samples import NOW, stored_key

MINUTE = timedelta(minutes=1)


class FakeStorage:
    """Storage of last uses that records the key ids of each call."""

    def __init__(self, *uses):
        self._uses = uses
        self.calls = []

    def last_uses(self, key_ids):
        self.calls.append(list(key_ids))
        return [use for use in self._uses if use.key_id in key_ids]


@pytest.fixture
def record():
    return stored_key().record


def last_use(record, *uses):
    return last_uses_of(FakeStorage(*uses), [record])[record.id]


def use(record, secret, at, address="203.0.113.7"):
    return LastUse(record.id, secret, at, address)


def test_unused_key(record):
    assert last_use(record) == KeyLastUse()
    assert last_use(record).latest is None
    assert set(last_use(record).to_dict().values()) == {None}


def test_new_key_secret_is_creation_time(record):
    used = use(record, to_microseconds(record.created_at), NOW)
    assert last_use(record, used) == KeyLastUse(current=used)


def test_roll_moves_uses_to_previous(record):
    rolled = replace(record, rolled_at=record.created_at + MINUTE)
    earlier = use(record, current_secret(record), NOW)
    later = use(record, PREVIOUS_SECRET, NOW + 3 * MINUTE, "203.0.113.8")
    current = use(record, current_secret(rolled), NOW + 2 * MINUTE)
    assert last_use(rolled, earlier, current, later) == KeyLastUse(current=current, previous=later)
    assert last_use(rolled, earlier) == KeyLastUse(previous=earlier)


def test_later_dated_secret_is_previous_after_clock_jump(record):
    rolled = replace(record, rolled_at=record.created_at - MINUTE)
    earlier = use(record, current_secret(record), NOW)
    assert last_use(rolled, earlier) == KeyLastUse(previous=earlier)


def test_latest_of_both_secrets(record):
    current = use(record, current_secret(record), NOW)
    earlier = use(record, PREVIOUS_SECRET, NOW + MINUTE, None)
    result = last_use(record, current, earlier)
    assert result.latest == earlier
    assert result.to_dict() == {
        "last_used_at": earlier.at.isoformat(),
        "last_used_from": None,
        "current_secret_last_used_at": NOW.isoformat(),
        "current_secret_last_used_from": "203.0.113.7",
        "previous_secret_last_used_at": earlier.at.isoformat(),
        "previous_secret_last_used_from": None,
    }


def test_many_keys_are_read_in_pages():
    records = [stored_key().record for _ in range(1_001)]
    uses = [use(record, current_secret(record), NOW + index * MINUTE) for index, record in enumerate(records)]
    storage = FakeStorage(*uses)
    result = last_uses_of(storage, records)
    assert [result[record.id].current for record in records] == uses
    assert list(map(len, storage.calls)) == [500, 500, 1]


def test_fold_merges_earlier_secrets_and_removes_deleted_keys(record):
    current = use(record, current_secret(record), NOW)
    earlier = [use(record, 1, NOW - MINUTE), use(record, 2, NOW - 2 * MINUTE)]
    previous = use(record, PREVIOUS_SECRET, NOW - 3 * MINUTE)
    deleted = [LastUse("Z" * 16, secret, NOW, None) for secret in (PREVIOUS_SECRET, 1)]
    folded = folded_last_uses([*deleted, previous, *earlier, current], {record.id: current.secret})
    assert folded.merged == {record.id: replace(earlier[0], secret=PREVIOUS_SECRET)}
    assert set(folded.removed) == {*earlier, *deleted}

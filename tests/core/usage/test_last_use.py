"""When and from where the secrets of keys were last used, as it is told from what is stored."""

from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse
from flask_apikey.core.times import to_microseconds
from flask_apikey.core.usage.last_use import KeyLastUse, current_secret, last_uses_of
from flask_apikey.testing.samples import NOW, stored_key

MINUTE = timedelta(minutes=1)


class LastUses:
    """A storage of last uses that notes how it was asked."""

    def __init__(self, *uses):
        self._uses = uses
        self.asked_for = []

    def last_uses(self, key_ids):
        self.asked_for.append(list(key_ids))
        return [use for use in self._uses if use.key_id in key_ids]


@pytest.fixture
def record():
    return stored_key().record


def of(record, *uses):
    return last_uses_of(LastUses(*uses), [record])[record.id]


def use(record, secret, at, address="203.0.113.7"):
    return LastUse(record.id, secret, at, address)


def test_a_key_that_was_never_used_has_no_last_use(record):
    assert of(record) == KeyLastUse()
    assert of(record).latest is None
    assert set(of(record).to_dict().values()) == {None}


def test_the_secret_of_a_new_key_is_named_by_its_creation(record):
    used = use(record, to_microseconds(record.created_at), NOW)
    assert of(record, used) == KeyLastUse(current=used)


def test_after_a_roll_the_uses_of_the_secret_before_are_of_an_earlier_one(record):
    rolled = replace(record, rolled_at=record.created_at + MINUTE)
    before = use(record, current_secret(record), NOW)
    since = use(record, PREVIOUS_SECRET, NOW + 3 * MINUTE, "203.0.113.8")
    present = use(record, current_secret(rolled), NOW + 2 * MINUTE)
    assert of(rolled, before, present, since) == KeyLastUse(current=present, previous=since)
    assert of(rolled, before) == KeyLastUse(previous=before)


def test_a_secret_that_a_jumping_clock_dated_later_is_an_earlier_one_nevertheless(record):
    rolled = replace(record, rolled_at=record.created_at - MINUTE)
    before = use(record, current_secret(record), NOW)
    assert of(rolled, before) == KeyLastUse(previous=before)


def test_the_latest_is_of_whichever_secret_was_used_later(record):
    present = use(record, current_secret(record), NOW)
    earlier = use(record, PREVIOUS_SECRET, NOW + MINUTE, None)
    told = of(record, present, earlier)
    assert told.latest == earlier
    assert told.to_dict() == {
        "last_used_at": earlier.at.isoformat(),
        "last_used_from": None,
        "current_secret_last_used_at": NOW.isoformat(),
        "current_secret_last_used_from": "203.0.113.7",
        "previous_secret_last_used_at": earlier.at.isoformat(),
        "previous_secret_last_used_from": None,
    }


def test_many_keys_are_asked_for_together_and_each_has_its_own():
    records = [stored_key().record for _ in range(1_001)]
    uses = [use(record, current_secret(record), NOW + index * MINUTE) for index, record in enumerate(records)]
    storage = LastUses(*uses)
    told = last_uses_of(storage, records)
    assert [told[record.id].current for record in records] == uses
    assert list(map(len, storage.asked_for)) == [500, 500, 1]

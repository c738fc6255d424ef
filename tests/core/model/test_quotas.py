"""Quotas: notation, and the periods of the calendar."""

from datetime import datetime, timedelta, timezone

import pytest

from flask_apikey import InvalidValue
from flask_apikey.core.model.quotas import MAX_QUOTA, checked_quota, counter_at, parse_quota
from flask_apikey.core.times import EPOCH


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        (None, None),
        ("10000/month", "10000/month"),
        (" 5 / Day ", "5/day"),
        ("5/total", "5/total"),
        (f"{MAX_QUOTA}/year from creation", f"{MAX_QUOTA}/year from creation"),
    ],
)
def test_quota(given, canonical):
    assert checked_quota(given) == canonical


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        ("", "is not a quota, such as '10000/month'"),
        ("often", "is not a quota"),
        ("-5/month", "is not a quota"),
        ("5/hour", "is not a quota"),
        ("5.5/month", "is not a quota"),
        ("\u0665/month", "is not a quota"),
        ("5/month; 9/year", "is not a quota"),
        ("0/month", "must allow between 1 and"),
        (f"{MAX_QUOTA + 1}/month", "must allow between 1 and"),
        ("5/day from creation", "contradicts itself; 'from creation' has no effect beside day"),
        ("5/total from creation", "has no effect beside total"),
        (5, "quota must be a str such as '10000/month', not int"),
        (True, "not bool"),
    ],
)
def test_refused_quota(quota, message):
    with pytest.raises(InvalidValue, match=message):
        checked_quota(quota)


@pytest.mark.parametrize(
    ("period", "now", "starts_at", "ends_at"),
    [
        ("day", "2026-03-01T00:00", "2026-03-01", "2026-03-02"),
        ("day", "2026-03-01T23:59:59.999999", "2026-03-01", "2026-03-02"),
        ("week", "2026-01-04T23:59", "2025-12-29", "2026-01-05"),
        ("week", "2026-01-05", "2026-01-05", "2026-01-12"),
        ("month", "2026-12-31T23:59", "2026-12-01", "2027-01-01"),
        ("month", "2028-02-29", "2028-02-01", "2028-03-01"),
        ("year", "2026-12-31", "2026-01-01", "2027-01-01"),
        ("week from creation", "2026-02-06", "2026-01-31", "2026-02-07"),
        ("month from creation", "2026-01-31T05:00", "2026-01-31", "2026-02-28"),
        ("month from creation", "2026-02-28", "2026-02-28", "2026-03-31"),
        ("month from creation", "2026-03-30", "2026-02-28", "2026-03-31"),
        ("month from creation", "2027-01-05", "2026-12-31", "2027-01-31"),
        ("month from creation", "2025-12-31", "2025-12-31", "2026-01-31"),
        ("year from creation", "2027-01-30", "2026-01-31", "2027-01-31"),
    ],
)
def test_period(period, now, starts_at, ends_at):
    counter = counter_at(parse_quota(f"5/{period}"), "key:a", moment(now), moment("2026-01-31T12:00"))
    assert counter == ("key:a", moment(starts_at), moment(ends_at))


def test_year_from_a_leap_day():
    counter = counter_at(parse_quota("5/year from creation"), "a", moment("2029-03-01"), moment("2028-02-29"))
    assert counter == ("a", moment("2029-02-28"), moment("2030-02-28"))


def test_total_has_one_period():
    counters = {counter_at(parse_quota("5/total"), "a", moment(f"{year}-01-01"), EPOCH) for year in (1971, 2026)}
    assert counters == {("a", EPOCH, None)}


def test_every_moment_is_in_its_period():
    quotas = [parse_quota(f"5/{each}") for each in ("day", "week", "month", "year", "month from creation")]
    now, created_at = moment("2027-12-20T07:00"), moment("2026-08-31T23:00")
    for _ in range(500):
        now += timedelta(hours=17)
        for quota in quotas:
            counter = counter_at(quota, "a", now, created_at)
            assert counter.starts_at <= now < counter.ends_at
            assert counter_at(quota, "a", counter.ends_at, created_at).starts_at == counter.ends_at

"""Usage reports: totals, rows, periods and errors."""

from datetime import datetime, timedelta, timezone

import pytest

from flask_apikey import APIKeys, InvalidValue, KeyNotFound, UsageBy, require_api_key
from flask_apikey.core.model import keystring
from flask_apikey.core.usage.reports import MAX_EMPTY_ROWS, UsageReports
from flask_apikey.testing import FrozenClock
from flask_apikey.testing.samples import stored_key
from tests.support.stored_usage import BOOK, BOOKS

NOW = datetime(2026, 1, 15, 12, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def reports(storage):
    return UsageReports(storage, FrozenClock(NOW))


@pytest.fixture
def key(storage):
    """Store a key and return its id."""

    def key(**attributes):
        stored = stored_key(**attributes)
        storage.add(stored)
        return stored.record.id

    return key


def test_endpoints_ranked_by_count_then_name(reports, key, counted):
    one, other = key(), key()
    counted(one, NOW, 2, endpoint=BOOKS)
    counted(one, NOW - HOUR, 3, endpoint=BOOKS)
    counted(other, NOW, 7, endpoint=BOOK)
    counted(other, NOW, 5, endpoint="/authors")
    report = reports.report()
    assert report.rows == ((BOOK, 7), ("/authors", 5), (BOOKS, 5))
    assert report.total == 17


def test_refusals_are_not_in_total(reports, key, counted):
    one = key()
    counted(one, NOW, 2)
    counted(one, NOW, 3, reason="wrong_secret")
    counted(one, NOW, 4, reason="revoked")
    counted(one, NOW - HOUR, 4, reason="revoked")
    for by in UsageBy:
        report = reports.report(by=by)
        assert report.total == sum(row.count for row in report.rows) == 2
        assert (report.refused, report.refusals) == (11, (("revoked", 8), ("wrong_secret", 3)))


def test_groupings_have_same_total(reports, key, counted):
    one, other = key(), key()
    counted(one, NOW - 2 * HOUR, 2)
    counted(one, NOW, 1, status="4xx")
    counted(other, NOW - DAY, 5)
    assert reports.report(by="status").rows == (("2xx", 7), ("4xx", 1))
    assert reports.report(by="key").rows == ((other, 5), (one, 3))
    assert reports.report(by="day").rows == (("2026-01-14", 5), ("2026-01-15", 3))
    hours = [row for row in reports.report(by="hour").rows if row.count]
    assert hours == [
        ("2026-01-14T12:00:00+00:00", 5),
        ("2026-01-15T10:00:00+00:00", 2),
        ("2026-01-15T12:00:00+00:00", 1),
    ]


def test_report_on_one_key(reports, key, counted):
    one, other = key(), key()
    counted(one, NOW, 2)
    counted(other, NOW, 5)
    counted(other, NOW, 1, reason="expired")
    assert reports.report(key_id=one).total == 2
    assert reports.report(key_id=one).refused == 0
    assert reports.report(key_id=other, by="key").rows == ((other, 5),)


def test_report_on_owner(reports, key, counted):
    one, other = key(owner="team-7"), key(owner="team-7")
    counted(one, NOW, 2, owner="team-7")
    counted(other, NOW, 3, owner="team-7")
    counted(other, NOW, 4, owner="team-7", reason="expired")
    counted(other, NOW, 7, owner="team-8")
    counted(key(), NOW, 11)
    report = reports.report(owner="team-7", by="key")
    assert report.rows == ((other, 3), (one, 2))
    assert (report.total, report.refused) == (5, 4)
    assert reports.report(owner="team-9").total == 0
    assert reports.report(by="owner").rows == (("", 11), ("team-8", 7), ("team-7", 5))
    assert reports.report(owner="team-7", key_id=other, by="owner").rows == (("team-7", 3),)


def test_report_on_key_with_owner(reports, key, counted):
    """A former owner keeps the counts of the key. Any other owner learns nothing about it."""
    one, unused = key(owner="team-7"), key(owner="team-7")
    counted(one, NOW, 2, owner="team-6", reason="expired")
    assert reports.report(key_id=unused, owner="team-7").total == 0
    assert reports.report(key_id=one, owner="team-7").refused == 0
    assert reports.report(key_id=one, owner="team-6").refused == 2
    for key_id in (one, "0123456789ABCDEF"):
        with pytest.raises(KeyNotFound, match=f"^no key has the id {key_id}$"):
            reports.report(key_id=key_id, owner="team-8")


def test_usage_stays_with_former_owner(make_app, storage):
    app = make_app()
    api_keys = APIKeys(app, backend=storage)
    app.add_url_rule("/books", view_func=require_api_key(lambda: "ok"))
    client = app.test_client()
    with app.app_context():
        issued, other = (api_keys.create(name="ci", owner="team-7") for _ in range(2))
        wrong_secret = keystring.mint(issued.record.prefix, issued.record.id)
        for requests, owner in ((2, "team-7"), (3, "team-8"), (4, None)):
            api_keys.update(issued.record.id, owner=owner)
            for key in (*[issued.key] * requests, wrong_secret):
                client.get("/books", headers={"X-API-Key": key})
        client.get("/books", headers={"X-API-Key": other.key})
        for issued_key in (issued, other):
            api_keys.revoke(issued_key.record.id)
        for _ in range(2):
            assert api_keys.usage(by="owner").rows == (("", 4), ("team-7", 3), ("team-8", 3))
            assert [api_keys.usage(owner=owner).total for owner in ("team-7", "team-8")] == [3, 3]
            assert api_keys.usage(owner="team-8").refusals == (("wrong_secret", 1),)
            assert api_keys.usage(key_id=issued.record.id, owner="team-7").total == 2
            api_keys.prune(ended_before=datetime.now(timezone.utc) + DAY)
        for method in (api_keys.usage, api_keys.list, api_keys.count, api_keys.revoke_many):
            with pytest.raises(InvalidValue, match="owner must not be None"):
                method(owner=None)


def test_empty_hours_and_days_are_filled_in(reports, key, counted):
    counted(key(), NOW, 2)
    assert reports.report(since=NOW - 2 * DAY, by="day").rows == (
        ("2026-01-13", 0),
        ("2026-01-14", 0),
        ("2026-01-15", 2),
    )
    assert reports.report(since=NOW - HOUR, until=NOW + HOUR, by="hour").rows == (
        ("2026-01-15T11:00:00+00:00", 0),
        ("2026-01-15T12:00:00+00:00", 2),
        ("2026-01-15T13:00:00+00:00", 0),
    )


def test_open_period_runs_from_first_request_to_today(reports, key, counted):
    one = key()
    counted(one, NOW - 2 * DAY, 2)
    assert reports.report(by="day").rows == (("2026-01-13", 2), ("2026-01-14", 0), ("2026-01-15", 0))
    counted(one, NOW + DAY, 1)
    assert reports.report(by="day").rows[-1] == ("2026-01-16", 1)


def test_long_period_omits_empty_days(reports, key, counted):
    one = key()
    counted(one, datetime(1970, 1, 1, tzinfo=timezone.utc), 2)
    counted(one, datetime(9999, 12, 31, 23, tzinfo=timezone.utc), 3)
    assert reports.report(by="day").rows == (("1970-01-01", 2), ("9999-12-31", 3))
    assert reports.report(by="day", since=NOW - MAX_EMPTY_ROWS * DAY).rows == (("9999-12-31", 3),)
    assert len(reports.report(by="day", since=NOW - (MAX_EMPTY_ROWS - 1) * DAY, until=NOW).rows) == MAX_EMPTY_ROWS


def test_period_is_rounded_to_hours(reports, key, counted):
    one = key()
    for hours in range(4):
        counted(one, NOW + hours * HOUR, 10**hours)
    indian_time = timezone(timedelta(hours=5, minutes=30))
    report = reports.report(since=(NOW + HOUR).astimezone(indian_time), until=NOW + 2 * HOUR)
    assert report.total == 110
    assert report.since.isoformat() == "2026-01-15T13:00:00+00:00"
    assert report.until.isoformat() == "2026-01-15T15:00:00+00:00"
    on_the_hour = NOW.replace(minute=0)
    report = reports.report(since=on_the_hour, until=on_the_hour + HOUR)
    assert (report.total, report.since, report.until) == (1, on_the_hour, on_the_hour + HOUR)


def test_folded_days_count_for_their_day(reports, key, counted):
    one = key()
    counted(one, datetime(2026, 1, 14, tzinfo=timezone.utc), 24, span=24)
    counted(one, NOW - DAY, 1)
    assert reports.report(by="day").rows == (("2026-01-14", 25), ("2026-01-15", 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "week"}, "by must be one of endpoint, hour, day, status, key, owner"),
        ({"by": ["day"]}, "by must be one of endpoint, hour, day, status, key, owner"),
        ({"since": datetime(2026, 1, 15)}, "since must have a time zone"),  # noqa: DTZ001  # naive on purpose
        ({"until": "2026-01-15"}, "until must be a datetime, not str"),
        ({"since": NOW, "until": NOW - HOUR}, "must begin before it ends, not from 2026-01-15T12:30:00.00:00 to"),
        ({"since": NOW, "until": NOW}, "must begin before it ends"),
        ({"until": datetime.max.replace(tzinfo=timezone.utc)}, "until is outside the years 1 to 9999"),
        ({"owner": ""}, "owner must not be empty"),
    ],
)
def test_invalid_arguments(reports, arguments, message):
    with pytest.raises(InvalidValue, match=message) as refused:
        reports.report(**arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("unknown", ["", "x" * 17, "' OR 1=1", "0123456789ABCDEF"])
def test_unknown_key(reports, unknown):
    with pytest.raises(KeyNotFound):
        reports.report(key_id=unknown)


def test_report_includes_buffered_counts(make_app, storage):
    app = make_app(APIKEY_USAGE_FLUSH_INTERVAL="1h")
    api_keys = APIKeys(app, backend=storage)
    app.add_url_rule("/books", view_func=require_api_key(lambda: "ok"))
    with app.app_context():
        issued = api_keys.create(name="ci")
        for _ in range(3):
            app.test_client().get("/books", headers={"X-API-Key": issued.key})
        assert api_keys.usage(key_id=issued.record.id).rows == (("/books", 3),)


def test_report_as_json(app, storage, counted):
    api_keys = APIKeys(app, backend=storage, clock=FrozenClock(NOW))
    with app.app_context():
        key_id = api_keys.create(name="ci").record.id
        counted(key_id, NOW, 2)
        counted(key_id, NOW, 1, reason="expired")
        assert api_keys.usage(key_id=key_id, since=NOW, by="status").to_dict() == {
            "by": "status",
            "since": "2026-01-15T12:00:00+00:00",
            "until": None,
            "total": 2,
            "rows": [{"label": "2xx", "count": 2}],
            "refused": 1,
            "refusals": [{"label": "expired", "count": 1}],
        }

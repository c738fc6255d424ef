"""Listing of keys."""

from datetime import timedelta

import pytest

from flask_apikey import InvalidValue

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)
ID = "0" * 16


class TestList:
    @pytest.fixture
    def records(self, lifecycle, clock):
        records = []
        for number in range(5):
            records.append(lifecycle.create(name=f"key {number}", owner="ab"[number % 2]).record)
            clock.advance(timedelta(seconds=1))
        return records

    def test_list_is_oldest_first(self, lifecycle, monkeypatch, records):
        monkeypatch.setattr("flask_apikey.core.keys.repository._PAGE", 2)
        assert list(lifecycle.list()) == records
        assert list(lifecycle.list(owner="a")) == records[::2]
        assert list(lifecycle.list(owner="nobody")) == []

    def test_list_limit_and_cursor(self, lifecycle, records):
        first = list(lifecycle.list(limit=2))
        assert first == records[:2]
        assert list(lifecycle.list(after=first[-1].cursor, limit=2)) == records[2:4]
        assert list(lifecycle.list(after=records[-1].cursor)) == []
        assert list(lifecycle.list(limit=0)) == []

    def test_list_by_status(self, lifecycle, clock):
        active = lifecycle.create(name="active")
        forever = lifecycle.create(name="for ever", lifetime=None)
        expired = lifecycle.create(name="expired", lifetime=HOUR)
        revoked = lifecycle.create(name="revoked")
        both = lifecycle.create(name="revoked and expired", lifetime=HOUR)
        lifecycle.revoke(revoked.record.id)
        lifecycle.revoke(both.record.id)
        clock.advance(HOUR)

        def names(status):
            return {record.name for record in lifecycle.list(status=status)}

        assert names("active") == {active.record.name, forever.record.name}
        assert names("expired") == {expired.record.name}
        assert names("revoked") == {"revoked", "revoked and expired"}
        assert len(names(None)) == 5

    def test_list_expiring(self, lifecycle, clock):
        lifecycle.create(name="for ever", lifetime=None)
        lifecycle.create(name="later", lifetime=DAY + INSTANT)
        lifecycle.create(name="soon", lifetime=DAY, owner="a")
        lifecycle.create(name="sooner", lifetime=2 * HOUR)
        lifecycle.create(name="ended", lifetime=HOUR)
        lifecycle.revoke(lifecycle.create(name="revoked", lifetime=DAY).record.id)
        clock.advance(HOUR)

        def names(**conditions):
            return {record.name for record in lifecycle.list(**conditions)}

        assert names(expiring_within=DAY - HOUR) == {"soon", "sooner"}
        assert names(expiring_within=DAY - HOUR, status="active", owner="a") == {"soon"}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            *(
                ({"expiring_within": DAY, "status": status}, "active keys only")
                for status in ("suspended", "expired", "revoked")
            ),
            *(({"expiring_within": within}, "expiring_within") for within in (timedelta(0), timedelta.max, 5, "14")),
            *(({"status": status}, "active, suspended, expired, revoked") for status in ("ACTIVE", "", 5)),
            *(({"after": cursor}, "cursor") for cursor in ("", "x", "1.x", f"x.{ID}", f"{'9' * 5000}.{ID}")),
            ({"after": f"{'9' * 40}.{ID}"}, "cursor"),
            ({"limit": -1}, "limit"),
        ],
    )
    def test_list_refuses_invalid_arguments(self, lifecycle, arguments, message):
        with pytest.raises(InvalidValue, match=message):
            lifecycle.list(**arguments)

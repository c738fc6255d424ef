"""Removal of ended keys."""

from datetime import datetime, timedelta

import pytest

from flask_apikey import InvalidValue

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class TestPrune:
    def test_prune_removes_keys_ended_before(self, lifecycle, monkeypatch, clock):
        monkeypatch.setattr("flask_apikey.core.keys.repository._PAGE", 2)
        start = clock()
        keep = [lifecycle.create(name="active"), lifecycle.create(name="for ever", lifetime=None)]
        keep.append(lifecycle.create(name="expired later", lifetime=2 * DAY))
        gone = [lifecycle.create(name="expired", lifetime=HOUR), lifecycle.create(name="revoked", lifetime=None)]
        lifecycle.revoke(gone[1].record.id)
        clock.advance(3 * DAY)
        late = lifecycle.create(name="revoked later")
        lifecycle.revoke(late.record.id)
        seen = []
        assert lifecycle.prune(ended_before=start + DAY, dry_run=True) == 2
        assert len(list(lifecycle.list())) == 6
        assert lifecycle.prune(ended_before=start + DAY, progress=seen.append) == 2
        assert {record.name for record in seen} == {"expired", "revoked"}
        assert {record.id for record in lifecycle.list()} == {each.record.id for each in [*keep, late]}
        assert lifecycle.prune(ended_before=start + DAY) == 0

    def test_concurrently_extended_key_is_kept(self, lifecycle, backend, clock):
        key_id = lifecycle.create(name="ci", lifetime=HOUR).record.id
        clock.advance(DAY)
        backend.before_next_update = lambda: lifecycle.update(key_id, expires_at=None)
        assert lifecycle.prune(ended_before=clock()) == 0
        assert lifecycle.get(key_id).expires_at is None

    @pytest.mark.parametrize("moment", [datetime(2026, 1, 1), None, "2026-01-01", 0])  # noqa: DTZ001  # must be refused
    def test_prune_refuses_invalid_time(self, lifecycle, moment):
        with pytest.raises(InvalidValue, match="ended_before"):
            lifecycle.prune(ended_before=moment)

"""Rolls of keys, and their earlier secrets."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_apikey import Conflict, InvalidValue, KeyEnded, SealUnreadable
from flask_apikey.core.keys.authenticator import Authenticator, Verdict
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.grace import MAX_SECRETS
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.sealing import FernetKeyring, digest, generate_fernet_key
from flask_apikey.testing import FrozenClock
from flask_apikey_sql import SQLBackend
from tests.support.keys import Lifecycle

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)


class TestRoll:
    def test_changes_after_loss_of_the_fernet_key(self, lifecycle, backend, clock):
        old = lifecycle.create(name="ci", scopes=["read"])
        after_loss = Lifecycle(backend, FernetKeyring(generate_fernet_key()), IssuePolicy(), clock)
        before = backend.get(old.record.id)
        for change in (
            lambda: after_loss.roll(old.record.id),
            lambda: after_loss.roll(old.record.id, grace=HOUR),
            lambda: after_loss.update(old.record.id, name="renamed"),
        ):
            with pytest.raises(SealUnreadable):
                change()
        assert backend.get(old.record.id) == before
        assert after_loss.revoke(old.record.id, reason="lost").revocation_reason == "lost"
        assert backend.get(old.record.id).record.revoked_at == clock()

    def test_roll_keeps_other_fields(self, lifecycle, verdict, clock):
        old = lifecycle.create(name="ci", owner="a", scopes=["read"], allowed_ips=["10.0.0.1"], metadata={"a": 1})
        clock.advance(HOUR)
        new = lifecycle.roll(old.record.id)
        assert verdict(new.key, "10.0.0.1") is Verdict.ACCEPTED
        assert new.key != old.key
        assert new.record == lifecycle.get(old.record.id)
        assert new.record == replace(old.record, rolled_at=clock(), updated_at=clock(), version=2)

    def test_decision_has_position_and_expiry_of_secret(self, lifecycle, decision, clock):
        first = lifecycle.create(name="ci", lifetime=2 * DAY)
        second = lifecycle.roll(first.record.id, grace=HOUR)
        third = lifecycle.roll(first.record.id, grace=DAY)
        decisions = [decision(each.key) for each in (third, second, first)]
        assert [each.position for each in decisions] == [0, 1, 2]
        assert [each.ends_at for each in decisions] == [clock() + 2 * DAY, clock() + DAY, clock() + HOUR]
        lifecycle.update(first.record.id, expires_at=clock() + 2 * HOUR)
        assert [decision(each.key).ends_at for each in (second, first)] == [clock() + 2 * HOUR, clock() + HOUR]
        lifecycle.update(first.record.id, expires_at=None)
        assert [decision(each.key).ends_at for each in (third, second)] == [None, clock() + DAY]

    def test_expired_secrets_are_removed_from_the_seal(self, lifecycle, backend, ring, clock):
        first = lifecycle.create(name="ci")
        second = lifecycle.roll(first.record.id, grace=HOUR)
        clock.advance(HOUR)
        third = lifecycle.roll(first.record.id, grace=HOUR)
        digests = ring.unseal(backend.get(first.record.id).seal).secrets.digests
        assert digests == (digest(third.key), digest(second.key))

    def test_maximum_number_of_secrets(self, lifecycle, verdict):
        key_id = lifecycle.create(name="ci").record.id
        for _ in range(MAX_SECRETS - 1):
            newest = lifecycle.roll(key_id, grace=DAY)
        with pytest.raises(InvalidValue, match="grace 0"):
            lifecycle.roll(key_id, grace=DAY)
        assert verdict(newest.key) is Verdict.ACCEPTED
        assert verdict(lifecycle.roll(key_id).key) is Verdict.ACCEPTED

    @pytest.mark.parametrize("end", ["revoke", "expire"])
    def test_roll_refuses_ended_key(self, lifecycle, clock, end):
        record = lifecycle.create(name="ci", lifetime=HOUR).record
        if end == "revoke":
            record = lifecycle.revoke(record.id)
        else:
            clock.advance(HOUR)
        with pytest.raises(KeyEnded, match=record.id):
            lifecycle.roll(record.id, grace=DAY)
        assert lifecycle.get(record.id) == record

    @pytest.mark.parametrize("grace", [timedelta(microseconds=-1), timedelta.max, timedelta.min, 5, None, "1"])
    def test_roll_refuses_invalid_grace(self, lifecycle, grace):
        record = lifecycle.create(name="ci").record
        with pytest.raises(InvalidValue, match="grace"):
            lifecycle.roll(record.id, grace=grace)
        assert lifecycle.get(record.id) == record

    def test_roll_refuses_unexpected_version(self, lifecycle, verdict):
        first = lifecycle.create(name="ci")
        second = lifecycle.roll(first.record.id, expected_version=1)
        with pytest.raises(Conflict, match="changed since"):
            lifecycle.roll(first.record.id, expected_version=1)
        assert verdict(second.key) is Verdict.ACCEPTED

    def test_roll_uses_configured_prefix(self, make_lifecycle, backend, ring, clock):
        old = make_lifecycle(prefix="old").create(name="ci")
        new = make_lifecycle(prefix="new").roll(old.record.id, grace=HOUR)
        assert new.key.startswith("new_")
        authenticator = Authenticator(backend, ring, clock, ["new", "old"])
        assert all(authenticator.authenticate(Credentials(each.key), None) for each in (old, new))


class TestEndSecret:
    @pytest.fixture
    def three(self, lifecycle):
        """Three secrets of one key, oldest first."""
        first = lifecycle.create(name="ci")
        return [first, *(lifecycle.roll(first.record.id, grace=grace) for grace in (DAY, HOUR))]

    @pytest.mark.parametrize(("position", "works"), [(1, [True, False, True]), (2, [False, True, True])])
    def test_other_secrets_keep_working(self, lifecycle, backend, ring, decision, three, position, works):
        key_id = three[0].record.id
        before = lifecycle.get(key_id)
        record = lifecycle.end_secret(key_id, position, expected_version=3, reason="leaked")
        assert [decision(each.key).accepted for each in three] == works
        assert record == lifecycle.get(key_id)
        kept = [end for index, end in enumerate(before.previous_secrets_expire_at, 1) if index != position]
        assert record == replace(
            before, previous_secrets_expire_at=tuple(kept), updated_at=record.updated_at, version=4
        )
        assert len(ring.unseal(backend.get(key_id).seal).secrets.digests) == 2

    @pytest.mark.parametrize(
        ("position", "version", "message"),
        [(0, 3, "position"), (-1, 3, "position"), (3, 3, "position"), (1, 2, "changed since")],
    )
    def test_end_secret_refuses_other_positions_and_versions(
        self, lifecycle, decision, three, position, version, message
    ):
        with pytest.raises(Conflict, match=message):
            lifecycle.end_secret(three[0].record.id, position, expected_version=version)
        assert all(decision(each.key).accepted for each in three)

    def test_current_secret_stays_recoverable(self, make_lifecycle):
        lifecycle = make_lifecycle(recoverable=True)
        first = lifecycle.create(name="ci")
        second = lifecycle.roll(first.record.id, grace=DAY)
        lifecycle.end_secret(first.record.id, 1, expected_version=2)
        assert lifecycle.reveal(first.record.id) == second.key


durations = st.timedeltas(timedelta(0), timedelta(days=3))


@given(lifetime=st.none() | st.timedeltas(HOUR, timedelta(days=9)), steps=st.lists(st.tuples(durations, durations)))
@example(lifetime=None, steps=[(HOUR, HOUR - INSTANT), (DAY, INSTANT), (DAY, DAY - INSTANT), (HOUR, INSTANT)])
@example(lifetime=None, steps=[(DAY, HOUR), (HOUR, HOUR), (DAY, HOUR), (timedelta(0), HOUR)])
@example(lifetime=HOUR, steps=[(DAY, HOUR - INSTANT), (DAY, INSTANT)])
def test_secrets_expire_on_time_after_any_rolls(fernet_key, lifetime, steps):
    clock, backend, ring = FrozenClock(), SQLBackend("sqlite:///:memory:"), FernetKeyring(fernet_key)
    lifecycle, authenticator = Lifecycle(backend, ring, clock=clock), Authenticator(backend, ring, clock)
    issued = lifecycle.create(name="ci", scopes=["read"], lifetime=lifetime)
    expiry, ends = issued.record.expires_at, {}
    try:
        for grace, pause in steps:
            try:
                rolled = lifecycle.roll(issued.record.id, grace=grace)
            except (KeyEnded, InvalidValue):
                clock.advance(pause)
                continue
            assert (rolled.record.expires_at, rolled.record.scopes) == (expiry, {"read"})
            end = clock() + grace if expiry is None else min(expiry, clock() + grace)
            ends = {key: min(earlier, end) for key, earlier in ends.items()} | {issued.key: end}
            issued = rolled
            working = sorted((end for end in ends.values() if end > clock()), reverse=True)
            assert rolled.record.previous_secrets_expire_at == tuple(working)
            clock.advance(pause)
            for key, latest in ends.items():
                accepted = authenticator.authenticate(Credentials(key), None).accepted
                assert accepted is (clock() < latest and (expiry is None or clock() < expiry))
    finally:
        backend.close()

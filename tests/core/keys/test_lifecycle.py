"""Life cycle of keys: create, list, update, roll, reveal, revoke, prune."""

from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta, timezone
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_apikey import Conflict, InvalidValue, KeyEnded, KeyNotFound, NotRecoverable, SealUnreadable, StorageError
from flask_apikey.core.addresses import parse_address
from flask_apikey.core.errors import AlreadyExists
from flask_apikey.core.keys.authenticator import Authenticator, Verdict
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.grace import MAX_SECRETS
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model import keystring
from flask_apikey.core.model.sealing import FernetKeyring, digest, generate_fernet_key
from flask_apikey.testing import FrozenClock
from flask_apikey_sql import SQLBackend
from tests.support.keys import Lifecycle

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)
ID = "0" * 16


@pytest.fixture
def ring(fernet_key):
    return FernetKeyring(fernet_key)


@pytest.fixture
def make_lifecycle(backend, ring, clock):
    def make(**issuance):
        return Lifecycle(backend, ring, IssuePolicy(**issuance), clock)

    return make


@pytest.fixture
def lifecycle(make_lifecycle):
    return make_lifecycle()


@pytest.fixture
def decision(backend, ring, clock):
    authenticator = Authenticator(backend, ring, clock)
    return lambda key, address=None: authenticator.authenticate(Credentials(key), parse_address(address or ""))


@pytest.fixture
def verdict(decision):
    return lambda key, address=None: decision(key, address).verdict


class TestCreate:
    def test_create_stores_all_fields(self, lifecycle, clock):
        issued = lifecycle.create(
            name=" ci ",
            owner="team-7",
            scopes=["write", "read", "read"],
            lifetime=DAY,
            allowed_ips=["10.0.0.1", "10.0.0.0/8"],
            denied_ips=["::1"],
            metadata={"ticket": [1, None, {"a": "ü"}]},
        )
        record = lifecycle.get(issued.record.id)
        assert record == issued.record
        assert record.name == "ci"
        assert record.owner == "team-7"
        assert record.scopes == {"read", "write"}
        assert record.to_dict()["scopes"] == ["read", "write"]
        assert record.allowed_ips == ("10.0.0.0/8", "10.0.0.1/32")
        assert record.denied_ips == ("::1/128",)
        assert record.metadata == {"ticket": [1, None, {"a": "ü"}]}
        assert record.created_at == record.updated_at == clock()
        assert record.expires_at == clock() + DAY
        assert record.version == 1

    def test_key_has_prefix_and_id(self, make_lifecycle):
        issued = make_lifecycle(prefix="acme_live").create(name="ci")
        assert keystring.parse(issued.key) == ("acme_live", issued.record.id)
        assert issued.record.prefix == "acme_live"

    def test_lifetime_overrides_default(self, make_lifecycle, clock):
        lifecycle = make_lifecycle(lifetime=HOUR)
        assert lifecycle.create(name="ci").record.expires_at == clock() + HOUR
        assert lifecycle.create(name="ci", lifetime=DAY).record.expires_at == clock() + DAY
        assert lifecycle.create(name="ci", lifetime=None).record.expires_at is None
        assert make_lifecycle(lifetime=None).create(name="ci").record.expires_at is None

    def test_expires_at(self, make_lifecycle, clock):
        lifecycle = make_lifecycle(lifetime=HOUR)
        assert lifecycle.create(name="ci", expires_at=clock() + DAY).record.expires_at == clock() + DAY
        for lifetime in (DAY, None):
            with pytest.raises(InvalidValue, match="exclude each other"):
                lifecycle.create(name="ci", lifetime=lifetime, expires_at=clock() + DAY)
        for wrong in (clock(), clock().replace(tzinfo=None), "2030-01-31"):
            with pytest.raises(InvalidValue, match="expires_at"):
                lifecycle.create(name="ci", expires_at=wrong)

    def test_duplicate_id_is_replaced(self, lifecycle, monkeypatch):
        taken = lifecycle.create(name="first").record.id
        ids = iter([taken, "0" * 16])
        monkeypatch.setattr(keystring, "new_id", lambda: next(ids))
        issued = lifecycle.create(name="second")
        assert issued.record.id == "0" * 16
        assert keystring.parse(issued.key).id == "0" * 16
        assert lifecycle.get(taken).name == "first"

    def test_repeated_duplicate_ids_are_a_storage_error(self, lifecycle, backend):
        backend.failure = AlreadyExists("duplicate")
        with pytest.raises(StorageError, match="3 random ids"):
            lifecycle.create(name="ci")

    def test_create_refuses_invalid_value(self, lifecycle):
        with pytest.raises(InvalidValue):
            lifecycle.create(name="ci", scopes=["two words"])
        assert list(lifecycle.list()) == []

    def test_stored_row_has_no_secret(self, lifecycle, backend):
        issued = lifecycle.create(name="ci")
        stored = backend.get(issued.record.id)
        secret = issued.key.rpartition("_")[2]
        assert secret not in repr((stored.record, stored.record.to_dict(), stored.seal.token))

    def test_copied_seal_is_refused(self, lifecycle, backend, verdict):
        weak, strong = lifecycle.create(name="weak"), lifecycle.create(name="strong", scopes=["*"])
        stored = backend.get(strong.record.id)
        copied = replace(stored, seal=backend.get(weak.record.id).seal)
        backend.update(copied, expected_version=1, expected_seal=stored.seal.token)
        secret = weak.key.removeprefix(f"fak_{weak.record.id}_")[: keystring.SECRET_LENGTH]
        body = f"fak_{strong.record.id}_{secret}"
        assert verdict(body + keystring.checksum(body)) is Verdict.WRONG_SECRET
        assert verdict(strong.key) is Verdict.WRONG_SECRET
        # The string that the copied digest belongs to has the id of the other key.
        assert verdict(weak.key) is Verdict.ACCEPTED

    def test_record_is_frozen(self, lifecycle):
        with pytest.raises(FrozenInstanceError):
            lifecycle.create(name="ci").record.scopes = frozenset({"*"})

    def test_metadata_is_copied(self, lifecycle):
        metadata = {"nested": {"a": 1}}
        issued = lifecycle.create(name="ci", metadata=metadata)
        metadata["nested"]["a"] = 2
        assert issued.record.metadata == {"nested": {"a": 1}}


@pytest.mark.parametrize("key_id", ["0" * 16, "", "x", "x" * 17, "0" * 15 + "!", "0" * 16 + "\n"])
@pytest.mark.parametrize("method", ["get", "update", "revoke", "roll", "reveal"])
def test_unknown_id(make_lifecycle, method, key_id):
    with pytest.raises(KeyNotFound, match=key_id if keystring.is_id(key_id) else "not the id of a key"):
        getattr(make_lifecycle(recoverable=True), method)(key_id)


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


class TestUpdate:
    def test_update_keeps_other_fields(self, lifecycle, clock):
        before = lifecycle.create(name="ci", owner="a", scopes=["read"], metadata={"a": 1}).record
        clock.advance(HOUR)
        after = lifecycle.update(before.id, name="renamed")
        assert after == lifecycle.get(before.id) == replace(before, name="renamed", version=2, updated_at=clock())

    def test_update_all_fields(self, lifecycle, clock):
        changes = {
            "name": "b",
            "owner": None,
            "scopes": frozenset({"write"}),
            "allowed_ips": ("10.0.0.0/8",),
            "denied_ips": ("10.0.0.1/32",),
            "metadata": {"b": 2},
            "expires_at": clock() + DAY,
        }
        record = lifecycle.create(name="a", owner="a", scopes=["read"]).record
        changed = lifecycle.update(record.id, **changes)
        assert {name: getattr(changed, name) for name in changes} == changes

    def test_update_takes_effect_at_once(self, lifecycle, verdict, clock):
        issued = lifecycle.create(name="ci")
        lifecycle.update(issued.record.id, allowed_ips=["10.0.0.1"])
        assert verdict(issued.key, "10.0.0.2") is Verdict.ADDRESS_REFUSED
        lifecycle.update(issued.record.id, allowed_ips=[], expires_at=clock())
        assert verdict(issued.key) is Verdict.EXPIRED
        lifecycle.update(issued.record.id, expires_at=None)
        assert verdict(issued.key) is Verdict.ACCEPTED

    def test_expiry_is_stored_in_utc(self, lifecycle):
        record = lifecycle.create(name="ci").record
        moment = datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=5)))
        stored = lifecycle.update(record.id, expires_at=moment).expires_at
        assert stored == moment
        assert stored.utcoffset() == timedelta(0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            *(({name: "x"}, name) for name in ("id", "revoked_at", "version", "prefix", "created_at", "seal")),
            ({"previous_secrets_expire_at": ()}, "previous_secrets_expire_at"),
            ({"name": "new", "scopes": ["two words"]}, "scopes"),
        ],
    )
    def test_update_refuses_other_fields_and_invalid_values(self, lifecycle, changes, message):
        record = lifecycle.create(name="ci").record
        with pytest.raises(InvalidValue, match=message):
            lifecycle.update(record.id, **changes)
        assert lifecycle.get(record.id) == record

    def test_update_without_change_keeps_version(self, lifecycle):
        record = lifecycle.create(name="ci").record
        assert lifecycle.update(record.id, name="ci") == record


class TestRevoke:
    def test_revoke_ends_every_secret_once(self, lifecycle, verdict, clock):
        old = lifecycle.create(name="ci")
        new = lifecycle.roll(old.record.id, grace=DAY)
        record = lifecycle.revoke(old.record.id, reason="leaked")
        assert (record.revoked_at, record.revocation_reason) == (clock(), "leaked")
        assert verdict(old.key) is verdict(new.key) is Verdict.REVOKED
        clock.advance(HOUR)
        assert lifecycle.revoke(old.record.id, reason="other") == record

    def test_revoke_refuses_invalid_reason(self, lifecycle):
        record = lifecycle.create(name="ci").record
        with pytest.raises(InvalidValue, match="reason"):
            lifecycle.revoke(record.id, reason="a\nb")
        assert lifecycle.get(record.id) == record


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


class TestReveal:
    def test_reveal_returns_current_key(self, make_lifecycle):
        lifecycle = make_lifecycle(recoverable=True)
        issued = lifecycle.create(name="ci")
        assert lifecycle.reveal(issued.record.id) == issued.key
        rolled = lifecycle.roll(issued.record.id, grace=HOUR)
        assert lifecycle.reveal(issued.record.id) == rolled.key

    def test_reveal_needs_recoverable_keys_now_and_at_the_last_roll(self, make_lifecycle, lifecycle):
        recoverable = make_lifecycle(recoverable=True)
        key_id = recoverable.create(name="ci").record.id
        with pytest.raises(NotRecoverable, match="APIKEY_RECOVERABLE"):
            lifecycle.reveal(key_id)
        lifecycle.roll(key_id, grace=HOUR)
        with pytest.raises(NotRecoverable, match="roll it"):
            recoverable.reveal(key_id)
        rolled = recoverable.roll(key_id)
        assert recoverable.reveal(key_id) == rolled.key


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


class TestConcurrentChanges:
    @pytest.fixture
    def key(self, lifecycle):
        return lifecycle.create(name="ci", scopes=["read"])

    @pytest.mark.parametrize("changes", [("revoke", "update"), ("update", "revoke")], ids=["revoked", "renamed"])
    def test_concurrent_update_and_revocation(self, lifecycle, backend, key, verdict, changes):
        change = {"revoke": lifecycle.revoke, "update": partial(lifecycle.update, name="renamed")}
        first, second = (partial(change[name], key.record.id) for name in changes)
        backend.before_next_update = first
        second()
        assert verdict(key.key) is Verdict.REVOKED
        assert lifecycle.get(key.record.id).name == "renamed"

    @pytest.mark.parametrize(("method", "changes"), [("revoke", {}), ("update", {"scopes": []}), ("roll", {})])
    def test_roll_is_refused_after_concurrent_change(self, lifecycle, backend, key, method, changes):
        changed = []
        backend.before_next_update = lambda: changed.append(getattr(lifecycle, method)(key.record.id, **changes))
        with pytest.raises(Conflict, match=key.record.id):
            lifecycle.roll(key.record.id, grace=DAY)
        assert lifecycle.get(key.record.id) == getattr(changed[0], "record", changed[0])

    def test_update_of_concurrently_pruned_key(self, lifecycle, backend, key, prune):
        backend.before_next_update = lambda: prune(backend, key.record.id)
        with pytest.raises(KeyNotFound):
            lifecycle.update(key.record.id, name="renamed")

    def test_update_gives_up_after_repeated_conflicts(self, lifecycle, backend, key, monkeypatch):
        def update(*_, **__):
            raise Conflict("again")

        monkeypatch.setattr(backend, "update", update)
        with pytest.raises(Conflict, match="nothing was written"):
            lifecycle.update(key.record.id, name="renamed")


def test_storage_error_is_raised(lifecycle, backend):
    record = lifecycle.create(name="ci").record
    backend.failure = StorageError("down")
    with pytest.raises(StorageError, match="down"):
        lifecycle.revoke(record.id)
    with pytest.raises(StorageError, match="down"):
        lifecycle.create(name="ci")

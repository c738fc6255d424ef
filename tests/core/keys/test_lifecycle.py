"""The life of a key: created, listed, changed, rolled, revealed, revoked, removed."""

from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
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
    def test_what_was_given_is_stored(self, lifecycle, clock):
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
        assert record.allowed_ips == ("10.0.0.0/8", "10.0.0.1/32")
        assert record.denied_ips == ("::1/128",)
        assert record.metadata == {"ticket": [1, None, {"a": "ü"}]}
        assert record.created_at == record.updated_at == clock()
        assert record.expires_at == clock() + DAY
        assert record.version == 1

    def test_the_key_carries_prefix_and_id(self, make_lifecycle):
        issued = make_lifecycle(prefix="acme_live").create(name="ci")
        assert keystring.parse(issued.key) == ("acme_live", issued.record.id)
        assert issued.record.prefix == "acme_live"

    def test_a_new_key_is_accepted(self, lifecycle, verdict):
        assert verdict(lifecycle.create(name="ci").key) is Verdict.ACCEPTED

    def test_the_lifetime_is_the_configured_one_unless_given(self, make_lifecycle, clock):
        lifecycle = make_lifecycle(lifetime=HOUR)
        assert lifecycle.create(name="ci").record.expires_at == clock() + HOUR
        assert lifecycle.create(name="ci", lifetime=DAY).record.expires_at == clock() + DAY
        assert lifecycle.create(name="ci", lifetime=None).record.expires_at is None
        assert make_lifecycle(lifetime=None).create(name="ci").record.expires_at is None

    def test_an_end_in_place_of_a_lifetime(self, make_lifecycle, clock):
        lifecycle = make_lifecycle(lifetime=HOUR)
        assert lifecycle.create(name="ci", expires_at=clock() + DAY).record.expires_at == clock() + DAY
        for lifetime in (DAY, None):
            with pytest.raises(InvalidValue, match="exclude each other"):
                lifecycle.create(name="ci", lifetime=lifetime, expires_at=clock() + DAY)
        for wrong in (clock(), clock().replace(tzinfo=None), "2030-01-31"):
            with pytest.raises(InvalidValue, match="expires_at"):
                lifecycle.create(name="ci", expires_at=wrong)

    def test_it_expires_at_its_moment_and_not_before(self, lifecycle, verdict, clock):
        key = lifecycle.create(name="ci", lifetime=HOUR).key
        clock.advance(HOUR - timedelta(microseconds=1))
        assert verdict(key) is Verdict.ACCEPTED
        clock.advance(timedelta(microseconds=1))
        assert verdict(key) is Verdict.EXPIRED

    def test_an_id_that_is_taken_is_replaced(self, lifecycle, monkeypatch):
        taken = lifecycle.create(name="first").record.id
        ids = iter([taken, "0" * 16])
        monkeypatch.setattr(keystring, "new_id", lambda: next(ids))
        issued = lifecycle.create(name="second")
        assert issued.record.id == "0" * 16
        assert keystring.parse(issued.key).id == "0" * 16
        assert lifecycle.get(taken).name == "first"

    def test_ids_that_are_taken_without_end_are_a_failure_of_the_storage(self, lifecycle, backend):
        backend.failure = AlreadyExists("said of every id")
        with pytest.raises(StorageError, match="3 random ids"):
            lifecycle.create(name="ci")

    def test_nothing_is_written_when_a_value_is_bad(self, lifecycle):
        with pytest.raises(InvalidValue):
            lifecycle.create(name="ci", scopes=["two words"])
        assert list(lifecycle.list()) == []

    def test_nothing_is_issued_when_the_storage_fails(self, lifecycle, backend):
        backend.failure = StorageError("down")
        with pytest.raises(StorageError):
            lifecycle.create(name="ci")

    def test_what_is_stored_does_not_contain_the_secret(self, lifecycle, backend):
        issued = lifecycle.create(name="ci")
        stored = backend.get(issued.record.id)
        secret = issued.key.rpartition("_")[2]
        assert secret not in repr((stored.record, stored.seal.token))

    def test_a_seal_that_is_copied_to_another_row_opens_nothing(self, lifecycle, backend, verdict):
        weak, strong = lifecycle.create(name="weak"), lifecycle.create(name="strong", scopes=["*"])
        stored = backend.get(strong.record.id)
        copied = type(stored)(stored.record, backend.get(weak.record.id).seal)
        backend.update(copied, expected_version=1)
        secret = weak.key.removeprefix(f"fak_{weak.record.id}_")[: keystring.SECRET_LENGTH]
        body = f"fak_{strong.record.id}_{secret}"
        assert verdict(body + keystring.checksum(body)) is Verdict.WRONG_SECRET
        assert verdict(strong.key) is Verdict.WRONG_SECRET

    def test_a_record_cannot_be_changed_in_place(self, lifecycle):
        with pytest.raises(FrozenInstanceError):
            lifecycle.create(name="ci").record.scopes = frozenset({"*"})

    def test_metadata_is_a_copy(self, lifecycle):
        metadata = {"nested": {"a": 1}}
        issued = lifecycle.create(name="ci", metadata=metadata)
        metadata["nested"]["a"] = 2
        assert issued.record.metadata == {"nested": {"a": 1}}

    def test_the_record_as_json_values_holds_no_secret(self, lifecycle):
        issued = lifecycle.create(name="ci", scopes=["b", "a"])
        assert issued.record.to_dict()["scopes"] == ["a", "b"]
        assert issued.key.rpartition("_")[2] not in str(issued.record.to_dict())


@pytest.mark.parametrize("key_id", ["0" * 16, "", "x", "x" * 17, "0" * 15 + "!", "0" * 16 + "\n"])
@pytest.mark.parametrize("method", ["get", "update", "revoke", "roll"])
def test_an_unknown_id_is_named(lifecycle, method, key_id):
    with pytest.raises(KeyNotFound, match=key_id if keystring.is_id(key_id) else "not the id of a key"):
        getattr(lifecycle, method)(key_id)


class TestList:
    @pytest.fixture
    def records(self, lifecycle, clock):
        records = []
        for number in range(5):
            records.append(lifecycle.create(name=f"key {number}", owner="ab"[number % 2]).record)
            clock.advance(timedelta(seconds=1))
        return records

    def test_oldest_first(self, lifecycle, records):
        assert list(lifecycle.list()) == records

    def test_of_one_owner(self, lifecycle, records):
        assert list(lifecycle.list(owner="a")) == records[::2]
        assert list(lifecycle.list(owner="nobody")) == []

    def test_at_most_so_many_and_on_from_there(self, lifecycle, records):
        first = list(lifecycle.list(limit=2))
        assert first == records[:2]
        assert list(lifecycle.list(after=first[-1].cursor, limit=2)) == records[2:4]
        assert list(lifecycle.list(after=records[-1].cursor)) == []
        assert list(lifecycle.list(limit=0)) == []

    def test_keys_of_the_same_moment_are_all_listed_once(self, lifecycle):
        made = {lifecycle.create(name="ci").record.id for _ in range(7)}
        listed, cursor = [], None
        while page := list(lifecycle.list(after=cursor, limit=2)):
            listed += [record.id for record in page]
            cursor = page[-1].cursor
        assert sorted(listed) == sorted(made)

    def test_a_listing_longer_than_a_page(self, lifecycle, monkeypatch, records):
        monkeypatch.setattr("flask_apikey.core.keys.repository._PAGE", 2)
        assert list(lifecycle.list()) == records

    def test_a_cursor_goes_on_when_its_key_is_gone(self, lifecycle, backend, records):
        backend.delete(records[1].id, expected_version=1)
        assert list(lifecycle.list(after=records[1].cursor)) == records[2:]

    def test_by_status(self, lifecycle, clock):
        active = lifecycle.create(name="active")
        forever = lifecycle.create(name="for ever", lifetime=None)
        expired = lifecycle.create(name="expired", lifetime=HOUR)
        revoked = lifecycle.create(name="revoked")
        both = lifecycle.create(name="revoked and expired", lifetime=HOUR)
        lifecycle.revoke(revoked.record.id)
        lifecycle.revoke(both.record.id)
        clock.advance(HOUR)
        names = lambda status: {record.name for record in lifecycle.list(status=status)}  # noqa: E731
        assert names("active") == {active.record.name, forever.record.name}
        assert names("expired") == {expired.record.name}
        assert names("revoked") == {"revoked", "revoked and expired"}
        assert len(names(None)) == 5

    def test_those_that_expire_within_a_time(self, lifecycle, clock):
        lifecycle.create(name="for ever", lifetime=None)
        lifecycle.create(name="later", lifetime=DAY + timedelta(microseconds=1))
        lifecycle.create(name="soon", lifetime=DAY, owner="a")
        lifecycle.create(name="sooner", lifetime=2 * HOUR)
        lifecycle.create(name="ended", lifetime=HOUR)
        lifecycle.revoke(lifecycle.create(name="revoked", lifetime=DAY).record.id)
        clock.advance(HOUR)
        names = lambda **conditions: {record.name for record in lifecycle.list(**conditions)}  # noqa: E731
        assert names(expiring_within=DAY - HOUR) == {"soon", "sooner"}
        assert names(expiring_within=DAY - HOUR, status="active", owner="a") == {"soon"}

    @pytest.mark.parametrize("status", ["expired", "revoked"])
    def test_keys_that_have_ended_do_not_expire_any_more(self, lifecycle, status):
        with pytest.raises(InvalidValue, match="active keys only"):
            lifecycle.list(expiring_within=DAY, status=status)

    @pytest.mark.parametrize("within", [timedelta(0), -DAY, timedelta.max, 5, "14"])
    def test_a_time_to_expire_within_that_makes_no_sense(self, lifecycle, within):
        with pytest.raises(InvalidValue, match="expiring_within"):
            lifecycle.list(expiring_within=within)

    @pytest.mark.parametrize("status", ["ACTIVE", "gone", "", 5])
    def test_a_status_that_does_not_exist(self, lifecycle, status):
        with pytest.raises(InvalidValue, match="active, expired, revoked"):
            lifecycle.list(status=status)

    @pytest.mark.parametrize(
        "cursor", ["", ".", "x", "1.x", "x." + "0" * 16, "9" * 40 + "." + "0" * 16, "9" * 5000 + "." + "0" * 16]
    )
    def test_a_cursor_that_no_listing_gave(self, lifecycle, cursor):
        with pytest.raises(InvalidValue, match="cursor"):
            lifecycle.list(after=cursor)

    def test_a_negative_limit(self, lifecycle):
        with pytest.raises(InvalidValue, match="limit"):
            list(lifecycle.list(limit=-1))


class TestUpdate:
    def test_what_is_not_named_stays(self, lifecycle, clock):
        before = lifecycle.create(name="ci", owner="a", scopes=["read"], metadata={"a": 1}).record
        clock.advance(HOUR)
        after = lifecycle.update(before.id, name="renamed")
        assert after == lifecycle.get(before.id)
        assert after.name == "renamed"
        assert (after.owner, after.scopes, after.metadata) == ("a", {"read"}, {"a": 1})
        assert after.expires_at == before.expires_at
        assert (after.version, after.updated_at) == (2, clock())

    def test_everything_that_can_be_changed(self, lifecycle, clock):
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

    def test_a_change_holds_from_the_next_request_on(self, lifecycle, verdict, clock):
        issued = lifecycle.create(name="ci")
        lifecycle.update(issued.record.id, allowed_ips=["10.0.0.1"])
        assert verdict(issued.key, "10.0.0.2") is Verdict.ADDRESS_REFUSED
        lifecycle.update(issued.record.id, allowed_ips=[], expires_at=clock())
        assert verdict(issued.key) is Verdict.EXPIRED
        lifecycle.update(issued.record.id, expires_at=None)
        assert verdict(issued.key) is Verdict.ACCEPTED

    def test_a_moment_is_stored_in_utc(self, lifecycle):
        record = lifecycle.create(name="ci").record
        moment = datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=5)))
        stored = lifecycle.update(record.id, expires_at=moment).expires_at
        assert stored == moment
        assert stored.utcoffset() == timedelta(0)

    @pytest.mark.parametrize(
        "name", ["id", "revoked_at", "version", "prefix", "created_at", "previous_secrets_expire_at", "seal"]
    )
    def test_nothing_else_can_be_changed(self, lifecycle, name):
        record = lifecycle.create(name="ci").record
        with pytest.raises(InvalidValue, match=name):
            lifecycle.update(record.id, **{name: "x"})
        assert lifecycle.get(record.id) == record

    def test_a_bad_value_changes_nothing(self, lifecycle):
        record = lifecycle.create(name="ci").record
        with pytest.raises(InvalidValue):
            lifecycle.update(record.id, name="new", scopes=["two words"])
        assert lifecycle.get(record.id) == record

    def test_updating_does_not_end_a_revocation(self, lifecycle, verdict, clock):
        issued = lifecycle.create(name="ci")
        lifecycle.revoke(issued.record.id)
        lifecycle.update(issued.record.id, expires_at=clock() + DAY, name="again")
        assert verdict(issued.key) is Verdict.REVOKED

    def test_no_change_writes_nothing(self, lifecycle):
        record = lifecycle.create(name="ci").record
        assert lifecycle.update(record.id, name="ci") == record


class TestRevoke:
    def test_it_holds_from_the_next_request_on(self, lifecycle, verdict, clock):
        issued = lifecycle.create(name="ci")
        record = lifecycle.revoke(issued.record.id, reason="leaked")
        assert (record.revoked_at, record.revocation_reason) == (clock(), "leaked")
        assert verdict(issued.key) is Verdict.REVOKED

    def test_a_second_revocation_keeps_the_first(self, lifecycle, clock):
        key_id = lifecycle.create(name="ci").record.id
        first = lifecycle.revoke(key_id, reason="leaked")
        clock.advance(HOUR)
        assert lifecycle.revoke(key_id, reason="other") == first

    def test_the_secret_in_its_grace_is_revoked_with_the_key(self, lifecycle, verdict):
        old = lifecycle.create(name="ci")
        new = lifecycle.roll(old.record.id, grace=HOUR)
        lifecycle.revoke(old.record.id)
        assert verdict(old.key) is Verdict.REVOKED
        assert verdict(new.key) is Verdict.REVOKED

    def test_a_bad_reason_revokes_nothing_and_says_so(self, lifecycle):
        record = lifecycle.create(name="ci").record
        with pytest.raises(InvalidValue, match="reason"):
            lifecycle.revoke(record.id, reason="a\nb")
        assert lifecycle.get(record.id) == record


class TestRoll:
    def test_a_key_whose_fernet_key_is_lost_can_be_rolled_without_grace(self, lifecycle, backend, clock):
        old = lifecycle.create(name="ci", scopes=["read"])
        other_ring = FernetKeyring(generate_fernet_key())
        after_loss = Lifecycle(backend, other_ring, IssuePolicy(), clock)
        with pytest.raises(SealUnreadable):
            after_loss.roll(old.record.id, grace=HOUR)
        rolled = after_loss.roll(old.record.id)
        authenticator = Authenticator(backend, other_ring, clock)
        assert authenticator.authenticate(Credentials(rolled.key), None).verdict is Verdict.ACCEPTED
        assert authenticator.authenticate(Credentials(old.key), None).verdict is Verdict.WRONG_SECRET

    def test_the_new_secret_works_and_everything_else_stays(self, lifecycle, verdict, clock):
        old = lifecycle.create(name="ci", owner="a", scopes=["read"], allowed_ips=["10.0.0.1"], metadata={"a": 1})
        clock.advance(HOUR)
        new = lifecycle.roll(old.record.id)
        assert verdict(new.key, "10.0.0.1") is Verdict.ACCEPTED
        assert new.key != old.key
        assert new.record == lifecycle.get(old.record.id)
        for name in (
            "id",
            "name",
            "owner",
            "scopes",
            "allowed_ips",
            "denied_ips",
            "metadata",
            "created_at",
            "expires_at",
        ):
            assert getattr(new.record, name) == getattr(old.record, name)
        assert (new.record.rolled_at, new.record.version) == (clock(), 2)

    def test_without_grace_the_old_secret_ends_at_once(self, lifecycle, verdict):
        old = lifecycle.create(name="ci")
        new = lifecycle.roll(old.record.id, grace=timedelta(0))
        assert verdict(old.key) is Verdict.WRONG_SECRET
        assert new.record.previous_secrets_expire_at == ()

    def test_the_old_secret_works_until_the_grace_is_over(self, lifecycle, verdict, clock):
        old = lifecycle.create(name="ci")
        new = lifecycle.roll(old.record.id, grace=HOUR)
        clock.advance(HOUR - timedelta(microseconds=1))
        assert verdict(old.key) is Verdict.ACCEPTED
        clock.advance(timedelta(microseconds=1))
        assert verdict(old.key) is Verdict.WRONG_SECRET
        assert verdict(new.key) is Verdict.ACCEPTED

    def test_the_grace_ends_with_the_key(self, lifecycle, clock):
        old = lifecycle.create(name="ci", lifetime=HOUR)
        assert lifecycle.roll(old.record.id, grace=DAY).record.previous_secrets_expire_at == (clock() + HOUR,)

    def test_the_grace_of_a_key_without_expiry_is_as_long_as_asked(self, lifecycle, clock):
        old = lifecycle.create(name="ci", lifetime=None)
        record = lifecycle.roll(old.record.id, grace=DAY).record
        assert (record.previous_secrets_expire_at, record.expires_at) == ((clock() + DAY,), None)

    def test_a_later_expiry_does_not_prolong_the_grace(self, lifecycle, verdict, clock):
        old = lifecycle.create(name="ci", lifetime=HOUR)
        lifecycle.roll(old.record.id, grace=DAY)
        lifecycle.update(old.record.id, expires_at=None)
        clock.advance(HOUR)
        assert verdict(old.key) is Verdict.WRONG_SECRET

    def test_an_earlier_expiry_ends_the_grace_too(self, lifecycle, verdict, clock):
        old = lifecycle.create(name="ci")
        lifecycle.roll(old.record.id, grace=DAY)
        lifecycle.update(old.record.id, expires_at=clock() + HOUR)
        clock.advance(HOUR)
        assert verdict(old.key) is Verdict.EXPIRED

    def test_each_of_several_secrets_has_its_own_end(self, lifecycle, verdict, clock):
        first = lifecycle.create(name="ci")
        second = lifecycle.roll(first.record.id, grace=HOUR)
        third = lifecycle.roll(first.record.id, grace=DAY)
        assert third.record.previous_secrets_expire_at == (clock() + DAY, clock() + HOUR)
        assert [verdict(each.key) for each in (first, second, third)] == [Verdict.ACCEPTED] * 3
        clock.advance(HOUR)
        assert verdict(first.key) is Verdict.WRONG_SECRET
        assert verdict(second.key) is Verdict.ACCEPTED
        clock.advance(DAY)
        assert verdict(second.key) is Verdict.WRONG_SECRET
        assert verdict(third.key) is Verdict.ACCEPTED

    def test_the_decision_tells_which_secret_was_presented_and_when_it_ends(self, lifecycle, decision, clock):
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

    def test_a_shorter_grace_shortens_the_previous_secrets_too(self, lifecycle, verdict, clock):
        first = lifecycle.create(name="ci")
        lifecycle.roll(first.record.id, grace=DAY)
        lifecycle.roll(first.record.id, grace=HOUR)
        clock.advance(HOUR)
        assert verdict(first.key) is Verdict.WRONG_SECRET

    def test_rolling_without_grace_ends_all_previous_secrets(self, lifecycle, verdict):
        first = lifecycle.create(name="ci")
        second = lifecycle.roll(first.record.id, grace=DAY)
        third = lifecycle.roll(first.record.id)
        assert verdict(first.key) is verdict(second.key) is Verdict.WRONG_SECRET
        assert verdict(third.key) is Verdict.ACCEPTED

    def test_secrets_that_have_ended_are_forgotten(self, lifecycle, backend, ring, clock):
        first = lifecycle.create(name="ci")
        second = lifecycle.roll(first.record.id, grace=HOUR)
        clock.advance(HOUR)
        third = lifecycle.roll(first.record.id, grace=HOUR)
        digests = ring.unseal(backend.get(first.record.id).seal).digests
        assert digests == (digest(third.key), digest(second.key))

    def test_only_so_many_secrets_work_at_once(self, lifecycle, verdict):
        key_id = lifecycle.create(name="ci").record.id
        for _ in range(MAX_SECRETS - 1):
            newest = lifecycle.roll(key_id, grace=DAY)
        with pytest.raises(InvalidValue, match="grace 0"):
            lifecycle.roll(key_id, grace=DAY)
        assert verdict(newest.key) is Verdict.ACCEPTED
        assert verdict(lifecycle.roll(key_id).key) is Verdict.ACCEPTED

    @pytest.mark.parametrize("end", ["revoke", "expire"])
    def test_a_key_that_has_ended_cannot_be_rolled(self, lifecycle, clock, end):
        record = lifecycle.create(name="ci", lifetime=HOUR).record
        if end == "revoke":
            record = lifecycle.revoke(record.id)
        else:
            clock.advance(HOUR)
        with pytest.raises(KeyEnded, match=record.id):
            lifecycle.roll(record.id, grace=DAY)
        assert lifecycle.get(record.id) == record

    @pytest.mark.parametrize("grace", [timedelta(microseconds=-1), timedelta.max, timedelta.min, 5, None, "1"])
    def test_a_grace_that_makes_no_sense(self, lifecycle, grace):
        record = lifecycle.create(name="ci").record
        with pytest.raises(InvalidValue, match="grace"):
            lifecycle.roll(record.id, grace=grace)
        assert lifecycle.get(record.id) == record

    def test_only_the_version_that_is_expected_is_rolled(self, lifecycle, verdict):
        first = lifecycle.create(name="ci")
        second = lifecycle.roll(first.record.id, expected_version=1)
        with pytest.raises(Conflict, match="changed since"):
            lifecycle.roll(first.record.id, expected_version=1)
        assert verdict(second.key) is Verdict.ACCEPTED

    def test_a_new_prefix_is_taken_up(self, make_lifecycle, verdict):
        old = make_lifecycle(prefix="old").create(name="ci")
        new = make_lifecycle(prefix="new").roll(old.record.id, grace=HOUR)
        assert new.key.startswith("new_")
        assert verdict(old.key) is verdict(new.key) is Verdict.ACCEPTED


class TestEndSecret:
    @pytest.fixture
    def three(self, lifecycle):
        """The oldest first."""
        first = lifecycle.create(name="ci")
        return [first, *(lifecycle.roll(first.record.id, grace=grace) for grace in (DAY, HOUR))]

    @pytest.mark.parametrize(("position", "works"), [(1, [True, False, True]), (2, [False, True, True])])
    def test_it_ends_at_once_and_the_others_go_on(self, lifecycle, backend, ring, decision, three, position, works):
        key_id = three[0].record.id
        before = lifecycle.get(key_id)
        record = lifecycle.end_secret(key_id, position, expected_version=3, reason="leaked")
        assert [decision(each.key).accepted for each in three] == works
        assert record == lifecycle.get(key_id)
        kept = [end for index, end in enumerate(before.previous_secrets_expire_at, 1) if index != position]
        assert record == replace(
            before, previous_secrets_expire_at=tuple(kept), updated_at=record.updated_at, version=4
        )
        assert len(ring.unseal(backend.get(key_id).seal).digests) == 2

    @pytest.mark.parametrize("position", [0, -1, 3])
    def test_the_newest_and_those_that_are_none_cannot_be_ended(self, lifecycle, decision, three, position):
        with pytest.raises(Conflict, match="position"):
            lifecycle.end_secret(three[0].record.id, position, expected_version=3)
        assert all(decision(each.key).accepted for each in three)

    def test_a_secret_of_another_version_is_not_ended(self, lifecycle, decision, three):
        with pytest.raises(Conflict, match="changed since"):
            lifecycle.end_secret(three[0].record.id, 1, expected_version=2)
        assert all(decision(each.key).accepted for each in three)

    def test_the_newest_can_still_be_revealed(self, make_lifecycle):
        lifecycle = make_lifecycle(recoverable=True)
        first = lifecycle.create(name="ci")
        second = lifecycle.roll(first.record.id, grace=DAY)
        lifecycle.end_secret(first.record.id, 1, expected_version=2)
        assert lifecycle.reveal(first.record.id) == second.key


rolls = st.lists(
    st.tuples(st.timedeltas(timedelta(0), timedelta(days=3)), st.timedeltas(timedelta(0), timedelta(days=3))),
    max_size=12,
)


@given(lifetime=st.none() | st.timedeltas(HOUR, timedelta(days=9)), steps=rolls)
def test_no_series_of_rolls_lets_a_secret_outlive_its_end(fernet_key, lifetime, steps):
    clock, backend, ring = FrozenClock(), SQLBackend("sqlite://"), FernetKeyring(fernet_key)
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
            clock.advance(pause)
            for key, latest in ends.items():
                accepted = authenticator.authenticate(Credentials(key), None).accepted
                assert accepted is (clock() < latest and (expiry is None or clock() < expiry))
    finally:
        backend.close()


class TestReveal:
    def test_a_recoverable_key(self, make_lifecycle):
        lifecycle = make_lifecycle(recoverable=True)
        issued = lifecycle.create(name="ci")
        assert lifecycle.reveal(issued.record.id) == issued.key
        rolled = lifecycle.roll(issued.record.id, grace=HOUR)
        assert lifecycle.reveal(issued.record.id) == rolled.key

    def test_not_while_it_is_switched_off(self, make_lifecycle, lifecycle):
        key_id = make_lifecycle(recoverable=True).create(name="ci").record.id
        with pytest.raises(NotRecoverable, match="APIKEY_RECOVERABLE"):
            lifecycle.reveal(key_id)

    def test_not_a_key_issued_while_it_was_switched_off(self, make_lifecycle, lifecycle):
        issued = lifecycle.create(name="ci")
        recoverable = make_lifecycle(recoverable=True)
        with pytest.raises(NotRecoverable, match="roll it"):
            recoverable.reveal(issued.record.id)
        rolled = recoverable.roll(issued.record.id)
        assert recoverable.reveal(issued.record.id) == rolled.key

    def test_a_roll_while_it_is_switched_off_forgets_the_key(self, make_lifecycle, lifecycle):
        recoverable = make_lifecycle(recoverable=True)
        key_id = recoverable.create(name="ci").record.id
        lifecycle.roll(key_id, grace=HOUR)
        with pytest.raises(NotRecoverable):
            recoverable.reveal(key_id)

    def test_an_unknown_key(self, make_lifecycle):
        with pytest.raises(KeyNotFound):
            make_lifecycle(recoverable=True).reveal("0" * 16)


class TestPrune:
    def test_only_what_ended_before_the_moment_is_removed(self, lifecycle, clock):
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

    def test_more_than_a_page(self, lifecycle, monkeypatch, clock):
        monkeypatch.setattr("flask_apikey.core.keys.repository._PAGE", 2)
        for _ in range(5):
            lifecycle.revoke(lifecycle.create(name="ci").record.id)
        assert lifecycle.prune(ended_before=clock()) == 5
        assert list(lifecycle.list()) == []

    def test_a_key_that_comes_back_to_life_meanwhile_is_kept(self, lifecycle, backend, clock):
        key_id = lifecycle.create(name="ci", lifetime=HOUR).record.id
        clock.advance(DAY)
        backend.before_next_update = lambda: lifecycle.update(key_id, expires_at=None)
        assert lifecycle.prune(ended_before=clock()) == 0
        assert lifecycle.get(key_id).expires_at is None

    @pytest.mark.parametrize("moment", [datetime(2026, 1, 1), None, "2026-01-01", 0])  # noqa: DTZ001 - what is refused
    def test_a_moment_without_a_zone(self, lifecycle, moment):
        with pytest.raises(InvalidValue, match="ended_before"):
            lifecycle.prune(ended_before=moment)


class TestConcurrentChanges:
    @pytest.fixture
    def key(self, lifecycle):
        return lifecycle.create(name="ci", scopes=["read"])

    def test_two_updates_of_different_attributes_both_hold(self, lifecycle, backend, key):
        backend.before_next_update = lambda: lifecycle.update(key.record.id, owner="somebody")
        lifecycle.update(key.record.id, name="renamed")
        record = lifecycle.get(key.record.id)
        assert (record.owner, record.name, record.version) == ("somebody", "renamed", 3)

    def test_an_update_does_not_undo_a_revocation(self, lifecycle, backend, key, verdict):
        backend.before_next_update = lambda: lifecycle.revoke(key.record.id)
        lifecycle.update(key.record.id, name="renamed")
        assert verdict(key.key) is Verdict.REVOKED

    def test_a_revocation_wins_over_an_update(self, lifecycle, backend, key, verdict):
        backend.before_next_update = lambda: lifecycle.update(key.record.id, name="renamed")
        lifecycle.revoke(key.record.id)
        assert verdict(key.key) is Verdict.REVOKED
        assert lifecycle.get(key.record.id).name == "renamed"

    def test_of_two_rolls_at_once_one_is_refused_and_the_other_works(self, lifecycle, backend, key, verdict):
        others = []
        backend.before_next_update = lambda: others.append(lifecycle.roll(key.record.id))
        with pytest.raises(Conflict, match=key.record.id):
            lifecycle.roll(key.record.id)
        assert verdict(others[0].key) is Verdict.ACCEPTED

    def test_a_roll_does_not_undo_a_revocation(self, lifecycle, backend, key, verdict):
        backend.before_next_update = lambda: lifecycle.revoke(key.record.id)
        with pytest.raises(Conflict):
            lifecycle.roll(key.record.id, grace=DAY)
        assert verdict(key.key) is Verdict.REVOKED

    def test_a_roll_does_not_undo_a_narrower_scope(self, lifecycle, backend, key):
        backend.before_next_update = lambda: lifecycle.update(key.record.id, scopes=[])
        with pytest.raises(Conflict):
            lifecycle.roll(key.record.id, grace=DAY)
        assert lifecycle.get(key.record.id).scopes == frozenset()

    def test_a_key_that_is_removed_meanwhile(self, lifecycle, backend, key):
        backend.before_next_update = lambda: backend.inner.delete(key.record.id, expected_version=1)
        with pytest.raises(KeyNotFound):
            lifecycle.update(key.record.id, name="renamed")

    def test_changing_gives_up_when_there_is_no_end_to_it(self, lifecycle, backend, key, monkeypatch):
        def update(*_, **__):
            raise Conflict("again")

        monkeypatch.setattr(backend, "update", update)
        with pytest.raises(Conflict, match="nothing was written"):
            lifecycle.update(key.record.id, name="renamed")


def test_a_storage_that_fails_while_a_key_is_changed_is_told(lifecycle, backend):
    record = lifecycle.create(name="ci").record
    backend.failure = StorageError("down")
    with pytest.raises(StorageError, match="down"):
        lifecycle.revoke(record.id)

"""Creation, changes and revocation of keys."""

from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta, timezone

import pytest

from flask_apikey import InvalidValue, KeyNotFound, StorageError
from flask_apikey.core.errors import AlreadyExists
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.model import keystring

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


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


def test_storage_error_is_raised(lifecycle, backend):
    record = lifecycle.create(name="ci").record
    backend.failure = StorageError("down")
    with pytest.raises(StorageError, match="down"):
        lifecycle.revoke(record.id)
    with pytest.raises(StorageError, match="down"):
        lifecycle.create(name="ci")

"""Contract of `Backend`: its keys."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from flask_apikey.core.errors import AlreadyExists, Conflict, RowDamaged, StorageError
from flask_apikey.core.model.adopted_form import MAX_FORM_LENGTH
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.model.keys import DamagedKey, StoredKey
from flask_apikey.core.model.keystring import MAX_PREFIX_LENGTH, new_id
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.validation import (
    MAX_METADATA_BYTES,
    MAX_NAME_LENGTH,
    MAX_NETWORKS,
    MAX_OWNER_LENGTH,
    MAX_PLAN_LENGTH,
    MAX_REASON_LENGTH,
    MAX_SCOPE_LENGTH,
    MAX_SCOPES,
)
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.testing.contracts.fixtures import update
from flask_apikey.testing.contracts.key_listings import KeyListingContract, pages_of
from flask_apikey.testing.contracts.key_races import KeyRaceContract
from flask_apikey.testing.samples import NOW, RING, changed, recorded, stored_key
from flask_apikey.testing.tcp_proxy import TCPProxy

_VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all": {
        "prefix": "acme_live",
        "name": "Größe ✓ 日本 👩‍🚀",
        "owner": "team-7",
        "scopes": frozenset({"reports:read", "audit:*", "*"}),
        "allowed_ips": ("10.0.0.0/8", "2001:db8::/32"),
        "denied_ips": ("10.0.0.1/32",),
        "plan": "Größe 🔑",
        "rate": "60/minute; 1000/hour",
        "quota": "1000000000000000/month from creation",
        "metadata_json": '{"plan":"gold","seats":[1,2.5,null,true]}',
        "expires_at": NOW + timedelta(days=365, microseconds=1),
        "rolled_at": NOW + timedelta(microseconds=2),
        "previous_secrets_expire_at": (NOW + timedelta(hours=2), NOW + timedelta(hours=1)),
        "suspended_at": NOW + timedelta(microseconds=4),
        "suspension_reason": "unpaid 💸",
        "revoked_at": NOW + timedelta(microseconds=3),
        "revocation_reason": "leaked 🔑",
        "version": 7,
    },
    "longest": {
        "prefix": "p" * MAX_PREFIX_LENGTH,
        "name": "🔑" * MAX_NAME_LENGTH,
        "owner": "🔑" * MAX_OWNER_LENGTH,
        "adopted": "f" * MAX_FORM_LENGTH,
        "suspended_at": NOW,
        "suspension_reason": "🔑" * MAX_REASON_LENGTH,
        "revoked_at": NOW,
        "revocation_reason": "🔑" * MAX_REASON_LENGTH,
        "scopes": frozenset(f"{number:0{MAX_SCOPE_LENGTH}}" for number in range(MAX_SCOPES)),
        "plan": "🔑" * MAX_PLAN_LENGTH,
        "allowed_ips": tuple(
            f"2001:db8:aaaa:bbbb:cccc:dddd:{number:04x}:1/128" for number in range(1, MAX_NETWORKS + 1)
        ),
        "metadata_json": '{"a":"' + "x" * (MAX_METADATA_BYTES - 8) + '"}',
    },
    "tombstone": {"name": "", "pruned_at": NOW + timedelta(microseconds=4), "version": 8},
    "storage": {"id": STORAGE_ID, "prefix": "", "name": "", "pruned_at": NOW},
    **{f"until {year}": {"expires_at": datetime(year, 1, 20, tzinfo=timezone.utc)} for year in (1970, 2038, 9999)},
}


class BackendContract(KeyListingContract, KeyRaceContract):
    """Tests for the keys of a backend.

    Subclass it in a test module and add a fixture ``make_backend``::

        class TestMyBackend(BackendContract):
            @pytest.fixture
            def make_backend(self, tmp_path):
                return functools.partial(MyBackend.from_uri, f"mine://{tmp_path}")

    ``make_backend`` is called without arguments, in other processes too. It must be
    picklable, and its backends must reach the same storage. The storage must be empty
    and not initialised when a test starts.

    Two more fixtures add tests. ``server_uri`` is the URI of the server, if there is
    one: the contract interrupts connections to it. ``damage`` returns a function that
    writes nonsense into the row of a key, given its id, so that it holds no valid key.

    Attributes:
        is_shared: True if several processes reach the same storage. Only a storage in
            the memory of one process may set it to False.
    """

    @pytest.mark.parametrize("values", _VALUES.values(), ids=_VALUES)
    def test_values_round_trip(self, backend: Backend, values: dict[str, Any]) -> None:
        key, _ = recorded(stored_key(**values))
        backend.add(key)
        stored = backend.get(key.record.id)
        assert stored is not None
        assert stored == key
        assert secrets_of(stored, RING) == secrets_of(key, RING)

    def test_times_are_returned_in_utc(self, backend: Backend) -> None:
        elsewhere = timezone(timedelta(hours=5, minutes=30))
        key = stored_key(created_at=NOW.astimezone(elsewhere), expires_at=NOW.astimezone(elsewhere))
        backend.add(key)
        stored = backend.get(key.record.id)
        assert stored is not None
        assert stored.record.created_at == NOW
        assert stored.record.created_at.tzinfo is timezone.utc
        assert stored.record.expires_at is not None
        assert stored.record.expires_at.tzinfo is timezone.utc

    def test_ids_are_case_sensitive(self, backend: Backend) -> None:
        lower, upper = stored_key(id="a" * 16), stored_key(id="A" * 16)
        backend.add(lower)
        assert backend.get(upper.record.id) is None
        backend.add(upper)
        assert backend.get(upper.record.id) == upper
        assert backend.get(lower.record.id) == lower

    @pytest.mark.parametrize("pruned_at", [None, NOW], ids=["key", "tombstone"])
    def test_add_refuses_an_existing_id(self, backend: Backend, pruned_at: datetime | None) -> None:
        key = stored_key(pruned_at=pruned_at)
        backend.add(key)
        another = stored_key(id=key.record.id, name="another")
        with pytest.raises(AlreadyExists):
            backend.add(another)
        with pytest.raises(AlreadyExists):
            backend.add_many([stored_key(), another, stored_key()])
        assert backend.get(key.record.id) == key

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({}, {"name": "renamed", "revoked_at": NOW, "scopes": frozenset({"a"})}),
            (
                {"owner": "x", "expires_at": NOW, "allowed_ips": ("10.0.0.0/8",)},
                {"owner": None, "expires_at": None, "allowed_ips": ()},
            ),
            ({"version": 7}, {"name": "", "pruned_at": NOW}),
        ],
        ids=["to values", "to defaults", "to a tombstone"],
    )
    def test_update(self, backend: Backend, before: dict[str, Any], after: dict[str, Any]) -> None:
        key, other = stored_key(**before), stored_key(**before)
        backend.add_many([key, other])
        newer, _ = recorded(changed(key, **after))
        update(backend, key, newer)
        assert backend.get(key.record.id) == newer
        assert backend.get(other.record.id) == other

    def test_update_of_another_version_or_seal_is_a_conflict(self, backend: Backend) -> None:
        key, other = stored_key(version=3), stored_key(version=3)
        backend.add_many([key, other])
        newer = changed(key, name="renamed")
        for version, seal in ((2, key.seal), (4, key.seal), (3, newer.seal), (3, other.seal)):
            with pytest.raises(Conflict):
                backend.update(newer, expected_version=version, expected_seal=seal.token)
        unknown = stored_key()
        with pytest.raises(Conflict):
            update(backend, unknown, changed(unknown))
        assert [backend.get(each.record.id) for each in (key, other, unknown)] == [key, other, None]

    def test_revoke_unsealed_changes_nothing_else(self, backend: Backend) -> None:
        key, other, tombstone = stored_key(owner="a", version=3), stored_key(), stored_key(pruned_at=NOW)
        backend.add_many([key, other, tombstone])
        for moment, reason in ((NOW + timedelta(microseconds=5), "leaked 🔑"), (NOW, None)):
            assert backend.revoke_unsealed(key.record.id, revoked_at=moment, reason=reason)
            revoked = replace(key.record, revoked_at=moment, revocation_reason=reason)
            assert backend.get(key.record.id) == replace(key, record=revoked)
        assert backend.get(other.record.id) == other
        for key_id in (tombstone.record.id, new_id()):
            assert not backend.revoke_unsealed(key_id, revoked_at=NOW, reason=None)
        assert backend.get(tombstone.record.id) == tombstone

    def test_damaged_row(self, backend: Backend, damage: Callable[[str], object] | None) -> None:
        if damage is None:
            pytest.skip("no function damages a row")
        keys = [stored_key(id=letter * 16, name=letter) for letter in "abcde"]
        backend.add_many(keys)
        damaged = keys.pop(2).record.id
        damage(damaged)
        assert backend.revoke_unsealed(damaged, revoked_at=NOW, reason="damaged")
        with pytest.raises(RowDamaged, match=damaged):
            backend.get(damaged)
        with pytest.raises(RowDamaged, match=damaged):
            backend.get_many([keys[0].record.id, damaged])
        with pytest.raises(AlreadyExists):
            backend.add(stored_key(id=damaged))
        assert [backend.get(key.record.id) for key in keys] == keys
        for limit in (1, 2, 3, 10):
            assert list(pages_of(backend, KeyFilter(), limit)) == keys
        # A page with fewer keys is the last one.
        assert list(backend.find(KeyFilter(), after=None, limit=3)) == keys[:3]
        assert backend.count(KeyFilter()) == 5
        scanned = list(backend.scan(KeyFilter()))
        assert [each for each in scanned if isinstance(each, StoredKey)] == keys
        assert isinstance(scanned[2], DamagedKey)
        assert scanned[2].id == damaged
        assert damaged in scanned[2].problem

    def test_get_many(self, backend: Backend) -> None:
        keys = [stored_key(id=letter * 16) for letter in "aAb"]
        tombstone = stored_key(id="t" * 16, pruned_at=NOW)
        backend.add_many([*keys, tombstone])
        expected = {key.record.id: key for key in (keys[0], keys[2], tombstone)}
        for ids in (["b" * 16, "B" * 16, "t" * 16, "a" * 16], ["a" * 16, "a" * 16, "b" * 16, "t" * 16]):
            assert dict(backend.get_many(ids)) == expected
        assert dict(backend.get_many(["T" * 16])) == {}
        newer = changed(keys[0], name="renamed")
        update(backend, keys[0], newer)
        assert dict(backend.get_many(["a" * 16, "A" * 16])) == {"a" * 16: newer, "A" * 16: keys[1]}

    def test_init_storage_is_idempotent(self, backend: Backend) -> None:
        key = stored_key()
        backend.add(key)
        backend.init_storage()
        assert backend.get(key.record.id) == key

    def test_closed_backend_reopens(self, backend: Backend) -> None:
        if not self.is_shared:
            pytest.skip("the storage ends with its connection")
        key = stored_key()
        backend.add(key)
        backend.close()
        assert backend.get(key.record.id) == key
        backend.close()
        backend.ping()

    def test_lost_connection_is_a_storage_error(self, backend: Backend, server_uri: str | None) -> None:
        if server_uri is None:
            pytest.skip("there is no server that could go away")
        key = stored_key()
        newer = changed(key)
        backend.add(key)
        proxy = TCPProxy(server_uri)
        with closing(proxy), closing(type(backend).from_uri(proxy.uri)) as remote:
            assert remote.get(key.record.id) == key
            proxy.cut()
            attempts: list[Callable[[], object]] = [
                lambda: remote.get(key.record.id),
                lambda: remote.get_many([key.record.id, new_id()]),
                lambda: remote.add(stored_key()),
                lambda: update(remote, key, newer),
                lambda: remote.revoke_unsealed(key.record.id, revoked_at=NOW, reason=None),
                lambda: remote.find(KeyFilter(), after=None, limit=1),
                lambda: list(remote.scan(KeyFilter())),
                lambda: remote.count(KeyFilter()),
                remote.ping,
            ]
            for attempt in attempts:
                with pytest.raises(StorageError):
                    attempt()
            proxy.mend()
            assert remote.get(key.record.id) == key
            update(remote, key, newer)
            proxy.cut()
            proxy.mend()
            assert dict(remote.get_many([key.record.id])) == {key.record.id: newer}
            proxy.cut()
            proxy.mend()
            assert remote.get(key.record.id) == newer

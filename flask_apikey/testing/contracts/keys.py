"""Contract of `Backend`: its keys."""

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from threading import Barrier
from typing import Any

import pytest

from flask_apikey.core.errors import AlreadyExists, Conflict, RowDamaged, StorageError
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.keys.rolling import KeyRolling
from flask_apikey.core.model.adopted_form import MAX_FORM_LENGTH
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.model.keys import Cursor, DamagedKey, StoredKey
from flask_apikey.core.model.keystring import MAX_PREFIX_LENGTH, new_id
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import digest
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
from flask_apikey.core.times import utc_now
from flask_apikey.testing.contracts.fixtures import ContractFixtures, update
from flask_apikey.testing.races import MakeBackend, Race, count_wins, wins
from flask_apikey.testing.samples import NOW, RING, changed, recorded, sealed_under, stored_key
from flask_apikey.testing.tcp_proxy import TCPProxy

_RACERS = 6
_ROUNDS = 25
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

_FOUND_BY: dict[str, dict[str, Any]] = {
    "by id": {"id": "Zq" + "0" * 14},
    "by owner": {"owner": "team_7 (Köln)"},
    "by scope": {"scopes": frozenset({"files:read", "reports.x:*", "Z:a"})},
}
_NAMES = [
    *_FOUND_BY,
    "Nightly_Export 100%",
    "nightly-export",
    "Straße",
    "strasse",
    r"a\b.c",
    "it's (.*)",
    '"$gt" 🔑',
    "ÉTÉ",
]
_SEARCHES: dict[str, set[str]] = {
    "nightly": {"Nightly_Export 100%", "nightly-export"},
    "NIGHTLY_": {"Nightly_Export 100%"},
    "0%": {"Nightly_Export 100%"},
    "straße": {"Straße"},
    "STRAẞE": {"Straße"},
    "STRASSE": {"strasse"},
    "été": {"ÉTÉ"},
    "\\": {r"a\b.c"},
    r"A\B": {r"a\b.c"},
    "b.c": {r"a\b.c"},
    "a.b": set(),
    "%": {"Nightly_Export 100%"},
    "_": {"Nightly_Export 100%"},
    "'": {"it's (.*)"},
    ".*": {"it's (.*)"},
    "(": {"it's (.*)"},
    '"$GT': {'"$gt" 🔑'},
    "🔑": {'"$gt" 🔑'},
    "^": set(),
    "$": {'"$gt" 🔑'},
    "[a-z]": set(),
    "Zq": {"by id"},
    "zq0": set(),
    "Zq" + "0" * 14: {"by id"},
    "team_": {"by owner"},
    "team%": set(),
    "team_7 (K": {"by owner"},
    "TEAM_7": set(),
    "(Köln": set(),
    "reports.x:*": {"by scope"},
    "files:read": {"by scope"},
    "files:read reports": set(),
    "FILES:": set(),
    "read": set(),
    "Z:": {"by scope"},
}


class BackendContract(ContractFixtures):
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
            assert list(_pages(backend, KeyFilter(), limit)) == keys
        # A page with fewer keys is the last one.
        assert list(backend.find(KeyFilter(), after=None, limit=3)) == keys[:3]
        assert backend.count(KeyFilter()) == 5
        scanned = list(backend.scan(KeyFilter()))
        assert [each for each in scanned if isinstance(each, StoredKey)] == keys
        assert isinstance(scanned[2], DamagedKey)
        assert scanned[2].id == damaged
        assert damaged in scanned[2].problem

    @pytest.mark.parametrize("limit", [1, 2, 7, 100])
    def test_pages_are_complete_and_ordered(self, backend: Backend, limit: int) -> None:
        keys = [stored_key(created_at=NOW + timedelta(microseconds=number // 3)) for number in range(20)]
        assert list(_pages(backend, KeyFilter(), limit)) == []
        backend.add_many(keys[::-1])
        in_order = sorted(keys, key=lambda key: (key.record.created_at, key.record.id))
        assert list(_pages(backend, KeyFilter(), limit)) == in_order
        assert list(_pages(backend, KeyFilter(), limit, newest_first=True)) == in_order[::-1]

    def test_scan_is_in_the_order_of_ids(self, backend: Backend) -> None:
        keys = [stored_key(id=letter * 16) for letter in "09AZaz"]
        backend.add_many([keys[number] for number in (4, 1, 3, 5, 0, 2)])
        assert list(backend.scan(KeyFilter())) == keys
        assert list(backend.scan(KeyFilter(owner="nobody"))) == []

    def test_filters_hold_newest_first(self, backend: Backend) -> None:
        keys = [stored_key(owner="ab"[number % 2], created_at=NOW + timedelta(seconds=number)) for number in range(10)]
        for key in keys:
            backend.add(key)
        assert list(_pages(backend, KeyFilter(owner="a"), 2, newest_first=True)) == keys[-2::-2]

    def test_pages_are_stable_during_changes(self, backend: Backend) -> None:
        keys = [stored_key(created_at=NOW + timedelta(seconds=number)) for number in range(10)]
        backend.add_many(keys)
        pages = _pages(backend, KeyFilter(), 3)
        seen = [next(pages) for _ in range(3)]
        for number in (2, 5):
            update(backend, keys[number], changed(keys[number], pruned_at=NOW))
        backend.add(stored_key(created_at=NOW - timedelta(seconds=1)))
        late = stored_key(created_at=NOW + timedelta(seconds=6, microseconds=1))
        backend.add(late)
        seen += pages
        assert seen == [*keys[:5], keys[6], late, *keys[7:]]

    def test_filters_by_removal(self, backend: Backend) -> None:
        keys: dict[bool | None, list[StoredKey]] = {
            False: [stored_key(id="a" * 16, owner="x"), stored_key(id="c" * 16, owner="x", revoked_at=NOW)],
            True: [stored_key(id="b" * 16, owner="x", pruned_at=NOW)],
        }
        backend.add_many([*keys[False], *keys[True]])
        keys[None] = sorted([*keys[False], *keys[True]], key=lambda key: key.record.id)
        for owner in (None, "x"):
            for pruned, expected in keys.items():
                key_filter = KeyFilter(pruned=pruned, owner=owner)
                assert list(_pages(backend, key_filter, 1)) == list(backend.scan(key_filter)) == expected
                assert backend.count(key_filter) == len(expected)
            assert list(_pages(backend, KeyFilter(owner=owner), 2)) == keys[False]

    def test_filters_by_owner_revocation_and_expiry(self, backend: Backend) -> None:
        hour = timedelta(hours=1)
        forever = stored_key(name="forever", owner="a")
        later = stored_key(name="later", owner="a", expires_at=NOW + hour)
        ends_now = stored_key(name="ends now", owner="b", expires_at=NOW)
        ended = stored_key(name="ended", owner="b", expires_at=NOW - hour)
        revoked = stored_key(name="revoked", owner="a", revoked_at=NOW - hour, expires_at=NOW + hour)
        backend.add_many([forever, later, ends_now, ended, revoked])
        names = functools.partial(_names, backend)
        assert names(owner="a") == {"forever", "later", "revoked"}
        assert names(owner="A") == set()
        assert names(revoked=True) == {"revoked"}
        assert names(revoked=False) == {"forever", "later", "ends now", "ended"}
        assert names(expires_after=NOW) == {"forever", "later", "revoked"}
        assert names(expires_by=NOW) == {"ends now", "ended"}
        assert names(ended_by=NOW) == {"ends now", "ended", "revoked"}
        assert names(ended_by=NOW - 2 * hour) == set()
        assert names(expires_after=NOW - hour, expires_by=NOW) == {"ends now"}
        assert names(owner="a", revoked=False, expires_after=NOW) == {"forever", "later"}

    def test_filter_by_adoption(self, backend: Backend) -> None:
        adopted = stored_key(name="adopted", owner="a", adopted="sha256")
        removed = stored_key(name="", adopted="sha512", pruned_at=NOW)
        for key in (adopted, removed, stored_key(name="issued", owner="a")):
            backend.add(key)
        names = functools.partial(_names, backend)
        assert names(adopted=True) == {"adopted"}
        assert names(adopted=False) == {"issued"}
        assert names(adopted=True, pruned=None) == {"adopted", ""}
        assert names(adopted=True, owner="b") == set()
        assert list(backend.scan(KeyFilter(adopted=True))) == [adopted]

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

    def test_filter_by_suspension(self, backend: Backend) -> None:
        active = stored_key(name="active", owner="a")
        suspended = stored_key(name="suspended", owner="a", suspended_at=NOW)
        revoked = stored_key(name="revoked", owner="a", suspended_at=NOW, revoked_at=NOW)
        expired = stored_key(name="expired", owner="b", suspended_at=NOW, expires_at=NOW)
        for key in (active, suspended, revoked, expired):
            backend.add(key)
        names = functools.partial(_names, backend)
        assert names(suspended=True) == {"suspended", "revoked", "expired"}
        assert names(suspended=False) == {"active"}
        assert names(suspended=True, revoked=False, expires_after=NOW) == {"suspended"}
        assert names(suspended=True, owner="b") == {"expired"}

    def test_filters_by_creation_and_seal(self, backend: Backend) -> None:
        moment = timedelta(microseconds=1)
        ours = stored_key().seal.fingerprint
        older = stored_key(name="older", created_at=NOW - moment)
        resealed = sealed_under("0123456789abcdef", stored_key(name="sealed elsewhere"))
        backend.add_many([older, resealed, stored_key(name="ours", created_at=NOW + moment)])
        names = functools.partial(_names, backend)
        assert names(created_before=NOW) == {"older"}
        assert names(created_before=NOW + moment) == {"older", "sealed elsewhere"}
        assert names(not_sealed_by=ours) == {"sealed elsewhere"}
        assert names(not_sealed_by="0123456789abcdef") == {"older", "ours"}
        assert names(not_sealed_by=ours, created_before=NOW) == set()

    def test_filters_by_id(self, backend: Backend) -> None:
        keys = [stored_key(name=f"key {number}", owner="ab"[number % 2]) for number in range(6)]
        for key in keys:
            backend.add(key)
        ids = {key.record.id for key in keys[:3]}
        names = functools.partial(_names, backend)
        assert names(ids=ids | {new_id()}) == {"key 0", "key 1", "key 2"}
        assert names(ids=ids, owner="a") == {"key 0", "key 2"}
        assert names(ids=set()) == set()

    def test_search(self, backend: Backend) -> None:
        for number, name in enumerate(_NAMES):
            backend.add(stored_key(**{"id": f"{number:016}", "name": name, **_FOUND_BY.get(name, {})}))
        assert {text: _names(backend, search=text) for text in _SEARCHES} == _SEARCHES
        assert _names(backend, search="nightly", owner="nobody") == set()

    def test_search_by_every_printable_character(self, backend: Backend) -> None:
        characters = [chr(code) for code in range(0x21, 0x7F)]
        for number, character in enumerate(characters):
            backend.add(stored_key(id=f"{number:016}", name=f"{character} ♥"))
        for character in characters:
            found = _names(backend, search=f"{character} ♥")
            assert found == {f"{each} ♥" for each in {character.lower(), character.upper()}}

    def test_count(self, backend: Backend) -> None:
        assert backend.count(KeyFilter()) == 0
        for number in range(5):
            backend.add(stored_key(name=f"key {number}", owner="ab"[number % 2]))
        assert backend.count(KeyFilter()) == 5
        assert backend.count(KeyFilter(owner="a")) == 3
        assert backend.count(KeyFilter(owner="a", search="KEY 2")) == 1

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

    def test_concurrent_updates_in_threads_have_one_winner(self, backend: Backend) -> None:
        key = stored_key()
        backend.add(key)
        barrier = Barrier(8, timeout=60)
        with ThreadPoolExecutor(8) as pool:
            racers = [pool.submit(_update_each_version, backend, barrier, key.record.id) for _ in range(8)]
            assert sum(racer.result() for racer in racers) == _ROUNDS
        assert _version(backend, key) == _ROUNDS + 1

    def test_concurrent_threads_read_whole_keys(self, backend: Backend) -> None:
        keys = [stored_key(name=f"key {number}") for number in range(16)]

        def work(key: StoredKey) -> bool:
            backend.add(key)
            current = key
            for number in range(10):
                before, current = current, changed(current, name=f"{key.record.name} v{number}")
                update(backend, before, current)
                if backend.get(key.record.id) != current:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, keys))

    def test_concurrent_init_storage(self, make_backend: MakeBackend, race: Race) -> None:
        assert race(_prepare, [()] * _RACERS) == [1] * _RACERS
        key = stored_key()
        backend = make_backend()
        backend.add(key)
        assert backend.get(key.record.id) == key
        backend.close()

    def test_concurrent_adds_in_processes_have_one_winner(self, backend: Backend, race: Race) -> None:
        ids = [new_id() for _ in range(_ROUNDS)]
        assert sum(race(_create_each, [(ids,)] * _RACERS)) == _ROUNDS
        assert len(backend.find(KeyFilter(), after=None, limit=2 * _ROUNDS)) == _ROUNDS

    def test_concurrent_updates_in_processes_have_one_winner(self, backend: Backend, race: Race) -> None:
        key = stored_key()
        backend.add(key)
        assert sum(race(_update_each_version, [(key.record.id,)] * _RACERS)) == _ROUNDS
        assert _version(backend, key) == _ROUNDS + 1

    def test_concurrent_rolls_in_processes_have_one_winner(self, backend: Backend, race: Race) -> None:
        key = stored_key()
        backend.add(key)
        assert sum(race(_roll_each_version, [(key.record.id,)] * 2)) == _ROUNDS
        assert _version(backend, key) == _ROUNDS + 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_parent_and_child_share_the_storage_after_a_fork(self, backend: Backend, race: Race) -> None:
        key = stored_key()
        backend.add(key)
        assert race(_use_after_fork, [(key,)]) == [0]


def _pages(backend: Backend, key_filter: KeyFilter, limit: int, *, newest_first: bool = False) -> Iterator[StoredKey]:
    after = None
    while page := backend.find(key_filter, after=after, limit=limit, newest_first=newest_first):
        assert len(page) <= limit
        yield from page
        after = Cursor(page[-1].record.created_at, page[-1].record.id)


def _names(backend: Backend, **conditions: Any) -> set[str]:
    return {key.record.name for key in backend.find(KeyFilter(**conditions), after=None, limit=10)}


def _version(backend: Backend, key: StoredKey) -> int:
    stored = backend.get(key.record.id)
    return 0 if stored is None else stored.record.version


def _prepare(backend: Backend, barrier: Any) -> int:
    barrier.wait()
    backend.init_storage()
    backend.add(stored_key())
    return 1


def _create_each(backend: Backend, barrier: Any, ids: list[str]) -> int:
    return count_wins(barrier, (functools.partial(backend.add, stored_key(id=key_id)) for key_id in ids))


def _update_each_version(backend: Backend, barrier: Any, key_id: str) -> int:
    won = 0
    for _ in range(_ROUNDS):
        barrier.wait()
        stored = backend.get(key_id)
        assert stored is not None
        barrier.wait()
        won += wins(functools.partial(update, backend, stored, changed(stored)))
    return won


def _roll_each_version(backend: Backend, barrier: Any, key_id: str) -> int:
    read = backend.get
    has_read = False

    def read_together(key_id: str) -> StoredKey | None:
        # Wait only at the first read, so that all processes read before one writes.
        nonlocal has_read
        stored = read(key_id)
        if not has_read:
            has_read = True
            barrier.wait()
        return stored

    vars(backend)["get"] = read_together
    rolling = KeyRolling(KeyRepository(backend, RING, utc_now))
    won = 0
    for _ in range(_ROUNDS):
        has_read = False
        barrier.wait()
        try:
            key = rolling.roll(key_id).key
        except Conflict:
            key = None
        barrier.wait()
        stored = read(key_id)
        assert stored is not None
        (newest,) = secrets_of(stored, RING).digests
        assert key is None or newest == digest(key), "an acknowledged roll was undone"
        won += key is not None
    return won


def _use_after_fork(backend: Backend, _barrier: Any, key: StoredKey) -> int:
    assert backend.get(key.record.id) == key
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            failed = _failures_of_reads_and_writes(backend, key)
        finally:
            os._exit(failed)
    failures = _failures_of_reads_and_writes(backend, key)
    _, status = os.waitpid(child, 0)
    return failures + os.waitstatus_to_exitcode(status)


def _failures_of_reads_and_writes(backend: Backend, key: StoredKey) -> int:
    failures = 0
    for _ in range(200):
        mine = stored_key()
        backend.add(mine)
        failures += backend.get(mine.record.id) != mine
        failures += backend.get(key.record.id) != key
    return min(failures, 100)

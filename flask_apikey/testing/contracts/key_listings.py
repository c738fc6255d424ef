"""Contract of `Backend`: pages, filters, searches and counts of keys."""

import functools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from flask_apikey.core.model.keys import Cursor, StoredKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.testing.contracts.fixtures import ContractFixtures, update
from flask_apikey.testing.samples import NOW, changed, sealed_under, stored_key

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


class KeyListingContract(ContractFixtures):
    """Tests for the listings of keys. They are a part of `BackendContract`."""

    @pytest.mark.parametrize("limit", [1, 2, 7, 100])
    def test_pages_are_complete_and_ordered(self, backend: Backend, limit: int) -> None:
        keys = [stored_key(created_at=NOW + timedelta(microseconds=number // 3)) for number in range(20)]
        assert list(pages_of(backend, KeyFilter(), limit)) == []
        backend.add_many(keys[::-1])
        in_order = sorted(keys, key=lambda key: (key.record.created_at, key.record.id))
        assert list(pages_of(backend, KeyFilter(), limit)) == in_order
        assert list(pages_of(backend, KeyFilter(), limit, newest_first=True)) == in_order[::-1]

    def test_scan_is_in_the_order_of_ids(self, backend: Backend) -> None:
        keys = [stored_key(id=letter * 16) for letter in "09AZaz"]
        backend.add_many([keys[number] for number in (4, 1, 3, 5, 0, 2)])
        assert list(backend.scan(KeyFilter())) == keys
        assert list(backend.scan(KeyFilter(owner="nobody"))) == []

    def test_filters_hold_newest_first(self, backend: Backend) -> None:
        keys = [stored_key(owner="ab"[number % 2], created_at=NOW + timedelta(seconds=number)) for number in range(10)]
        for key in keys:
            backend.add(key)
        assert list(pages_of(backend, KeyFilter(owner="a"), 2, newest_first=True)) == keys[-2::-2]

    def test_pages_are_stable_during_changes(self, backend: Backend) -> None:
        keys = [stored_key(created_at=NOW + timedelta(seconds=number)) for number in range(10)]
        backend.add_many(keys)
        pages = pages_of(backend, KeyFilter(), 3)
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
                assert list(pages_of(backend, key_filter, 1)) == list(backend.scan(key_filter)) == expected
                assert backend.count(key_filter) == len(expected)
            assert list(pages_of(backend, KeyFilter(owner=owner), 2)) == keys[False]

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


def pages_of(backend: Backend, key_filter: KeyFilter, limit: int, *, newest_first: bool = False) -> Iterator[StoredKey]:
    """Iterate over the keys that match a filter, fetching them in pages of at most `limit`."""
    after = None
    while page := backend.find(key_filter, after=after, limit=limit, newest_first=newest_first):
        assert len(page) <= limit
        yield from page
        after = Cursor(page[-1].record.created_at, page[-1].record.id)


def _names(backend: Backend, **conditions: Any) -> set[str]:
    return {key.record.name for key in backend.find(KeyFilter(**conditions), after=None, limit=10)}

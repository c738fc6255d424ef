"""Contract of `Backend.history`."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from flask_apikey.core.errors import AlreadyExists, Conflict
from flask_apikey.core.keys.bulk import revoke_many
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.history import (
    MAX_ACTOR_LENGTH,
    PRUNED,
    REVOKED,
    STORAGE_ID,
    ChainCheck,
    EventPosition,
    LifecycleEvent,
)
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.validation import MAX_OWNER_LENGTH, MAX_REASON_LENGTH
from flask_apikey.core.storage.contract import Backend, EventFilter, HistoryStore, KeyFilter
from flask_apikey.testing.contracts.fixtures import ContractFixtures, update
from flask_apikey.testing.races import Race
from flask_apikey.testing.samples import NOW, RING, changed, recorded, stored_key

_RACERS = 16
_ROUNDS = 5
_REVOKERS = 4
_REVOKED = 25
_LIMIT = 1_000
_SECOND = timedelta(seconds=1)
_KEYS = {"first": "a" * 16, "second": "B" * 16, "none": STORAGE_ID}
_FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "key": {"key_id": _KEYS["first"]},
    "storage": {"key_id": STORAGE_ID},
    "unknown key": {"key_id": "b" * 16},
    "owner": {"owner": "team-7"},
    "another case": {"owner": "TEAM-7"},
    "actor": {"actor": "deploy"},
    "no actor": {"actor": ""},
    "since": {"since": NOW + _SECOND},
    "everything": {"key_id": _KEYS["second"], "owner": "team-7", "actor": "deploy", "since": NOW + _SECOND},
}


def events_in(history: HistoryStore, key_id: str | None = None) -> list[LifecycleEvent]:
    """Return all events, or those of a key, oldest first."""
    return list(history.events(EventFilter(key_id=key_id), after=None, limit=_LIMIT))


def require_history(backend: Backend, stored: StoredKey) -> None:
    """Fail unless the events of a key are its history: one for each version, chained up to its row."""
    assert backend.history is not None
    check = ChainCheck()
    for event in events_in(backend.history, stored.record.id):
        check.add(event)
    check.end_at(stored.record.version, stored.history_hash)
    assert check.problem is None


class HistoryContract(ContractFixtures):
    """Tests for the history of a backend. For the fixtures see `BackendContract`."""

    @pytest.fixture
    def history(self, backend: Backend) -> HistoryStore:
        """The history of the backend."""
        assert backend.history is not None
        return backend.history

    def test_changes_store_their_events(self, backend: Backend, history: HistoryStore) -> None:
        key, created = recorded(stored_key(owner="team-7"), details='{"address":"192.0.2.1"}', actor="deploy")
        backend.add(key, event=created)
        newer, updated = recorded(changed(key, name="renamed"), details='{"fields":["name"],"said":"\\u00fc"}')
        update(backend, key, newer, updated)
        tombstone, pruned = recorded(changed(newer, pruned_at=NOW), event=PRUNED, reason="ü 🔑")
        update(backend, newer, tombstone, pruned)
        assert backend.get(key.record.id) == tombstone
        assert events_in(history) == [created, updated, pruned]
        require_history(backend, tombstone)

    def test_add_many_stores_the_event_of_each_key(self, backend: Backend, history: HistoryStore) -> None:
        pairs = sorted((recorded(stored_key()) for _ in range(20)), key=lambda pair: pair[1].key_id)
        backend.add_many([key for key, _ in pairs], events=[event for _, event in pairs])
        backend.add_many([stored_key()])
        assert events_in(history) == [event for _, event in pairs]
        for key, _ in pairs:
            assert backend.get(key.record.id) == key

    def test_refused_changes_store_no_event(self, backend: Backend, history: HistoryStore) -> None:
        key, event = recorded(stored_key(version=3))
        backend.add(key, event=event)
        another, of_another = recorded(stored_key(id=key.record.id))
        with pytest.raises(AlreadyExists):
            backend.add(another, event=of_another)
        newer, of_newer = recorded(changed(key))
        for before in (another, replace(key, seal=another.seal), replace(key, record=newer.record)):
            with pytest.raises(Conflict):
                update(backend, before, newer, of_newer)
        assert backend.get(key.record.id) == key
        assert events_in(history) == [event]

    def test_refused_add_many_stores_events_of_stored_keys_only(self, backend: Backend, history: HistoryStore) -> None:
        key, event = recorded(stored_key())
        backend.add(key, event=event)
        pairs = [recorded(stored_key()), recorded(stored_key(id=key.record.id)), recorded(stored_key())]
        with pytest.raises(AlreadyExists):
            backend.add_many([key for key, _ in pairs], events=[event for _, event in pairs])
        assert backend.get(key.record.id) == key
        stored = [event for key, event in pairs if backend.get(key.record.id) == key]
        assert {each.hash for each in events_in(history)} == {event.hash, *(each.hash for each in stored)}

    def test_remove_takes_only_events_that_are_unchanged(self, history: HistoryStore) -> None:
        first = LifecycleEvent(key_id=_KEYS["first"], number=1, at=NOW, event="key.created")
        second = LifecycleEvent(key_id=_KEYS["first"], number=2, at=NOW, event="key.updated", previous=first.hash)
        other = replace(first, key_id=_KEYS["second"], hash="")
        history.append([first, second, other])
        history.remove([])
        history.remove([replace(second, reason="another event", hash=""), replace(second, number=3)])
        assert len(events_in(history)) == 3
        history.remove([second, other, second])
        assert events_in(history) == [first]

    @pytest.mark.parametrize("later", [0, 5])
    @pytest.mark.parametrize("changes", [{}, {"hash": "0" * 64}], ids=["hashed", "broken"])
    def test_forged_events_do_not_block_changes(
        self, backend: Backend, history: HistoryStore, changes: dict[str, Any], later: int
    ) -> None:
        def forge(event: LifecycleEvent) -> None:
            forged = replace(event, number=event.number + later, reason="forged", hash="")
            history.append([replace(forged, **changes)])

        key, created = recorded(stored_key())
        forge(created)
        backend.add(key, event=created)
        newer, updated = recorded(changed(key))
        forge(updated)
        update(backend, key, newer, updated)
        other, of_other = recorded(stored_key())
        forge(of_other)
        backend.add_many([other], events=[of_other])
        assert events_in(history, key.record.id)[:2] == [created, updated]
        assert events_in(history, other.record.id)[:1] == [of_other]
        if not later:
            require_history(backend, newer)

    @pytest.mark.parametrize(
        "values",
        [
            {"at": datetime(1970, 1, 1, tzinfo=timezone.utc), "number": 2**31 - 1},
            {"at": datetime(9999, 12, 31, 23, 59, 59, 999_999, timezone.utc), "event": "rotation.cancelled"},
            {
                "owner": "🔑" * MAX_OWNER_LENGTH,
                "actor": "🔑" * MAX_ACTOR_LENGTH,
                "reason": "🔑" * MAX_REASON_LENGTH,
                "details": '{"a":"' + "x" * 10_000 + '"}',
            },
            {"at": NOW.astimezone(timezone(timedelta(hours=5, minutes=30))), "hash": "0" * 64},
        ],
        ids=["earliest", "latest", "longest", "broken"],
    )
    def test_events_round_trip(self, history: HistoryStore, values: dict[str, Any]) -> None:
        _, event = recorded(stored_key(), **values)
        history.append([event])
        (stored,) = events_in(history)
        assert stored == event
        assert stored.at.tzinfo is timezone.utc
        assert stored.is_intact == event.is_intact == ("hash" not in values)

    @pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
    @pytest.mark.parametrize("conditions", _FILTERS.values(), ids=_FILTERS)
    def test_events_in_pages(self, history: HistoryStore, conditions: dict[str, Any], *, newest_first: bool) -> None:
        events = _varied_events()
        history.append(events)
        event_filter = EventFilter(**conditions)
        expected = sorted((event for event in events if _matches(event, event_filter)), key=_place)
        for limit in (1, 3, 100):
            seen: list[LifecycleEvent] = []
            after = None
            while page := history.events(event_filter, after=after, limit=limit, newest_first=newest_first):
                assert len(page) <= limit
                seen += page
                after = EventPosition.of(page[-1])
            assert seen == (expected[::-1] if newest_first else expected)

    @pytest.mark.parametrize("limit", [1, 3, 100])
    def test_chains_in_pages(self, history: HistoryStore, limit: int) -> None:
        events = _varied_events()
        history.append(events)
        seen: list[LifecycleEvent] = []
        while page := history.chains(after=(seen[-1].key_id, seen[-1].number) if seen else None, limit=limit):
            assert len(page) <= limit
            seen += page
        assert seen == sorted(events, key=lambda event: (event.key_id, event.number))
        assert list(history.chains(after=("zzzz", 1), limit=limit)) == []
        # Storages without column types may hold any number, so a chain is read from far below.
        before_all = (seen[0].key_id, -(2**62))
        assert list(history.chains(after=before_all, limit=limit)) == seen[:limit]

    def test_append_is_idempotent(self, history: HistoryStore) -> None:
        events = _varied_events()
        history.append(events[:3])
        history.append(events)
        history.append([])
        assert events_in(history) == sorted(events, key=_place)

    def test_append_refuses_another_event(self, history: HistoryStore) -> None:
        events = _varied_events()
        history.append(events[2:3])
        for change in ({"reason": "another"}, {"at": NOW - _SECOND}, {"hash": "0" * 64}):
            with pytest.raises(Conflict):
                history.append([*events[:2], replace(events[2], **change), events[3]])
            assert events_in(history) == events[2:3]

    def test_concurrent_processes_extend_their_own_chains(self, backend: Backend, race: Race) -> None:
        assert race(_create_and_change, [()] * _RACERS) == [_ROUNDS] * _RACERS
        keys = backend.find(KeyFilter(), after=None, limit=_LIMIT)
        assert [key.record.version for key in keys] == [3] * _RACERS * _ROUNDS
        for key in keys:
            require_history(backend, key)

    def test_concurrent_mass_revocations_revoke_each_key_once(
        self, backend: Backend, history: HistoryStore, race: Race
    ) -> None:
        pairs = [recorded(stored_key(owner="team-7")) for _ in range(_REVOKED)]
        backend.add_many([key for key, _ in pairs], events=[event for _, event in pairs])
        assert sum(race(_revoke_of_owner, [("team-7",)] * _REVOKERS)) == _REVOKED
        revoked = [event.key_id for event in events_in(history) if event.event == REVOKED]
        assert sorted(revoked) == sorted(key.record.id for key, _ in pairs)
        for key in backend.find(KeyFilter(revoked=True), after=None, limit=_LIMIT):
            require_history(backend, key)


def _varied_events() -> list[LifecycleEvent]:
    """Return events that differ in every field of a filter and of the order. Some have the same moment."""
    return [
        LifecycleEvent(
            key_id=key_id,
            number=number,
            at=NOW + number % 3 * _SECOND,
            event=REVOKED,
            owner="team-7" if number % 2 else None,
            actor="deploy" if number > 2 else "",
        )
        for number in (5, 1, 2, 4, 3)
        for key_id in _KEYS.values()
    ]


def _matches(event: LifecycleEvent, event_filter: EventFilter) -> bool:
    return (
        event_filter.key_id in {None, event.key_id}
        and event_filter.owner in {None, event.owner}
        and event_filter.actor in {None, event.actor}
        and (event_filter.since is None or event.at >= event_filter.since)
    )


def _place(event: LifecycleEvent) -> tuple[Any, ...]:
    return event.at, event.key_id, event.number


def _revoke_of_owner(backend: Backend, barrier: Any, owner: str) -> int:
    repository = KeyRepository(backend, RING, lambda: NOW)
    barrier.wait()
    return revoke_many(repository, lambda: NOW, owner=owner).revoked


def _create_and_change(backend: Backend, barrier: Any) -> int:
    for _ in range(_ROUNDS):
        key, event = recorded(stored_key())
        barrier.wait()
        backend.add(key, event=event)
        for _ in range(2):
            newer, event = recorded(changed(key))
            update(backend, key, newer, event)
            key = newer
        assert backend.get(key.record.id) == key
    return _ROUNDS

"""Contract of `Backend.history`."""

from dataclasses import replace
from typing import Any

import pytest

from flask_apikey.core.errors import AlreadyExists, Conflict
from flask_apikey.core.keys.bulk import revoke_many
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.history import (
    GENESIS,
    ChainedEvent,
    LifecycleEvent,
    Link,
    all_events,
    chained,
    verify_chain,
)
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.storage.contract import Backend, HistoryStore, KeyFilter
from flask_apikey.testing.contracts.fixtures import ContractFixtures
from flask_apikey.testing.races import Race
from flask_apikey.testing.samples import NOW, changed, stored_key

_RACERS = 16
_ROUNDS = 5
_REVOKERS = 4
_REVOKED = 25


def event_of(key: StoredKey, event: str = "key.created", **values: Any) -> LifecycleEvent:
    """Create an event about a key at its current version."""
    content = {"at": NOW, "key_id": key.record.id, "key_version": key.record.version, **values}
    return LifecycleEvent(event=event, **content)


class HistoryContract(ContractFixtures):
    """Tests for the history of a backend. For the fixtures see `BackendContract`."""

    @pytest.fixture
    def history(self, backend: Backend) -> HistoryStore:
        """The history of the backend."""
        assert backend.history is not None
        return backend.history

    def test_changes_record_their_events(self, backend: Backend, history: HistoryStore) -> None:
        key = stored_key()
        newer = changed(key, name="renamed")
        events = [
            event_of(key, details='{"address":"192.0.2.1"}'),
            event_of(newer, "key.updated", details='{"fields":["name"],"said":"\\u00fc"}'),
            event_of(newer, "key.revealed"),
            event_of(changed(newer), "key.pruned"),
        ]
        backend.add(key, event=events[0])
        assert backend.get(key.record.id) == key
        backend.update(newer, expected_version=1, event=events[1])
        assert backend.get(key.record.id) == newer
        history.record(events[2])
        backend.delete(key.record.id, expected_version=2, event=events[3])
        assert backend.get(key.record.id) is None
        assert list(backend.find(KeyFilter(), after=None, limit=1)) == []
        kept = list(all_events(history))
        assert [each.event for each in kept] == events
        assert [each.number for each in kept] == [1, 2, 3, 4]
        assert kept[0].previous == GENESIS
        assert verify_chain(iter(kept), {}) == Link.of(kept[-1])

    def test_update_with_keep_seal_records_its_event(self, backend: Backend, history: HistoryStore) -> None:
        key = stored_key()
        backend.add(key)
        newer = changed(key, name="renamed")
        another = replace(newer, seal=stored_key().seal)
        event = event_of(newer, "key.updated")
        backend.update(another, expected_version=1, event=event, keep_seal=True)
        assert backend.get(key.record.id) == newer
        assert [each.event for each in all_events(history)] == [event]

    def test_refused_changes_record_no_event(self, backend: Backend, history: HistoryStore) -> None:
        key = stored_key()
        backend.add(key, event=event_of(key))
        with pytest.raises(AlreadyExists):
            backend.add(stored_key(id=key.record.id), event=event_of(key))
        with pytest.raises(Conflict):
            backend.update(changed(key), expected_version=7, event=event_of(key))
        with pytest.raises(Conflict):
            backend.delete(key.record.id, expected_version=7, event=event_of(key))
        assert backend.get(key.record.id) == key
        assert len(list(all_events(history))) == 1

    def test_deleted_id_can_be_added_again(self, backend: Backend) -> None:
        key = stored_key()
        backend.add(key, event=event_of(key))
        backend.delete(key.record.id, expected_version=1, event=event_of(key, "key.pruned"))
        backend.add(key)
        assert backend.get(key.record.id) == key

    @pytest.mark.parametrize("limit", [1, 3, 100])
    @pytest.mark.parametrize("key_id", [None, "b" * 16])
    def test_events_in_pages(self, history: HistoryStore, limit: int, key_id: str | None) -> None:
        key, other = stored_key(), stored_key(id="b" * 16)
        for _ in range(4):
            history.record(event_of(key))
            history.record(event_of(other))
        seen: list[ChainedEvent] = []
        while page := history.events(after=seen[-1].number if seen else 0, limit=limit, key_id=key_id):
            assert len(page) <= limit
            seen += page
        assert seen == [each for each in all_events(history) if key_id in (None, each.event.key_id)]
        assert [each.number for each in seen] == ([2, 4, 6, 8] if key_id else list(range(1, 9)))
        assert list(history.events(after=0, limit=limit, key_id=stored_key().record.id)) == []

    def test_append_keeps_a_history_unchanged(self, history: HistoryStore) -> None:
        key = stored_key()
        events: list[ChainedEvent] = []
        for _ in range(5):
            events.append(chained(Link.of(events[-1]) if events else Link(), event_of(key)))
        history.append(events[:2])
        history.append(events[2:])
        assert list(all_events(history)) == events
        for not_next in (events[:1], events[3:], [replace(chained(Link.of(events[-1]), event_of(key)), previous="0")]):
            with pytest.raises(Conflict):
                history.append(not_next)
        assert list(all_events(history)) == events
        history.record(event_of(key))
        verify_chain(all_events(history), {key.record.id: 1})

    def test_concurrent_processes_extend_one_chain(self, history: HistoryStore, race: Race) -> None:
        assert race(_create_recorded, [()] * _RACERS) == [_ROUNDS] * _RACERS
        events = list(all_events(history))
        assert len(events) == _RACERS * _ROUNDS
        versions = {each.event.key_id: 1 for each in events}
        assert len(versions) == _RACERS * _ROUNDS
        assert verify_chain(iter(events), versions).number == _RACERS * _ROUNDS

    def test_concurrent_mass_revocations_revoke_each_key_once(
        self, backend: Backend, history: HistoryStore, race: Race
    ) -> None:
        keys = [stored_key(owner="team-7") for _ in range(_REVOKED)]
        for key in keys:
            backend.add(key, event=event_of(key))
        assert sum(race(_revoke_of_owner, [("team-7",)] * _REVOKERS)) == _REVOKED
        events = [each.event for each in all_events(history) if each.event.event == "key.revoked"]
        assert sorted(event.key_id for event in events) == sorted(key.record.id for key in keys)
        verify_chain(all_events(history), {key.record.id: 2 for key in keys})


def _revoke_of_owner(backend: Backend, barrier: Any, owner: str) -> int:
    repository = KeyRepository(backend, lambda: NOW)
    barrier.wait()
    return revoke_many(repository, lambda: NOW, owner=owner).revoked


def _create_recorded(backend: Backend, barrier: Any) -> int:
    for _ in range(_ROUNDS):
        key = stored_key()
        barrier.wait()
        backend.add(key, event=event_of(key))
        assert backend.get(key.record.id) == key
    return _ROUNDS

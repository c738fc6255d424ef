"""The rules of a backend that keeps lifecycle events, as tests; see `contract`.

Inherit from `HistoryContract` in place of `BackendContract`, which it contains.
"""

from dataclasses import replace
from typing import Any, cast

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
from flask_apikey.core.storage.contract import Backend, KeepsHistory, KeyFilter
from flask_apikey.testing.contracts.keys import BackendContract
from flask_apikey.testing.races import MakeBackend, race
from flask_apikey.testing.samples import NOW, changed, stored_key

_RACERS = 16
_ROUNDS = 5
_REVOKERS = 4
_REVOKED = 25


class HistoryBackend(Backend, KeepsHistory):
    """What these tests need: a backend with this ability."""


def event_of(key: StoredKey, event: str = "key.created", **values: Any) -> LifecycleEvent:
    """An event about a key at its present version."""
    content = {"at": NOW, "key_id": key.record.id, "key_version": key.record.version, **values}
    return LifecycleEvent(event=event, **content)


class HistoryContract(BackendContract):
    """Every backend that is a `KeepsHistory` passes these too."""

    @pytest.fixture
    def history(self, backend: Backend) -> HistoryBackend:
        """The backend, which must have the ability."""
        assert isinstance(backend, KeepsHistory)
        return cast("HistoryBackend", backend)

    def test_an_event_is_kept_with_each_change(self, history: HistoryBackend) -> None:
        key = stored_key()
        newer = changed(key, name="renamed")
        events = [
            event_of(key, details='{"address":"192.0.2.1"}'),
            event_of(newer, "key.updated", details='{"fields":["name"],"said":"\\u00fc"}'),
            event_of(newer, "key.revealed"),
            event_of(changed(newer), "key.pruned"),
        ]
        history.add_recorded(key, events[0])
        assert history.get(key.record.id) == key
        history.update_recorded(newer, expected_version=1, event=events[1])
        assert history.get(key.record.id) == newer
        history.record(events[2])
        history.delete_recorded(key.record.id, expected_version=2, event=events[3])
        assert history.get(key.record.id) is None
        assert list(history.find(KeyFilter(), after=None, limit=1)) == []
        kept = list(all_events(history))
        assert [each.event for each in kept] == events
        assert [each.number for each in kept] == [1, 2, 3, 4]
        assert kept[0].previous == GENESIS
        assert verify_chain(iter(kept), {}) == Link.of(kept[-1])

    def test_a_change_can_leave_the_seal_as_it_is(self, history: HistoryBackend) -> None:
        key = stored_key()
        history.add(key)
        newer = changed(key, name="renamed")
        another = replace(newer, seal=stored_key().seal)
        event = event_of(newer, "key.updated")
        history.update_recorded(another, expected_version=1, event=event, keep_seal=True)
        assert history.get(key.record.id) == newer
        assert [each.event for each in all_events(history)] == [event]

    def test_a_change_that_is_refused_leaves_no_event(self, history: HistoryBackend) -> None:
        key = stored_key()
        history.add_recorded(key, event_of(key))
        with pytest.raises(AlreadyExists):
            history.add_recorded(stored_key(id=key.record.id), event_of(key))
        with pytest.raises(Conflict):
            history.update_recorded(changed(key), expected_version=7, event=event_of(key))
        with pytest.raises(Conflict):
            history.delete_recorded(key.record.id, expected_version=7, event=event_of(key))
        assert history.get(key.record.id) == key
        assert len(list(all_events(history))) == 1

    def test_a_key_that_was_deleted_with_an_event_can_be_created_again(self, history: HistoryBackend) -> None:
        key = stored_key()
        history.add_recorded(key, event_of(key))
        history.delete_recorded(key.record.id, expected_version=1, event=event_of(key, "key.pruned"))
        history.add(key)
        assert history.get(key.record.id) == key

    @pytest.mark.parametrize("limit", [1, 3, 100])
    def test_events_are_read_in_pages(self, history: HistoryBackend, limit: int) -> None:
        key = stored_key()
        for _ in range(7):
            history.record(event_of(key))
        numbers, after = [], 0
        while page := history.events(after=after, limit=limit):
            assert len(page) <= limit
            numbers += [each.number for each in page]
            after = numbers[-1]
        assert numbers == [1, 2, 3, 4, 5, 6, 7]

    @pytest.mark.parametrize("limit", [1, 3, 100])
    def test_the_events_of_one_key_are_read_in_pages(self, history: HistoryBackend, limit: int) -> None:
        key, other = stored_key(), stored_key()
        for _ in range(4):
            history.record(event_of(key))
            history.record(event_of(other))
        seen: list[ChainedEvent] = []
        while page := history.events(after=seen[-1].number if seen else 0, limit=limit, key_id=other.record.id):
            assert len(page) <= limit
            seen += page
        assert seen == [each for each in all_events(history) if each.event.key_id == other.record.id]
        assert [each.number for each in seen] == [2, 4, 6, 8]
        assert list(history.events(after=0, limit=limit, key_id=stored_key().record.id)) == []

    def test_a_whole_history_is_taken_over_as_it_is(self, history: HistoryBackend) -> None:
        key = stored_key()
        events: list[ChainedEvent] = []
        for _ in range(5):
            events.append(chained(Link.of(events[-1]) if events else Link(), event_of(key)))
        history.append_events(events[:2])
        history.append_events(events[2:])
        assert list(all_events(history)) == events
        for not_next in (events[:1], events[3:], [replace(chained(Link.of(events[-1]), event_of(key)), previous="0")]):
            with pytest.raises(Conflict):
                history.append_events(not_next)
        assert list(all_events(history)) == events
        history.record(event_of(key))
        verify_chain(all_events(history), {key.record.id: 1})

    def test_processes_extend_one_chain(self, history: HistoryBackend, make_backend: MakeBackend) -> None:
        self.needs_processes()
        assert race(_create_recorded, make_backend, [()] * _RACERS) == [_ROUNDS] * _RACERS
        events = list(all_events(history))
        assert len(events) == _RACERS * _ROUNDS
        versions = {each.event.key_id: 1 for each in events}
        assert len(versions) == _RACERS * _ROUNDS
        assert verify_chain(iter(events), versions).number == _RACERS * _ROUNDS

    def test_processes_that_revoke_the_same_keys_end_each_once(
        self, history: HistoryBackend, make_backend: MakeBackend
    ) -> None:
        self.needs_processes()
        keys = [stored_key(owner="team-7") for _ in range(_REVOKED)]
        for key in keys:
            history.add_recorded(key, event_of(key))
        assert sum(race(_revoke_of_owner, make_backend, [("team-7",)] * _REVOKERS)) == _REVOKED
        events = [each.event for each in all_events(history) if each.event.event == "key.revoked"]
        assert sorted(event.key_id for event in events) == sorted(key.record.id for key in keys)
        verify_chain(all_events(history), {key.record.id: 2 for key in keys})


def _revoke_of_owner(make_backend: MakeBackend, barrier: Any, owner: str) -> int:
    backend = make_backend()
    backend.ping()
    repository = KeyRepository(backend, lambda: NOW)
    barrier.wait()
    return revoke_many(repository, lambda: NOW, owner=owner).revoked


def _create_recorded(make_backend: MakeBackend, barrier: Any) -> int:
    backend = cast("HistoryBackend", make_backend())
    backend.ping()
    for _ in range(_ROUNDS):
        key = stored_key()
        barrier.wait()
        backend.add_recorded(key, event_of(key))
        assert backend.get(key.record.id) == key
    return _ROUNDS

"""Histories on MongoDB."""

from collections.abc import Sequence
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.errors import WriteError

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.history import EventPosition, LifecycleEvent
from flask_apikey.core.storage.contract import EventFilter
from flask_apikey.testing.contracts.fixtures import update
from flask_apikey.testing.contracts.history import events_in, require_history
from flask_apikey.testing.samples import changed, recorded, stored_key
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_mongodb.collections import (
    EVENTS_COLLECTION,
    PENDING,
)
from flask_apikey_mongodb.history import MongoDBHistory, to_event


class TestHistory:
    @pytest.mark.parametrize("read", ["events", "chains"])
    def test_pending_events_of_a_dead_process_are_read_in_place(
        self, backend: MongoDBBackend, documents: Collection[Any], monkeypatch: pytest.MonkeyPatch, read: str
    ) -> None:
        before, of_before = recorded(stored_key())
        backend.add(before, event=of_before)
        key, created = recorded(stored_key())
        newer, updated = recorded(changed(key))
        other, of_other = recorded(stored_key())
        with monkeypatch.context() as dying:
            dying.setattr(MongoDBHistory, "settle", lambda self, events: None)
            backend.add(key, event=created)
            update(backend, key, newer, updated)
            backend.add_many([other], events=[of_other])
        assert backend.get(key.record.id) == newer
        assert documents.count_documents({PENDING: {"$exists": True}}) == 2
        # Somebody put another event in the place of a pending one.
        forged = {**to_event(created), "reason": "forged", "_id": f"{created.key_id}.1"}
        documents.database[EVENTS_COLLECTION].insert_one(forged)
        everything = [of_before, created, updated, of_other]

        def in_pages(size: int) -> list[LifecycleEvent]:
            found: list[LifecycleEvent] = []
            while page := self.page(backend, read, found, size):
                found += page
            return found

        for size in (1, 2, 9):
            assert sorted(in_pages(size), key=lambda event: event.hash) == sorted(
                everything, key=lambda event: event.hash
            )
        newest = backend.history.events(EventFilter(), after=None, limit=9, newest_first=True)
        assert newest == backend.history.events(EventFilter(), after=None, limit=9)[::-1]
        assert backend.history.events(EventFilter(key_id=other.record.id), after=None, limit=9) == [of_other]
        assert documents.count_documents({PENDING: {"$exists": True}}) == 2
        backend.init_storage()
        assert in_pages(9) == in_pages(1)
        assert len(in_pages(9)) == len(everything)
        assert documents.count_documents({PENDING: {"$exists": True}}) == 0
        assert backend.get(key.record.id) == newer

    def page(
        self, backend: MongoDBBackend, read: str, found: Sequence[LifecycleEvent], size: int
    ) -> Sequence[LifecycleEvent]:
        if read == "events":
            after = EventPosition.of(found[-1]) if found else None
            return backend.history.events(EventFilter(), after=after, limit=size)
        return backend.history.chains(after=(found[-1].key_id, found[-1].number) if found else None, limit=size)

    @pytest.mark.parametrize(
        "failure",
        [StorageError("gone"), WriteError("Document failed validation, full error: gAAAAA", 121, {})],
        ids=["gone", "refused"],
    )
    def test_change_succeeds_if_its_event_stays_pending(
        self,
        backend: MongoDBBackend,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        failure: Exception,
    ) -> None:
        key, created = recorded(stored_key())
        newer, updated = recorded(changed(key))

        def fail(*_: object) -> None:
            raise failure

        with monkeypatch.context() as failing:
            failing.setattr(MongoDBHistory, "_settle", fail)
            backend.add(key, event=created)
        assert "events are still pending" in caplog.text
        assert "gAAAAA" not in caplog.text
        update(backend, key, newer, updated)
        assert events_in(backend.history) == [created, updated]

    def test_event_moved_twice_is_stored_once(self, backend: MongoDBBackend) -> None:
        _, event = recorded(stored_key())
        for _ in range(2):
            backend.history.settle([event])
        assert events_in(backend.history) == [event]

    def test_forged_event_under_another_id_blocks_nothing(
        self, backend: MongoDBBackend, documents: Collection[Any]
    ) -> None:
        key, event = recorded(stored_key())
        documents.database[EVENTS_COLLECTION].insert_one({"key_id": key.record.id, "number": 1, "at": 1})
        backend.add(key, event=event)
        assert events_in(backend.history) == [event]
        require_history(backend, key)

    def test_forged_pending_events_block_nothing(self, backend: MongoDBBackend, documents: Collection[Any]) -> None:
        key, created = recorded(stored_key())
        newer, updated = recorded(changed(key))
        backend.add(key, event=created)
        forged = ["x", {"number": "x"}, {"number": 7}, {"number": 2**63 - 1, "key_id": key.record.id}, None]
        documents.update_one({"_id": key.record.id}, {"$set": {PENDING: forged}})
        update(backend, key, newer, updated)
        assert events_in(backend.history) == [created, updated]
        assert backend.get(key.record.id) == newer

    def test_copies_at_the_same_time(self, backend: MongoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        pairs = sorted((recorded(stored_key()) for _ in range(3)), key=lambda pair: pair[1].key_id)
        events = [event for _, event in pairs]
        read = MongoDBHistory._missing

        def after_the_other_copy(self: MongoDBHistory, wanted: Sequence[LifecycleEvent]) -> Sequence[LifecycleEvent]:
            missing = read(self, wanted)
            monkeypatch.setattr(MongoDBHistory, "_missing", read)
            backend.history.append(events[:2])
            return missing

        monkeypatch.setattr(MongoDBHistory, "_missing", after_the_other_copy)
        backend.history.append(events)
        assert events_in(backend.history) == events

"""Lifecycle events in a collection.

A standalone server has no transactions. The operation that changes a key therefore
puts the event into the document of the key, as pending. A second operation copies it
to the collection of events, under an id made of key and number. If the process dies in
between, readers find it in the document, and `settle_all` copies it. Repeating it changes nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Any

from bson import Int64
from pymongo import ASCENDING, DESCENDING, DeleteOne, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError
from typing_extensions import override

from flask_apikey.core.errors import Conflict
from flask_apikey.core.model.history import EventPosition, LifecycleEvent, stored_event
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import EventFilter, HistoryStore
from flask_apikey.core.times import to_microseconds
from flask_apikey_mongodb.collections import PENDING, Collections, Documents
from flask_apikey_mongodb.errors import storage_error, storage_errors
from flask_apikey_mongodb.queries import Query, checked_number, checked_text

_FIELDS = ("key_id", "number", "at", "event", "owner", "actor", "reason", "details", "previous", "hash")
_BY_KEY = [("key_id", ASCENDING), ("number", ASCENDING)]
_DUPLICATE_KEY = 11000

logger = logging.getLogger("flask_apikey")


def to_event(event: LifecycleEvent) -> dict[str, Any]:
    """Convert an event to its form inside the document of a key."""
    return {**{name: getattr(event, name) for name in _FIELDS}, "at": Int64(to_microseconds(event.at))}


class MongoDBHistory(HistoryStore):
    """Lifecycle events in a collection."""

    def __init__(self, opened: PerProcess[Collections]) -> None:
        self._opened = opened

    @override
    @storage_errors()
    def events(
        self, event_filter: EventFilter, *, after: EventPosition | None, limit: int, newest_first: bool = False
    ) -> Sequence[LifecycleEvent]:
        waiting = self._waiting()
        conditions = _conditions(event_filter)
        if after is not None:
            conditions += _behind(after, "$lt" if newest_first else "$gt")
        shown = [
            event
            for event in waiting
            if _matches(event, event_filter) and (after is None or (_in_time(event) > _in_time(after)) != newest_first)
        ]
        direction = DESCENDING if newest_first else ASCENDING
        order = [("at", direction), ("key_id", direction), ("number", direction)]
        found = self._read({"$and": [*conditions, _except(waiting)]}, order, limit)
        return sorted([*found, *shown], key=_in_time, reverse=newest_first)[:limit]

    @override
    @storage_errors()
    def chains(self, *, after: tuple[str, int] | None, limit: int) -> Sequence[LifecycleEvent]:
        waiting = self._waiting()
        query: Query = _except(waiting)
        if after is not None:
            key_id, number = checked_text(after[0], "key_id"), checked_number(after[1], "number")
            later = [{"key_id": {"$gt": key_id}}, {"key_id": key_id, "number": {"$gt": number}}]
            # The first condition lets the server use the index.
            query = {"key_id": {"$gte": key_id}, "$or": later, **query}
            waiting = [event for event in waiting if _in_chain(event) > (key_id, number)]
        if not waiting:
            return self._read(query, _BY_KEY, limit)
        return sorted([*self._read(query, _BY_KEY, limit), *waiting], key=_in_chain)[:limit]

    @override
    @storage_errors()
    def append(self, events: Sequence[LifecycleEvent]) -> None:
        missing = self._missing(events)
        if not missing:
            return
        try:
            self._events.insert_many([_to_document(event) for event in missing], ordered=False)
        except BulkWriteError as exc:
            if any(error["code"] != _DUPLICATE_KEY for error in exc.details["writeErrors"]):
                raise
            # A concurrent copy may have stored the same events.
            for event in self._missing(missing):
                raise _conflict(event) from None

    @override
    @storage_errors()
    def remove(self, events: Sequence[LifecycleEvent]) -> None:
        if events:
            self._events.bulk_write(
                [DeleteOne({"key_id": each.key_id, "number": each.number, "hash": each.hash}) for each in events]
            )

    def settle(self, events: Sequence[LifecycleEvent]) -> None:
        """Copy the pending events of changes to the collection of events.

        Failures are logged and not raised, because the changes and their events are stored.
        """
        try:
            self._settle([{"_id": event.key_id, PENDING: [to_event(event)]} for event in events])
        except Exception as exc:  # noqa: BLE001  # the change is stored, whatever the driver raises
            logger.warning("events are still pending, of key %s: %s", events[0].key_id, storage_error(exc))

    def _missing(self, events: Sequence[LifecycleEvent]) -> Sequence[LifecycleEvent]:
        """Return the events that are not stored. Raises a Conflict if another event has the place of one."""
        query = {"_id": {"$in": [_id(event.key_id, event.number) for event in events]}}
        stored = {document["_id"]: _from_document(document) for document in self._events.find(query)}
        for event in events:
            if stored.get(_id(event.key_id, event.number), event) != event:
                raise _conflict(event)
        return [event for event in events if _id(event.key_id, event.number) not in stored]

    @property
    def _keys(self) -> Documents:
        return self._opened.get().keys

    @property
    def _events(self) -> Documents:
        return self._opened.get().events

    def settle_all(self) -> None:
        """Copy the pending events of processes that died."""
        self._settle(self._with_pending())

    def _with_pending(self) -> list[dict[str, Any]]:
        return list(self._keys.find({f"{PENDING}.number": {"$exists": True}}, {PENDING: 1}))

    def _waiting(self) -> list[LifecycleEvent]:
        """Read the pending events. A reader does not copy them: it may have no right to write."""
        found = (_from_document(event) for document in self._with_pending() for event in _pending(document))
        return [event for event in found if event is not None]

    def _settle(self, documents: Sequence[dict[str, Any]]) -> None:
        """Copy pending events. An event with the same number is forged: the sealed row has the pending one."""
        waiting = [event for document in documents for event in _pending(document)]
        if not waiting:
            return
        stored = [{**event, "_id": _id(event["key_id"], event["number"])} for event in waiting]
        try:
            self._events.insert_many(stored, ordered=False)
        except BulkWriteError:
            self._replace(stored)
        if len(waiting) == 1 and self._remove_last(waiting[0]):
            return
        pulls = [
            UpdateOne({"_id": event["key_id"]}, {"$pull": {PENDING: {"number": event["number"]}}}) for event in waiting
        ]
        # The index is sparse.
        empty = [
            UpdateOne({"_id": document["_id"], PENDING: {"$size": 0}}, {"$unset": {PENDING: ""}})
            for document in documents
        ]
        self._keys.bulk_write([*pulls, *empty])

    def _remove_last(self, event: Mapping[str, Any]) -> bool:
        """Remove a pending event in one operation. Returns False if others are pending too."""
        only = {PENDING: {"$size": 1}, f"{PENDING}.number": event["number"]}
        return self._keys.update_one({"_id": event["key_id"], **only}, {"$unset": {PENDING: ""}}).matched_count == 1

    def _replace(self, stored: Sequence[dict[str, Any]]) -> None:
        """Store events, in place of forged events with their numbers and of copies by other processes."""
        for each in stored:
            place = {name: each[name] for name, _ in _BY_KEY}
            # A forged event may have the same key and number under another _id.
            self._events.delete_many({**place, "_id": {"$ne": each["_id"]}})
        self._events.bulk_write([ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in stored])

    def _read(self, query: Query, order: list[tuple[str, int]], limit: int) -> Sequence[LifecycleEvent]:
        """Return the next events. Invalid documents are left out and must not end a listing."""
        with closing(self._events.find(query, sort=order, batch_size=limit)) as documents:
            events = (event for event in map(_from_document, documents) if event is not None)
            return list(islice(events, limit))


def _conditions(event_filter: EventFilter) -> list[Query]:
    wanted = {"key_id": event_filter.key_id, "owner": event_filter.owner, "actor": event_filter.actor}
    conditions: list[Query] = [{name: checked_text(value, name)} for name, value in wanted.items() if value is not None]
    if event_filter.since is not None:
        conditions.append({"at": {"$gte": to_microseconds(event_filter.since)}})
    return conditions


def _behind(after: EventPosition, comparison: str) -> list[Query]:
    at, key_id = to_microseconds(after.at), checked_text(after.key_id, "key_id")
    further = [
        {"at": {comparison: at}},
        {"at": at, "key_id": {comparison: key_id}},
        {"at": at, "key_id": key_id, "number": {comparison: after.number}},
    ]
    # The first condition lets the server use the index.
    return [{"at": {f"{comparison}e": at}}, {"$or": further}]


def _matches(event: LifecycleEvent, event_filter: EventFilter) -> bool:
    wanted = (event_filter.key_id, event_filter.owner, event_filter.actor)
    given = (event.key_id, event.owner, event.actor)
    is_wanted = all(value in (None, found) for value, found in zip(wanted, given, strict=True))
    return is_wanted and (event_filter.since is None or event.at >= event_filter.since)


def _in_time(event: LifecycleEvent | EventPosition) -> tuple[datetime, str, int]:
    return event.at, event.key_id, event.number


def _in_chain(event: LifecycleEvent) -> tuple[str, int]:
    return event.key_id, event.number


def _except(waiting: Sequence[LifecycleEvent]) -> Query:
    """Match all events but those in the place of a pending one, which are forged, or are being copied."""
    places = [{"key_id": event.key_id, "number": event.number} for event in waiting]
    return {"$nor": places} if places else {}


def _pending(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pending events of a document. Everything else that was written there is ignored."""
    events = document.get(PENDING)
    return [
        {name: event.get(name) for name in _FIELDS}
        for event in (events if isinstance(events, list) else [])
        if isinstance(event, dict) and event.get("key_id") == document["_id"] and isinstance(event.get("number"), int)
    ]


def _id(key_id: str, number: int) -> str:
    return f"{key_id}.{number}"


def _to_document(event: LifecycleEvent) -> dict[str, Any]:
    return {**to_event(event), "_id": _id(event.key_id, event.number)}


def _conflict(event: LifecycleEvent) -> Conflict:
    return Conflict(f"key {event.key_id} has another event {event.number}")


def _from_document(document: Mapping[str, Any]) -> LifecycleEvent | None:
    return stored_event({name: document.get(name) for name in _FIELDS})

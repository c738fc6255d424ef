"""Lifecycle events in a collection.

A standalone server has no transactions. The operation that changes a key therefore
puts the event into the document of the key, as pending. A second operation moves it
to the end of the chain. If the process dies in between, the next reader of the
history moves it. A unique index prevents duplicates.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from bson import Int64
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError
from typing_extensions import override

from flask_apikey.core.errors import Conflict, StorageError
from flask_apikey.core.model.history import ChainedEvent, LifecycleEvent, Link, chained
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import HistoryStore
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_mongodb.collections import DELETED, PENDING, Collections, Documents
from flask_apikey_mongodb.errors import DRIVER_ERRORS, storage_error, storage_errors
from flask_apikey_mongodb.queries import checked_text

_MAX_ATTEMPTS = 200
_PENDING_FIELDS = {PENDING: 1, DELETED: 1}

logger = logging.getLogger("flask_apikey")


def pending(event: LifecycleEvent) -> dict[str, Any]:
    """Return an event in its form inside the document of a key."""
    return {
        "uid": uuid.uuid4().hex,
        "at": Int64(to_microseconds(event.at)),
        "event": event.event,
        "key_id": event.key_id,
        "key_version": event.key_version,
        "details": event.details,
    }


class MongoDBHistory(HistoryStore):
    """Lifecycle events in a collection."""

    def __init__(self, opened: PerProcess[Collections]) -> None:
        self._opened = opened

    @override
    @storage_errors()
    def record(self, event: LifecycleEvent) -> None:
        self._extend(pending(event))

    @override
    @storage_errors()
    def events(self, *, after: int, limit: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
        for document in self._keys.find({f"{PENDING}.uid": {"$exists": True}}, _PENDING_FIELDS):
            self._settle(document)
        query: dict[str, Any] = {"_id": {"$gt": after}}
        if key_id is not None:
            query["key_id"] = checked_text(key_id, "key_id")
        documents = self._events.find(query, sort=[("_id", ASCENDING)], limit=limit)
        return [_from_document(document) for document in documents]

    @override
    @storage_errors()
    def append(self, events: Sequence[ChainedEvent]) -> None:
        if not events:
            return
        last = self._last_link()
        if (last.number + 1, last.hash) != (events[0].number, events[0].previous):
            raise Conflict(f"event {events[0].number} does not follow what is stored")
        for event in events:
            try:
                self._events.insert_one(_to_document(event, uuid.uuid4().hex))
            except DuplicateKeyError:
                raise Conflict(f"another process stored event {event.number} at the same time") from None

    def settle(self, key_id: str) -> None:
        """Move the pending events of a key to the chain. Then remove the document if the key is deleted.

        Failures are logged and not raised, because the change and its event are stored.
        """
        try:
            document = self._keys.find_one({"_id": key_id}, _PENDING_FIELDS)
            if document is not None:
                self._settle(document)
        except (*DRIVER_ERRORS, StorageError) as exc:
            reason = exc if isinstance(exc, StorageError) else storage_error(exc)
            logger.warning("the event of key %s is still pending: %s", key_id, reason)

    @property
    def _keys(self) -> Documents:
        return self._opened.get().keys

    @property
    def _events(self) -> Documents:
        return self._opened.get().events

    def _extend(self, waiting: Mapping[str, Any]) -> None:
        for _ in range(_MAX_ATTEMPTS):
            link = chained(self._last_link(), _event(waiting))
            try:
                self._events.insert_one(_to_document(link, waiting["uid"]))
            except DuplicateKeyError:
                if self._events.find_one({"uid": waiting["uid"]}, {"_id": 1}) is None:
                    continue
            return
        raise StorageError("other processes keep extending the history")

    def _settle(self, document: dict[str, Any]) -> None:
        key = {"_id": document["_id"]}
        for waiting in document.get(PENDING, []):
            self._extend(waiting)
            self._keys.update_one(key, {"$pull": {PENDING: {"uid": waiting["uid"]}}})
        if document.get(DELETED):
            self._keys.delete_one({**key, DELETED: True, PENDING: {"$size": 0}})
        else:
            # The index is sparse.
            self._keys.update_one({**key, PENDING: {"$size": 0}}, {"$unset": {PENDING: ""}})

    def _last_link(self) -> Link:
        last = self._events.find_one({}, {"hash": 1}, sort=[("_id", DESCENDING)])
        return Link() if last is None else Link(last["_id"], last["hash"])


def _event(document: Mapping[str, Any]) -> LifecycleEvent:
    return LifecycleEvent(
        at=from_microseconds(document["at"]),
        event=document["event"],
        key_id=document["key_id"],
        key_version=document["key_version"],
        details=document["details"],
    )


def _to_document(link: ChainedEvent, uid: str) -> dict[str, Any]:
    return {**pending(link.event), "uid": uid, "_id": link.number, "previous": link.previous, "hash": link.hash}


def _from_document(document: Mapping[str, Any]) -> ChainedEvent:
    return ChainedEvent(document["_id"], _event(document), document["previous"], document["hash"])

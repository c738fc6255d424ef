"""Lifecycle events, and how they are written with the change that they describe.

A standalone server has no transactions, so an event is first put into the
document of its key, by the operation that changes the key. From there it is moved
to the end of the chain. When a process dies in between, the next one that reads
the history moves it. A unique index keeps an event from being moved twice.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from bson import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from flask_apikey.core.errors import Conflict, StorageError
from flask_apikey.core.model.history import ChainedEvent, LifecycleEvent, Link, chained
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_mongodb.checks import checked_text
from flask_apikey_mongodb.errors import DRIVER_ERRORS, storage_error

EVENTS_COLLECTION = "flask_apikey_events"
PENDING = "pending"
DELETED = "deleted"

KEYS_INDEX = IndexModel([(f"{PENDING}.uid", ASCENDING)], sparse=True)
EVENTS_INDEXES = [
    IndexModel([("uid", ASCENDING)], unique=True),
    IndexModel([("key_id", ASCENDING), ("_id", ASCENDING)]),
]

_MOST_ATTEMPTS = 200

Documents = Collection[dict[str, Any]]

logger = logging.getLogger("flask_apikey")


def pending(event: LifecycleEvent) -> dict[str, Any]:
    """The event as it waits in the document of its key."""
    return {
        "uid": uuid.uuid4().hex,
        "at": Int64(to_microseconds(event.at)),
        "event": event.event,
        "key_id": event.key_id,
        "key_version": event.key_version,
        "details": event.details,
    }


class Chain:
    """The events of a database, and those that wait in its keys.

    Args:
        keys: The collection of keys.
        events: The collection of events.
    """

    def __init__(self, keys: Documents, events: Documents) -> None:
        self._keys = keys
        self._events = events

    def settle(self, key_id: str) -> None:
        """Move what waits in the document of a key, and remove the document of a key that is deleted.

        A failure is reported and not raised: the change and its event are stored.
        """
        try:
            document = self._keys.find_one({"_id": key_id}, {PENDING: 1, DELETED: 1})
            if document is not None:
                self._settle(document)
        except (*DRIVER_ERRORS, StorageError) as exc:
            reason = exc if isinstance(exc, StorageError) else storage_error(exc)
            logger.warning("the event of key %s waits to be moved to the history: %s", key_id, reason)

    def settle_all(self) -> None:
        """Move whatever waits anywhere."""
        for document in self._keys.find({f"{PENDING}.uid": {"$exists": True}}, {PENDING: 1, DELETED: 1}):
            self._settle(document)

    def extend(self, waiting: Mapping[str, Any]) -> None:
        """Put an event at the end of the chain, unless it is in it.

        Raises:
            StorageError: Others extend it all the time.
        """
        for _ in range(_MOST_ATTEMPTS):
            link = chained(self._last_link(), _event(waiting))
            try:
                self._events.insert_one(_to_document(link, waiting["uid"]))
            except DuplicateKeyError:
                if self._events.find_one({"uid": waiting["uid"]}, {"_id": 1}) is None:
                    continue
            return
        raise StorageError("the history is being extended by others all the time")

    def append(self, events: Sequence[ChainedEvent]) -> None:
        """Store events as they are.

        Raises:
            Conflict: One does not follow the last that is stored.
        """
        last = self._last_link()
        if (last.number + 1, last.hash) != (events[0].number, events[0].previous):
            raise Conflict(f"event {events[0].number} does not follow what is stored")
        for event in events:
            try:
                self._events.insert_one(_to_document(event, uuid.uuid4().hex))
            except DuplicateKeyError:
                raise Conflict(f"event {event.number} was stored by somebody else meanwhile") from None

    def read(self, *, after: int, limit: int, key_id: str | None = None) -> list[ChainedEvent]:
        """The next events behind a number, of one key or of all."""
        query: dict[str, Any] = {"_id": {"$gt": after}}
        if key_id is not None:
            query["key_id"] = checked_text(key_id, "key_id")
        documents = self._events.find(query, sort=[("_id", ASCENDING)], limit=limit)
        return [_from_document(document) for document in documents]

    def _settle(self, document: dict[str, Any]) -> None:
        key = {"_id": document["_id"]}
        for waiting in document.get(PENDING, []):
            self.extend(waiting)
            self._keys.update_one(key, {"$pull": {PENDING: {"uid": waiting["uid"]}}})
        if document.get(DELETED):
            self._keys.delete_one({**key, DELETED: True, PENDING: {"$size": 0}})
        else:
            # What is not there is not in the index.
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

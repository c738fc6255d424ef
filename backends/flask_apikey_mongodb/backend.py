"""The backend: the storage contract in MongoDB.

Every change is one operation on one document, so a standalone server, a replica
set and a sharded cluster serve alike. Where the server has retryable writes,
PyMongo repeats a write whose answer was lost, under the same transaction number:
the server does not carry it out twice and answers as it did the first time, so
that a compare-and-set that succeeded is not reported as a conflict. Without them
(a standalone server, ``retryWrites=false``) nothing is repeated, and a lost
answer is a `StorageError`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, cast

from pymongo import IndexModel, MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from flask_apikey.core.errors import AlreadyExists, Conflict, StorageError
from flask_apikey.core.model.history import ChainedEvent, LifecycleEvent
from flask_apikey.core.model.keys import Cursor, StoredKey
from flask_apikey.core.storage.contract import Backend, Inspectable, KeepsHistory, KeyFilter
from flask_apikey_mongodb.clients import checked_source, database_of, make_client
from flask_apikey_mongodb.collections import INDEXES, KEYS_COLLECTION, collection_of
from flask_apikey_mongodb.documents import DamagedDocument, LookupReader, readable, to_document, to_record_fields
from flask_apikey_mongodb.errors import DRIVER_ERRORS, storage_error, storage_errors
from flask_apikey_mongodb.history import (
    DELETED,
    EVENTS_COLLECTION,
    EVENTS_INDEXES,
    KEYS_INDEX,
    PENDING,
    Chain,
    pending,
)
from flask_apikey_mongodb.inspection import missing_indexes
from flask_apikey_mongodb.queries import IN_ORDER, NOT_DELETED, at_version, by_id, matching
from flask_apikey_mongodb.rotation import ReplacesSeals
from flask_apikey_mongodb.usage import Usage
from flask_apikey_mongodb.usage_documents import (
    LAST_USES_COLLECTION,
    LAST_USES_INDEXES,
    USAGE_COLLECTION,
    USAGE_INDEXES,
)
from flask_apikey_mongodb.usage_methods import CountsUsage

_PAGE = 1_000


class MongoDBBackend(Backend, Inspectable, KeepsHistory, ReplacesSeals, CountsUsage):
    """Keeps keys in a MongoDB database.

    Args:
        source: A URI, a PyMongo client, or a PyMongo database. For a URI and a
            client, the database is the one in the path of the URI, or else
            ``flask_apikey``.

    Raises:
        ConfigurationError: `source` is none of these, or the URI is malformed.

    With a URI, each process makes its own client on first use. A client that was
    given is used as it is and stays open. PyMongo's clients are not fork-safe:
    an application that forks after it made one (``gunicorn --preload``) gives the
    URI instead.

    Read preference, read concern and write concern are this backend's own,
    whatever the URI or the client say.
    """

    def __init__(self, source: str | MongoClient[Any] | Database[Any]) -> None:
        self._source = checked_source(source)
        self._read = LookupReader()
        self._collections: dict[int, Collection[dict[str, Any]]] = {}

    @classmethod
    def from_uri(cls, uri: str) -> "MongoDBBackend":
        """See `Backend.from_uri`."""
        return cls(uri)

    @classmethod
    def from_client(cls, client: object) -> "MongoDBBackend":
        """See `Backend.from_client`: a PyMongo client or database."""
        return cls(cast("MongoClient[Any] | Database[Any]", client))

    def init_storage(self) -> None:
        """See `Backend.init_storage`. The server makes an index once, however many ask for it."""
        with storage_errors():
            for collection, indexes in self._indexes():
                collection.create_indexes(indexes)

    def missing_parts(self) -> Sequence[str]:
        """See `Inspectable.missing_parts`."""
        with storage_errors():
            return [part for each in self._indexes() for part in missing_indexes(*each)]

    def ping(self) -> None:
        """See `Backend.ping`."""
        with storage_errors():
            self._keys().database.command("ping")

    def close(self) -> None:
        """See `Backend.close`. A client that was given stays open."""
        keys = self._collections.pop(os.getpid(), None)
        if keys is not None and isinstance(self._source, str):
            keys.database.client.close()

    def add(self, key: StoredKey) -> None:
        """See `Backend.add`."""
        self._insert(to_document(key))

    def add_many(self, keys: Sequence[StoredKey]) -> None:
        """See `Backend.add_many`."""
        with storage_errors():
            try:
                self._keys().insert_many([to_document(key) for key in keys])
            except BulkWriteError as exc:
                for error in exc.details["writeErrors"]:
                    self._refuse_if_stored(keys[error["index"]].record.id)
                raise

    def get(self, key_id: str) -> StoredKey | None:
        """See `Backend.get`."""
        query = by_id(key_id)
        try:
            document = self._keys().find_one(query)
        except DRIVER_ERRORS as exc:
            raise storage_error(exc) from None
        if document is None or DELETED in document:
            return None
        try:
            return self._read(document)
        except DamagedDocument as exc:
            raise StorageError(str(exc)) from exc

    def find(self, key_filter: KeyFilter, *, after: Cursor | None, limit: int) -> Sequence[StoredKey]:
        """See `Backend.find`. Documents that cannot be read are reported and left out."""
        query = matching(key_filter, after)
        with storage_errors(), closing(self._keys().find(query, sort=IN_ORDER, batch_size=limit)) as documents:
            return list(islice(readable(documents), limit))

    def all_keys(self) -> Iterator[StoredKey]:
        """See `Backend.all_keys`: with one cursor of the server."""
        with storage_errors(), closing(self._keys().find(NOT_DELETED, sort=IN_ORDER, batch_size=_PAGE)) as documents:
            yield from readable(documents)

    def update(self, key: StoredKey, *, expected_version: int, keep_seal: bool = False) -> None:
        """See `Backend.update`."""
        self._change(key.record.id, expected_version, {"$set": _replacement(key, keep_seal=keep_seal)})

    def delete(self, key_id: str, *, expected_version: int) -> None:
        """See `Backend.delete`."""
        query = at_version(key_id, expected_version)
        with storage_errors():
            deleted = self._keys().delete_one(query).deleted_count
        _require_one(deleted, key_id, expected_version)

    def add_recorded(self, key: StoredKey, event: LifecycleEvent) -> None:
        """See `KeepsHistory.add_recorded`."""
        self._insert({**to_document(key), PENDING: [pending(event)]})
        self._chain().settle(key.record.id)

    def update_recorded(
        self, key: StoredKey, *, expected_version: int, event: LifecycleEvent, keep_seal: bool = False
    ) -> None:
        """See `KeepsHistory.update_recorded`."""
        change = {"$set": _replacement(key, keep_seal=keep_seal), "$push": {PENDING: pending(event)}}
        self._change(key.record.id, expected_version, change)
        self._chain().settle(key.record.id)

    def delete_recorded(self, key_id: str, *, expected_version: int, event: LifecycleEvent) -> None:
        """See `KeepsHistory.delete_recorded`."""
        change = {"$set": {DELETED: True, "version": expected_version + 1}, "$push": {PENDING: pending(event)}}
        self._change(key_id, expected_version, change)
        self._chain().settle(key_id)

    def record(self, event: LifecycleEvent) -> None:
        """See `KeepsHistory.record`."""
        with storage_errors():
            self._chain().extend(pending(event))

    def events(self, *, after: int, limit: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
        """See `KeepsHistory.events`."""
        with storage_errors():
            self._chain().settle_all()
            return self._chain().read(after=after, limit=limit, key_id=key_id)

    def append_events(self, events: Sequence[ChainedEvent]) -> None:
        """See `KeepsHistory.append_events`."""
        if events:
            with storage_errors():
                self._chain().append(events)

    def _insert(self, document: dict[str, Any]) -> None:
        with storage_errors():
            try:
                self._keys().insert_one(document)
            except DuplicateKeyError:
                self._refuse_if_stored(document["_id"])
                raise

    def _refuse_if_stored(self, key_id: str) -> None:
        # What another unique index refuses is refused with the same error.
        if self._keys().find_one(by_id(key_id), {"_id": 1}) is not None:
            raise AlreadyExists(f"a key with the id {key_id} exists already") from None

    def _change(self, key_id: str, expected_version: int, change: dict[str, Any]) -> None:
        query = at_version(key_id, expected_version)
        with storage_errors():
            changed = self._keys().update_one({**query, DELETED: {"$exists": False}}, change).matched_count
        _require_one(changed, key_id, expected_version)

    @contextmanager
    def _usage(self) -> Iterator[Usage]:
        with storage_errors():
            yield Usage(self._collection(USAGE_COLLECTION), self._collection(LAST_USES_COLLECTION), self._keys())

    def _indexes(self) -> list[tuple[Collection[dict[str, Any]], list[IndexModel]]]:
        return [
            (self._keys(), [*INDEXES, KEYS_INDEX]),
            (self._collection(EVENTS_COLLECTION), EVENTS_INDEXES),
            (self._collection(USAGE_COLLECTION), USAGE_INDEXES),
            (self._collection(LAST_USES_COLLECTION), LAST_USES_INDEXES),
        ]

    def _chain(self) -> Chain:
        return Chain(self._keys(), self._collection(EVENTS_COLLECTION))

    def _collection(self, name: str) -> Collection[dict[str, Any]]:
        return collection_of(self._keys().database, name)

    def _keys(self) -> Collection[dict[str, Any]]:
        process = os.getpid()
        keys = self._collections.get(process)
        return self._open(process) if keys is None else keys

    def _open(self, process: int) -> Collection[dict[str, Any]]:
        if not isinstance(self._source, str):
            return self._collections.setdefault(process, collection_of(database_of(self._source), KEYS_COLLECTION))
        client = make_client(self._source)
        # setdefault is atomic: threads that come here together get the same one.
        keys = self._collections.setdefault(process, collection_of(database_of(client), KEYS_COLLECTION))
        if keys.database.client is not client:
            client.close()
        return keys


def _replacement(key: StoredKey, *, keep_seal: bool) -> dict[str, Any]:
    return to_record_fields(key.record) if keep_seal else to_document(key)


def _require_one(count: int, key_id: str, expected_version: int) -> None:
    if count != 1:
        raise Conflict(f"key {key_id} is no longer at version {expected_version}")

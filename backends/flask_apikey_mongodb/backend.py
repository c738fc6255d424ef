"""The storage contract in MongoDB.

Every change is one operation on one document, so standalone servers, replica sets and
sharded clusters all work. With retryable writes, PyMongo retries a write whose answer
was lost under the same transaction number. The server then does not repeat the write
and returns the first answer, so a successful compare-and-set is not reported as a
conflict. Without retryable writes (standalone servers, ``retryWrites=false``) nothing
is retried, and a lost answer is a `StorageError`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from itertools import islice, zip_longest
from typing import Any, TypeVar, cast

import pymongo
from bson import Int64
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError
from typing_extensions import override

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, Conflict, InvalidValue, raise_alone
from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.model.keys import Cursor, DamagedKey, StoredKey
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.times import to_microseconds
from flask_apikey_mongodb.changes import CHANGED_NOW, MongoDBChanges
from flask_apikey_mongodb.clients import Timeout, checked_source, database_of, make_client, unlimited
from flask_apikey_mongodb.collections import PENDING, Collections, Documents
from flask_apikey_mongodb.documents import LookupReader, from_any_document, readable, to_document
from flask_apikey_mongodb.errors import storage_error, storage_errors
from flask_apikey_mongodb.history import MongoDBHistory, to_event
from flask_apikey_mongodb.queries import BY_ID, NEWEST_FIRST, OLDEST_FIRST, as_it_was, by_id, by_ids, matching
from flask_apikey_mongodb.quotas import MongoDBQuotas
from flask_apikey_mongodb.rotation import MongoDBRotation
from flask_apikey_mongodb.usage import MongoDBUsage

T = TypeVar("T")

_PAGE = 1_000
_BATCH = 500


class MongoDBBackend(Backend):
    """Keeps keys in a MongoDB database.

    Args:
        source: A URI, a PyMongo client, or a PyMongo database. For a URI or a client,
            the database is the one in the path of the URI, or else ``flask_apikey``.

    Raises:
        ConfigurationError: `source` is none of these, or the URI is malformed.

    With a URI, each process creates its own client on first use. A client of the
    application is used as it is, and stays open. PyMongo clients are not fork-safe:
    an application that forks after it created one (``gunicorn --preload``) must pass
    the URI instead.

    The backend sets its own read preference, read concern and write concern. It
    ignores those of the URI or the client.
    """

    history: MongoDBHistory
    usage: MongoDBUsage
    rotation: MongoDBRotation
    quotas: MongoDBQuotas
    changes: MongoDBChanges

    def __init__(self, source: str | MongoClient[Any] | Database[Any]) -> None:
        try:
            self._source = checked_source(source)
        except ConfigurationError as exc:
            del source  # may hold a password
            raise_alone(exc)
        self._read = LookupReader()
        self._timeout = Timeout()
        self._opened = PerProcess(self._open)
        self.history = MongoDBHistory(self._opened)
        self.usage = MongoDBUsage(self._opened)
        self.rotation = MongoDBRotation(self._opened)
        self.quotas = MongoDBQuotas(self._opened)
        self.changes = MongoDBChanges(self._opened, self._timeout)

    @classmethod
    @override
    def from_uri(cls, uri: str) -> "MongoDBBackend":
        return cls(uri)

    @classmethod
    @override
    def from_client(cls, client: object) -> "MongoDBBackend":
        return cls(cast("MongoClient[Any] | Database[Any]", client))

    @override
    def limit_waits(self, timeout: timedelta) -> None:
        self._timeout.seconds = timeout.total_seconds()

    @override
    @storage_errors()
    @unlimited
    def init_storage(self) -> None:
        self._opened.get().create_indexes()
        self.history.settle_all()

    @override
    @storage_errors()
    def missing_parts(self) -> Sequence[str]:
        return list(self._opened.get().missing_indexes())

    @override
    @storage_errors()
    def ping(self) -> None:
        self._opened.get().database.command("ping")

    @override
    def close(self) -> None:
        """Close the client. A client of the application stays open."""
        collections = self._opened.pop()
        if collections is not None and isinstance(self._source, str):
            collections.database.client.close()

    @override
    @storage_errors()
    def add(self, key: StoredKey, *, event: LifecycleEvent | None = None) -> None:
        try:
            self._keys.insert_one(_with_event(key, event))
        except DuplicateKeyError:
            self._refuse_if_stored(key.record.id)
            raise
        self.history.settle([] if event is None else [event])

    @override
    @storage_errors()
    def add_many(self, keys: Sequence[StoredKey], *, events: Sequence[LifecycleEvent] = ()) -> None:
        # A socket timeout holds for each command.
        for start in range(0, len(keys), _BATCH):
            self._add_batch(keys[start : start + _BATCH], events[start : start + _BATCH])

    def _add_batch(self, keys: Sequence[StoredKey], events: Sequence[LifecycleEvent]) -> None:
        pairs = zip_longest(keys, events) if events else ((key, None) for key in keys)
        try:
            self._keys.insert_many([_with_event(key, event) for key, event in pairs])
        except BulkWriteError as exc:
            for error in exc.details["writeErrors"]:
                self._refuse_if_stored(keys[error["index"]].record.id)
            raise
        self.history.settle(events)

    @override
    def get(self, key_id: str) -> StoredKey | None:
        document = self._looked_up(lambda keys: keys.find_one(by_id(key_id)))
        return None if document is None else self._read(document)

    @override
    def get_many(self, key_ids: Sequence[str]) -> Mapping[str, StoredKey]:
        documents = self._looked_up(lambda keys: list(keys.find(by_ids(key_ids))))
        return {document["_id"]: self._read(document) for document in documents}

    @override
    @storage_errors()
    def find(
        self, key_filter: KeyFilter, *, after: Cursor | None, limit: int, newest_first: bool = False
    ) -> Sequence[StoredKey]:
        """List matching keys. Unreadable documents are logged and left out."""
        query = matching(key_filter, after, newest_first=newest_first)
        order = NEWEST_FIRST if newest_first else OLDEST_FIRST
        with closing(self._keys.find(query, sort=order, batch_size=limit)) as documents:
            return list(islice(readable(documents), limit))

    @override
    def scan(self, key_filter: KeyFilter) -> Iterator[StoredKey | DamagedKey]:
        """Iterate over matching keys by id, with one cursor."""
        query = matching(key_filter)
        with storage_errors(), closing(self._keys.find(query, sort=BY_ID, batch_size=_PAGE)) as documents:
            yield from map(from_any_document, documents)

    @override
    @storage_errors()
    def count(self, key_filter: KeyFilter) -> int:
        return self._keys.count_documents(matching(key_filter))

    @override
    @storage_errors()
    def update(
        self, key: StoredKey, *, expected_version: int, expected_seal: str, event: LifecycleEvent | None = None
    ) -> None:
        key_id = key.record.id
        change: dict[str, Any] = {"$set": to_document(key), **CHANGED_NOW}
        if event is not None:
            change["$push"] = {PENDING: to_event(event)}
        if self._keys.update_one(as_it_was(key_id, expected_version, expected_seal), change).matched_count != 1:
            raise Conflict(f"key {key_id} is no longer at version {expected_version}")
        self.history.settle([] if event is None else [event])

    @override
    @storage_errors()
    def revoke_unsealed(self, key_id: str, *, revoked_at: datetime, reason: str | None) -> bool:
        revocation = {"revoked_at": Int64(to_microseconds(revoked_at)), "revocation_reason": reason}
        change = {"$set": revocation, **CHANGED_NOW}
        return self._keys.update_one({**by_id(key_id), "pruned_at": None}, change).matched_count == 1

    def _looked_up(self, look_up: Callable[[Documents], T]) -> T:
        try:
            # Also for retries, and for a client of the application.
            with pymongo.timeout(self._timeout.seconds):
                return look_up(self._opened.get().keys)
        except (ConfigurationError, InvalidValue):
            raise
        except Exception as exc:  # noqa: BLE001  # drivers raise errors of Python too
            error = storage_error(exc)
        # Not in the handler: the error must not refer to the frames of the driver.
        raise error.with_traceback(None)

    def _refuse_if_stored(self, key_id: str) -> None:
        # Unique indexes of the application raise the same error.
        if self._keys.find_one(by_id(key_id), {"_id": 1}) is not None:
            raise AlreadyExists(f"a key with the id {key_id} exists already") from None

    def _open(self) -> Collections:
        source = self._source
        return Collections(
            database_of(make_client(source, self._timeout.seconds) if isinstance(source, str) else source)
        )

    @property
    def _keys(self) -> Documents:
        return self._opened.get().keys


def _with_event(key: StoredKey, event: LifecycleEvent | None) -> dict[str, Any]:
    document = to_document(key)
    return document if event is None else {**document, PENDING: [to_event(event)]}

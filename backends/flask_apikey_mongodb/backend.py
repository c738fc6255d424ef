"""The storage contract in MongoDB.

Every change is one operation on one document, so standalone servers, replica sets and
sharded clusters all work. With retryable writes, PyMongo retries a write whose answer
was lost under the same transaction number. The server then does not repeat the write
and returns the first answer, so a successful compare-and-set is not reported as a
conflict. Without retryable writes (standalone servers, ``retryWrites=false``) nothing
is retried, and a lost answer is a `StorageError`.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, cast

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError
from typing_extensions import override

from flask_apikey.core.errors import AlreadyExists, Conflict, StorageError
from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.model.keys import Cursor, StoredKey
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey_mongodb.clients import Source, checked_source, database_of, make_client
from flask_apikey_mongodb.collections import DELETED, PENDING, Collections, Documents
from flask_apikey_mongodb.documents import DamagedDocument, LookupReader, readable, to_document, to_record_fields
from flask_apikey_mongodb.errors import DRIVER_ERRORS, storage_error, storage_errors
from flask_apikey_mongodb.history import MongoDBHistory, pending
from flask_apikey_mongodb.queries import IN_ORDER, NOT_DELETED, at_version, by_id, matching
from flask_apikey_mongodb.rotation import MongoDBRotation
from flask_apikey_mongodb.usage import MongoDBUsage

_PAGE = 1_000


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

    def __init__(self, source: str | MongoClient[Any] | Database[Any]) -> None:
        self._source = checked_source(source)
        self._read = LookupReader()
        self._opened = PerProcess(partial(_open, self._source))
        self.history = MongoDBHistory(self._opened)
        self.usage = MongoDBUsage(self._opened)
        self.rotation = MongoDBRotation(self._opened)

    @classmethod
    @override
    def from_uri(cls, uri: str) -> "MongoDBBackend":
        return cls(uri)

    @classmethod
    @override
    def from_client(cls, client: object) -> "MongoDBBackend":
        return cls(cast("MongoClient[Any] | Database[Any]", client))

    @override
    @storage_errors()
    def init_storage(self) -> None:
        self._opened.get().create_indexes()

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
        document = to_document(key)
        if event is not None:
            document[PENDING] = [pending(event)]
        try:
            self._keys.insert_one(document)
        except DuplicateKeyError:
            self._refuse_if_stored(key.record.id)
            raise
        self._settle(key.record.id, event)

    @override
    @storage_errors()
    def add_many(self, keys: Sequence[StoredKey]) -> None:
        try:
            self._keys.insert_many([to_document(key) for key in keys])
        except BulkWriteError as exc:
            for error in exc.details["writeErrors"]:
                self._refuse_if_stored(keys[error["index"]].record.id)
            raise

    @override
    def get(self, key_id: str) -> StoredKey | None:
        query = by_id(key_id)
        try:
            document = self._opened.get().keys.find_one(query)
        except DRIVER_ERRORS as exc:
            raise storage_error(exc) from None
        if document is None or DELETED in document:
            return None
        try:
            return self._read(document)
        except DamagedDocument as exc:
            raise StorageError(str(exc)) from exc

    @override
    @storage_errors()
    def find(self, key_filter: KeyFilter, *, after: Cursor | None, limit: int) -> Sequence[StoredKey]:
        """List matching keys. Unreadable documents are logged and left out."""
        query = matching(key_filter, after)
        with closing(self._keys.find(query, sort=IN_ORDER, batch_size=limit)) as documents:
            return list(islice(readable(documents), limit))

    @override
    def all_keys(self) -> Iterator[StoredKey]:
        """Iterate over all keys with one cursor."""
        with storage_errors(), closing(self._keys.find(NOT_DELETED, sort=IN_ORDER, batch_size=_PAGE)) as documents:
            yield from readable(documents)

    @override
    def update(
        self, key: StoredKey, *, expected_version: int, keep_seal: bool = False, event: LifecycleEvent | None = None
    ) -> None:
        fields = to_record_fields(key.record) if keep_seal else to_document(key)
        self._change(key.record.id, expected_version, fields, event)

    @override
    def delete(self, key_id: str, *, expected_version: int, event: LifecycleEvent | None = None) -> None:
        if event is not None:
            self._change(key_id, expected_version, {DELETED: True, "version": expected_version + 1}, event)
            return
        query = at_version(key_id, expected_version)
        with storage_errors():
            deleted = self._keys.delete_one({**query, **NOT_DELETED}).deleted_count
        _require_one(deleted, key_id, expected_version)

    @storage_errors()
    def _change(self, key_id: str, expected_version: int, fields: dict[str, Any], event: LifecycleEvent | None) -> None:
        change: dict[str, Any] = {"$set": fields}
        if event is not None:
            change["$push"] = {PENDING: pending(event)}
        query = at_version(key_id, expected_version)
        changed = self._keys.update_one({**query, **NOT_DELETED}, change).matched_count
        _require_one(changed, key_id, expected_version)
        self._settle(key_id, event)

    def _settle(self, key_id: str, event: LifecycleEvent | None) -> None:
        if event is not None:
            self.history.settle(key_id)

    def _refuse_if_stored(self, key_id: str) -> None:
        # Unique indexes of the application raise the same error.
        if self._keys.find_one(by_id(key_id), {"_id": 1}) is not None:
            raise AlreadyExists(f"a key with the id {key_id} exists already") from None

    @property
    def _keys(self) -> Documents:
        return self._opened.get().keys


def _open(source: Source) -> Collections:
    return Collections(database_of(make_client(source) if isinstance(source, str) else source))


def _require_one(count: int, key_id: str, expected_version: int) -> None:
    if count != 1:
        raise Conflict(f"key {key_id} is no longer at version {expected_version}")

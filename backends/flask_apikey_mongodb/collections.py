"""The collections: indexes, read concern and write concern."""

from collections.abc import Iterator
from typing import Any

from bson import CodecOptions
from bson.codec_options import DatetimeConversion
from pymongo import ASCENDING, IndexModel, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

KEYS_COLLECTION = "flask_apikey_keys"
EVENTS_COLLECTION = "flask_apikey_events"
USAGE_COLLECTION = "flask_apikey_usage"
LAST_USES_COLLECTION = "flask_apikey_last_uses"
ROTATION_COLLECTION = "flask_apikey_rotation"
QUOTAS_COLLECTION = "flask_apikey_quotas"

PENDING = "pending"
"""The field of a key with the events that are not in the collection of events yet."""

_INDEXES = {
    KEYS_COLLECTION: [
        IndexModel([("pruned_at", ASCENDING), ("created_at", ASCENDING), ("_id", ASCENDING)]),
        IndexModel([("owner", ASCENDING), ("pruned_at", ASCENDING), ("created_at", ASCENDING), ("_id", ASCENDING)]),
        IndexModel([("revoked_at", ASCENDING)]),
        IndexModel([("suspended_at", ASCENDING)]),
        IndexModel([("expires_at", ASCENDING)]),
        IndexModel([("adopted", ASCENDING)]),
        IndexModel([("changed_at", ASCENDING), ("_id", ASCENDING)], sparse=True),
        IndexModel([(f"{PENDING}.number", ASCENDING)], sparse=True),
    ],
    EVENTS_COLLECTION: [
        IndexModel([("key_id", ASCENDING), ("number", ASCENDING)], unique=True),
        IndexModel([("at", ASCENDING), ("key_id", ASCENDING), ("number", ASCENDING)]),
        IndexModel([("owner", ASCENDING), ("at", ASCENDING), ("key_id", ASCENDING), ("number", ASCENDING)]),
        IndexModel([("actor", ASCENDING), ("at", ASCENDING), ("key_id", ASCENDING), ("number", ASCENDING)]),
    ],
    USAGE_COLLECTION: [
        IndexModel([("key_id", ASCENDING), ("day", ASCENDING)]),
        IndexModel([("day", ASCENDING)]),
        IndexModel([("owner", ASCENDING), ("day", ASCENDING)]),
    ],
    LAST_USES_COLLECTION: [IndexModel([("key_id", ASCENDING)])],
    QUOTAS_COLLECTION: [IndexModel([("ends_at", ASCENDING)])],
}

WRITE_TIMEOUT = 10_000
"""Milliseconds to wait for a majority to journal a write."""

# An acknowledged write must survive the loss of a server.
_WRITE_CONCERN = WriteConcern("majority", j=True, wtimeout=WRITE_TIMEOUT)

# The newest data of the primary. With "majority" a revoked key would keep working
# while the secondaries lag behind.
_READ_CONCERN = ReadConcern("local")

# Documents edited by hand must not stop the decoder: they are rejected one by one later.
_CODEC_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


Documents = Collection[dict[str, Any]]


class Collections:
    """The collections of a database. They override the read and write options of the database."""

    def __init__(self, database: Database[Any]) -> None:
        self.database = database
        self.keys = self._collection(KEYS_COLLECTION)
        self.events = self._collection(EVENTS_COLLECTION)
        self.usage = self._collection(USAGE_COLLECTION)
        self.last_uses = self._collection(LAST_USES_COLLECTION)
        self.rotation = self._collection(ROTATION_COLLECTION)
        self.quotas = self._collection(QUOTAS_COLLECTION)

    def create_indexes(self) -> None:
        """Create all indexes. The server makes each index once, even for concurrent requests."""
        for name, indexes in _INDEXES.items():
            self._collection(name).create_indexes(indexes)

    def missing_indexes(self) -> Iterator[str]:
        """List the indexes that the database lacks."""
        for name, indexes in _INDEXES.items():
            present = [list(index["key"]) for index in self._collection(name).index_information().values()]
            for index in indexes:
                if list(index.document["key"].items()) not in present:
                    yield f"index {index.document['name']} of {name}"

    def _collection(self, name: str) -> Documents:
        return self.database.get_collection(
            name,
            codec_options=_CODEC_OPTIONS,
            read_preference=ReadPreference.PRIMARY,
            write_concern=_WRITE_CONCERN,
            read_concern=_READ_CONCERN,
        )

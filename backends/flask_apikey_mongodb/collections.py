"""The collections, with the guarantees that their reads and writes need."""

from typing import Any

from bson import CodecOptions
from bson.codec_options import DatetimeConversion
from pymongo import ASCENDING, IndexModel, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

KEYS_COLLECTION = "flask_apikey_keys"

INDEXES = [
    IndexModel([("created_at", ASCENDING), ("_id", ASCENDING)]),
    IndexModel([("owner", ASCENDING), ("created_at", ASCENDING), ("_id", ASCENDING)]),
]

WRITE_TIMEOUT = 10_000
"""Milliseconds to wait until a majority has a write in its journal."""

# An acknowledged write must survive the loss of a server.
_WRITE_CONCERN = WriteConcern("majority", j=True, wtimeout=WRITE_TIMEOUT)

# The newest that the primary has. With "majority" a revoked key would go on working
# for as long as the secondaries lag behind.
_READ_CONCERN = ReadConcern("local")

# What somebody wrote by hand must be seen to be refused: it must not stop the decoder.
_CODEC_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


def collection_of(database: Database[Any], name: str) -> Collection[dict[str, Any]]:
    """A collection of ours in a database, whatever the database's own options are."""
    return database.get_collection(
        name,
        codec_options=_CODEC_OPTIONS,
        read_preference=ReadPreference.PRIMARY,
        write_concern=_WRITE_CONCERN,
        read_concern=_READ_CONCERN,
    )

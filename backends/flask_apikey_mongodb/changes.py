"""Moments of changes, by the clock of the server."""

from datetime import datetime, timezone
from typing import Any

import pymongo
from bson import CodecOptions
from typing_extensions import override

from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import Changes, ChangeStore
from flask_apikey_mongodb.clients import Timeout
from flask_apikey_mongodb.collections import Collections
from flask_apikey_mongodb.errors import storage_errors

CHANGED_AT = "changed_at"
"""The field with the moment of the last change. It is not sealed, and missing until the first change."""

CHANGED_NOW = {"$currentDate": {CHANGED_AT: True}}
"""Part of every update of a key: sets the moment by the clock of the primary."""

_IN_UTC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=timezone.utc)


class MongoDBChanges(ChangeStore):
    """Moments of changes in the documents of keys."""

    def __init__(self, opened: PerProcess[Collections], timeout: Timeout) -> None:
        self._opened = opened
        self._timeout = timeout

    @override
    @storage_errors()
    def changed_since(self, moment: datetime | None, *, limit: int) -> Changes:
        # Also for retries, and for a client of the application.
        with pymongo.timeout(self._timeout.seconds):
            collections = self._opened.get()
            # Before the query, so that no change falls in between. The query itself cannot return the time.
            now: datetime = collections.database.command("hello", codec_options=_IN_UTC)["localTime"]
            if moment is None:
                return Changes(now)
            found = collections.keys.find({CHANGED_AT: {"$gte": moment}}, {"_id": 1}, limit=limit)
            return Changes(now, [each["_id"] for each in found if isinstance(each["_id"], str)])

"""Counters of quotas in a collection, each changed by operations on one document."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bson import Int64
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from typing_extensions import override

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.quotas import QuotaCounter, QuotaState
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import QuotaStore
from flask_apikey.core.times import to_microseconds
from flask_apikey_mongodb.clients import unlimited
from flask_apikey_mongodb.collections import Collections, Documents
from flask_apikey_mongodb.errors import storage_errors
from flask_apikey_mongodb.queries import Query, checked_number, checked_text

_EVERY_PERIOD = -1
"""The start in a document with what is added to every period of its subject."""

_MAX_ATTEMPTS = 200


class MongoDBQuotas(QuotaStore):
    """Counters of quotas in a collection.

    The field ``balance`` is what was used, less what was added: compared with the limit in one condition.
    """

    def __init__(self, opened: PerProcess[Collections]) -> None:
        self._opened = opened

    @property
    def _counters(self) -> Documents:
        return self._opened.get().quotas

    @override
    @storage_errors()
    def take(self, counter: QuotaCounter, *, least: int, most: int, limit: int) -> QuotaState:
        query = _by(counter)
        least, most, limit = (checked_number(each, "an amount of a quota") for each in (least, most, limit))
        # Each failed attempt means that another process has taken or created something.
        for _ in range(_MAX_ATTEMPTS):
            fits = {**query, "balance": {"$lte": limit - most}}
            taken = self._counters.find_one_and_update(
                fits, {"$inc": {"balance": Int64(most)}}, return_document=ReturnDocument.AFTER
            )
            if taken is not None:
                return _state(taken)._replace(granted=most)
            full = self._counters.find_one(query)
            if full is None:
                self._create(counter)
                continue
            state = _state(full)
            room = limit + state.added - state.used
            if room < least:
                return state
            most = min(most, room)
        raise StorageError("others change the counter of a quota all the time, and nothing was taken")

    @override
    @storage_errors()
    def give_back(self, counter: QuotaCounter, amount: int, *, generation: int) -> None:
        query = {**_by(counter), "generation": checked_number(generation, "generation")}
        self._counters.update_one(query, {"$inc": {"balance": Int64(-amount)}})

    @override
    @storage_errors()
    def get(self, counter: QuotaCounter) -> QuotaState:
        found = self._counters.find_one(_by(counter))
        # A period in which nothing was counted yet has its additions nevertheless.
        return QuotaState(added=self._of_every_period(counter)) if found is None else _state(found)

    @override
    @storage_errors()
    def reset(self, counter: QuotaCounter) -> None:
        unused = {"$multiply": ["$added", -1]}
        change = {"$set": {"balance": unused, "generation": {"$add": ["$generation", 1]}}}
        self._counters.update_one(_by(counter), [change])

    @override
    @storage_errors()
    def add(self, counter: QuotaCounter, amount: int, *, every_period: bool) -> None:
        # First of all, so that a new document does not have the addition already.
        self._create(counter)
        change = {"$inc": {"balance": Int64(-amount), "added": Int64(amount)}}
        if every_period:
            new = {"subject": checked_text(counter.subject, "subject"), "generation": 0}
            query = _by(counter, _EVERY_PERIOD)
            self._counters.update_one(query, {**change, "$setOnInsert": new}, upsert=True)
        self._counters.update_one(_by(counter), change)

    @override
    @storage_errors()
    @unlimited
    def prune(self, *, before: datetime) -> int:
        return self._counters.delete_many({"ends_at": {"$lte": to_microseconds(before)}}).deleted_count

    def _create(self, counter: QuotaCounter) -> None:
        """Create a counter unless it exists."""
        added = self._of_every_period(counter)
        document = {
            **_by(counter),
            "subject": counter.subject,
            "ends_at": None if counter.ends_at is None else Int64(to_microseconds(counter.ends_at)),
            "balance": Int64(-added),
            "added": Int64(added),
            "generation": 0,
        }
        try:
            self._counters.insert_one(document)
        except DuplicateKeyError:
            # Another process has inserted it.
            return

    def _of_every_period(self, counter: QuotaCounter) -> int:
        found = self._counters.find_one(_by(counter, _EVERY_PERIOD))
        return 0 if found is None else _state(found).added


def _by(counter: QuotaCounter, start: int | None = None) -> Query:
    start = to_microseconds(counter.starts_at) if start is None else start
    return {"_id": f"{checked_text(counter.subject, 'subject')} {start}"}


def _state(document: Mapping[str, Any]) -> QuotaState:
    balance, added, generation = (
        int(checked_number(document[name], name)) for name in ("balance", "added", "generation")
    )
    return QuotaState(balance + added, added, generation)

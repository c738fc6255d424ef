"""Request counts in collections, added with ``$inc``.

A standalone server has no transactions. Each document therefore stores the number of
each writer's last batch, so that a repeated batch changes only the documents it has
not reached yet. A fold changes each document in one operation: a request is counted in
its hour or in its day, never in both.
"""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from itertools import filterfalse, islice
from typing import Any

import bson
from bson import Int64
from pymongo import ASCENDING, DeleteOne, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError
from typing_extensions import override

from flask_apikey.core.model.usage import (
    DAY,
    PREVIOUS_SECRET,
    LastUse,
    UsageBatch,
    UsageField,
    UsageFilter,
    UsageLabel,
    UsageOutcome,
    UsageRow,
    stored_count,
)
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.usage.labels import storable
from flask_apikey.core.usage.last_use import FoldedLastUses, folded_last_uses
from flask_apikey_mongodb.clients import unlimited
from flask_apikey_mongodb.collections import Collections, Documents
from flask_apikey_mongodb.errors import storage_errors
from flask_apikey_mongodb.queries import Query, checked_number, checked_text
from flask_apikey_mongodb.usage_documents import (
    counter,
    first_id,
    from_last_use,
    last_use_fields,
    last_use_id,
    marker,
    readable_last_uses,
    rows_in_order,
    usage_fields,
    usage_id,
)

Change = tuple[Query, dict[str, Any]]

_DUPLICATE_KEY = 11000
_MAX_IDS = 200
_PAGE = 1_000
_FOLDED_AT_ONCE = 500

_HOUR_COUNTS = {"$objectToArray": {"$ifNull": ["$hours", {}]}}
_FIRST_HOUR = {"$multiply": ["$day", DAY]}
_ROWS = {
    "$concatArrays": [
        {"$cond": [{"$gt": ["$count", 0]}, [{"hour": _FIRST_HOUR, "count": "$count"}], []]},
        {
            "$map": {
                "input": _HOUR_COUNTS,
                "in": {"hour": {"$add": [_FIRST_HOUR, {"$toInt": "$$this.k"}]}, "count": "$$this.v"},
            }
        },
    ]
}
"""A server expression for the rows of a document."""

_FOLDED = {"$add": [{"$ifNull": ["$count", 0]}, {"$sum": {"$map": {"input": _HOUR_COUNTS, "in": "$$this.v"}}}]}


class MongoDBUsage(UsageStore):
    """Request counts in collections."""

    def __init__(self, opened: PerProcess[Collections]) -> None:
        self._opened = opened

    @property
    def _counts(self) -> Documents:
        return self._opened.get().usage

    @property
    def _last_uses(self) -> Documents:
        return self._opened.get().last_uses

    @override
    @storage_errors()
    def add(self, batch: UsageBatch) -> None:
        mark, number = marker(batch.writer), Int64(checked_number(batch.number, "the number of a batch"))
        try:
            _write(self._counts, _additions(batch.rows, mark, number))
        except PyMongoError:
            raise
        except Exception:  # noqa: BLE001  # BSON raises errors of its own and of Python
            # The markers keep documents that are changed already from being changed twice.
            _write(self._counts, _additions(_encodable(batch.rows), mark, number))
        self._store_uses(batch.last_uses)

    @override
    @storage_errors()
    def totals(self, by: Sequence[UsageField], usage_filter: UsageFilter) -> Mapping[tuple[str | int, ...], int]:
        names = [field.value for field in by]
        label = {name: "$row.hour" if name == UsageField.HOUR.value else f"${name}" for name in names}
        hours = _hours(usage_filter)
        totals: dict[tuple[str | int, ...], int] = {}
        for query in _matching(usage_filter):
            stages: list[Query] = [
                {"$match": query},
                {"$project": {"row": _ROWS, **dict.fromkeys(names, 1)}},
                {"$unwind": "$row"},
                {"$match": {"row.hour": hours} if hours else {}},
                {"$group": {"_id": label, "count": {"$sum": "$row.count"}}},
            ]
            with closing(self._counts.aggregate(stages)) as groups:
                for group in groups:
                    values = tuple(group["_id"][name] for name in names)
                    totals[values] = totals.get(values, 0) + stored_count(group["count"])
        return totals

    @override
    @storage_errors()
    def endpoints(self, key_id: str, *, limit: int) -> AbstractSet[str]:
        stages: list[Query] = [
            {"$match": {"key_id": checked_text(key_id, "id")}},
            {"$group": {"_id": "$endpoint"}},
            {"$limit": checked_number(limit, "limit")},
        ]
        with closing(self._counts.aggregate(stages)) as groups:
            return {group["_id"] for group in groups}

    @override
    @storage_errors()
    def last_uses(self, key_ids: Sequence[str]) -> list[LastUse]:
        found: list[LastUse] = []
        for some in _chunks(key_ids):
            found += map(from_last_use, self._last_uses.find({"key_id": {"$in": some}}))
        return found

    @override
    @storage_errors()
    @unlimited
    def fold(self, *, before: int) -> int:
        query = {"day": {"$lt": checked_number(before, "before") // DAY}, "hours": {"$exists": True}}
        folded = self._number_of(query, {"$size": _HOUR_COUNTS})
        # No batches for these days arrive any more, so their numbers are removed too.
        self._counts.update_many(query, [{"$set": {"count": _FOLDED}}, {"$unset": ["hours", "batches"]}])
        return folded

    @override
    @storage_errors()
    @unlimited
    def prune(self, *, before: int) -> int:
        day, hour = divmod(checked_number(before, "before"), DAY)
        whole: Query = {"day": {"$lt": day}}
        removed = self._number_of(whole, {"$size": _ROWS})
        self._counts.delete_many(whole)
        for ended in (f"hours.{each}" for each in range(hour)):
            removed += self._counts.update_many(
                {"day": day, ended: {"$exists": True}}, {"$unset": {ended: ""}}
            ).modified_count
        self._counts.delete_many({"day": day, "hours": {}, "count": {"$exists": False}})
        return removed

    @override
    @storage_errors()
    @unlimited
    def fold_last_uses(self) -> None:
        for folded in self._superseded():
            self._store_uses(list(folded.merged.values()))
            # A use stored since has a later moment, and stays.
            same = [{"_id": last_use_id(use), "at": last_use_fields(use)["at"]} for use in folded.removed]
            self._last_uses.bulk_write([DeleteOne(query) for query in same], ordered=False)

    @override
    @storage_errors()
    def rows(self, *, after: UsageLabel | None, limit: int) -> list[UsageRow]:
        query = {} if after is None else {"_id": {"$gte": first_id(after)}}
        with closing(self._in_order(query, limit)) as rows:
            return list(islice((row for row in rows if after is None or row.label > after), limit))

    @override
    def all_rows(self) -> Iterator[UsageRow]:
        """Iterate over all rows with one cursor."""
        with storage_errors():
            yield from self._in_order({}, _PAGE)

    @override
    @storage_errors()
    def put(self, rows: Sequence[UsageRow], last_uses: Sequence[LastUse]) -> None:
        changes: list[Change] = []
        for row in rows:
            change = {"$set": {counter(row.label): _count(row)}, "$setOnInsert": usage_fields(row.label)}
            changes.append(({"_id": usage_id(row.label)}, change))
        _write(self._counts, changes)
        self._store_uses(last_uses)

    def _store_uses(self, last_uses: Sequence[LastUse]) -> None:
        changes: list[Change] = []
        for use in last_uses:
            fields = last_use_fields(use)
            # An earlier use changes neither time nor address.
            changes.append(({"_id": last_use_id(use), "at": {"$not": {"$gte": fields["at"]}}}, {"$set": fields}))
        _write(self._last_uses, changes)

    def _superseded(self) -> Iterator[FoldedLastUses]:
        with closing(self._last_uses.find({}, sort=[("_id", ASCENDING)], batch_size=_PAGE)) as documents:
            readable = readable_last_uses(documents)
            while page := list(islice(readable, _FOLDED_AT_ONCE)):
                # Read after the uses, so that a new key is not taken for a removed one.
                folded = folded_last_uses(page, self._present(page))
                if folded.removed:
                    yield folded

    def _present(self, uses: Sequence[LastUse]) -> dict[str, int]:
        query = {"_id": {"$in": list({use.key_id for use in uses})}, "pruned_at": None}
        with closing(self._opened.get().keys.find(query, {"created_at": 1, "rolled_at": 1})) as documents:
            return {each["_id"]: each.get("rolled_at") or each.get("created_at", PREVIOUS_SECRET) for each in documents}

    def _in_order(self, query: Query, page: int) -> Generator[UsageRow, None, None]:
        found = self._counts.find(query, {"batches": 0}, sort=[("_id", ASCENDING)], batch_size=page)
        with closing(found) as documents:
            yield from rows_in_order(documents)

    def _number_of(self, query: Query, size: dict[str, Any]) -> int:
        stages = [{"$match": query}, {"$group": {"_id": None, "rows": {"$sum": size}}}]
        with closing(self._counts.aggregate(stages)) as groups:
            return sum(int(group["rows"]) for group in groups)


def _write(collection: Documents, changes: Sequence[Change]) -> None:
    """Upsert documents.

    An upsert fails with a duplicate key if its document exists but does not match, or
    if another process has just created it. The second round, without upsert, changes
    the latter and matches nothing for the former.
    """
    if not changes:
        return
    try:
        collection.bulk_write([UpdateOne(*change, upsert=True) for change in changes], ordered=False)
    except BulkWriteError as exc:
        errors = exc.details["writeErrors"]
        if exc.details["writeConcernErrors"] or any(error["code"] != _DUPLICATE_KEY for error in errors):
            raise
        collection.bulk_write([UpdateOne(*changes[error["index"]]) for error in errors], ordered=False)


def _additions(rows: Iterable[UsageRow], mark: str, number: Int64) -> list[Change]:
    changes: list[Change] = []
    rows_by_id: defaultdict[str, list[UsageRow]] = defaultdict(list)
    for row in rows:
        rows_by_id[usage_id(row.label)].append(row)
    for document_id, of_document in rows_by_id.items():
        added: dict[str, int] = {}
        for row in of_document:
            name = counter(row.label)
            added[name] = Int64(added.get(name, 0) + _count(row))
        change = {"$inc": added, "$set": {mark: number}, "$setOnInsert": usage_fields(of_document[0].label)}
        changes.append(({"_id": document_id, mark: {"$not": {"$gte": number}}}, change))
    return changes


def _encodable(rows: Sequence[UsageRow]) -> Sequence[UsageRow]:
    """Give rows that BSON cannot encode a label that it can."""
    found = [row for row in rows if _is_encodable(row)]
    refused = [row for row in rows if not _is_encodable(row)]
    relabelled = storable(refused, keeps_owner=True)
    found += filter(_is_encodable, relabelled)
    return [*found, *storable(filterfalse(_is_encodable, relabelled), keeps_owner=False)]


def _is_encodable(row: UsageRow) -> bool:
    try:
        bson.encode(usage_fields(row.label))
    except Exception:  # noqa: BLE001  # BSON raises errors of its own and of Python
        return False
    return True


def _matching(usage_filter: UsageFilter) -> Iterator[Query]:
    if usage_filter.outcome is UsageOutcome.ACCEPTED:
        query: Query = {"reason": ""}
    else:
        passed = usage_filter.outcome is UsageOutcome.WOULD_REFUSE
        query = {"reason": {"$ne": ""}, "status": {"$ne": ""} if passed else ""}
    days = {name: hour // DAY for name, hour in _hours(usage_filter).items()}
    if days:
        # The last day may end after the period.
        query["day"] = {"$lte" if name == "$lt" else name: day for name, day in days.items()}
    if usage_filter.owner is not None:
        query["owner"] = checked_text(usage_filter.owner, "owner")
    if usage_filter.key_ids is None:
        yield query
    else:
        for some in _chunks(usage_filter.key_ids):
            yield {"key_id": {"$in": some}, **query}


def _hours(usage_filter: UsageFilter) -> dict[str, int]:
    hours: dict[str, int] = {}
    if usage_filter.since is not None:
        hours["$gte"] = checked_number(usage_filter.since, "since")
    if usage_filter.until is not None:
        hours["$lt"] = checked_number(usage_filter.until, "until")
    return hours


def _chunks(key_ids: Iterable[str]) -> Iterator[list[str]]:
    """Split distinct ids into chunks that fit into a command."""
    distinct = iter(dict.fromkeys(checked_text(key_id, "id") for key_id in key_ids))
    while some := list(islice(distinct, _MAX_IDS)):
        yield some


def _count(row: UsageRow) -> Int64:
    return Int64(checked_number(row.count, "a count"))

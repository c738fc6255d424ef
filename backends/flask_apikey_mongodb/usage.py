"""Counts of requests, added in the database.

A standalone server has no transactions, so each document remembers which batches
it contains. A batch that stopped half-way is sent again, and what it has reached
already stays as it is. A fold changes one document in one operation, so that a
request is in its hour or in its day, and never in both.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from itertools import groupby, islice
from typing import Any

from bson import Int64
from pymongo import ASCENDING, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from flask_apikey.core.model.usage import DAY, LastUse, UsageBatch, UsageField, UsageFilter, UsageLabel, UsageRow
from flask_apikey_mongodb.checks import checked_number, checked_text
from flask_apikey_mongodb.last_uses import remove, superseded
from flask_apikey_mongodb.queries import Query
from flask_apikey_mongodb.usage_documents import (
    counter,
    first_id,
    from_last_use,
    last_use_fields,
    last_use_id,
    marker,
    rows_in_order,
    usage_fields,
    usage_id,
)

Documents = Collection[dict[str, Any]]
Change = tuple[Query, dict[str, Any]]

_DUPLICATE_KEY = 11000
_MOST_IDS = 200
_PAGE = 1_000

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
"""The rows of a document, as an expression of the server."""

_FOLDED = {"$add": [{"$ifNull": ["$count", 0]}, {"$sum": {"$map": {"input": _HOUR_COUNTS, "in": "$$this.v"}}}]}


class Usage:
    """The counts in one database.

    Args:
        counts: The collection of counts.
        last_uses: The collection of last uses.
        keys: The collection of keys.

    Every method raises what PyMongo raises.
    """

    def __init__(self, counts: Documents, last_uses: Documents, keys: Documents) -> None:
        self._counts = counts
        self._last_uses = last_uses
        self._keys = keys

    def add(self, batch: UsageBatch) -> None:
        """See `KeepsUsage.add_usage`."""
        mark, number = marker(batch.writer), Int64(checked_number(batch.number, "the number of a batch"))
        changes = []
        for document_id, rows in _by_document(batch.rows):
            change = {
                "$inc": {counter(row.label): _count(row) for row in rows},
                "$set": {mark: number},
                "$setOnInsert": usage_fields(rows[0].label),
            }
            changes.append(({"_id": document_id, mark: {"$not": {"$gte": number}}}, change))
        _write(self._counts, changes)
        self._note(batch.last_uses)

    def totals(self, by: Sequence[UsageField], usage_filter: UsageFilter) -> Mapping[tuple[str | int, ...], int]:
        """See `KeepsUsage.usage_totals`."""
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
                    totals[values] = totals.get(values, 0) + int(group["count"])
        return totals

    def endpoints(self, key_id: str, limit: int) -> AbstractSet[str]:
        """See `KeepsUsage.usage_endpoints`."""
        stages: list[Query] = [
            {"$match": {"key_id": checked_text(key_id, "id")}},
            {"$group": {"_id": "$endpoint"}},
            {"$limit": checked_number(limit, "limit")},
        ]
        with closing(self._counts.aggregate(stages)) as groups:
            return {group["_id"] for group in groups}

    def last_uses(self, key_ids: Sequence[str]) -> list[LastUse]:
        """See `KeepsUsage.last_uses`."""
        found: list[LastUse] = []
        for some in _in_parts(key_ids):
            found += map(from_last_use, self._last_uses.find({"key_id": {"$in": some}}))
        return found

    def fold(self, before: int) -> int:
        """See `KeepsUsage.fold_usage`."""
        query = {"day": {"$lt": checked_number(before, "before") // DAY}, "hours": {"$exists": True}}
        folded = self._number_of(query, {"$size": _HOUR_COUNTS})
        # No writer sends a batch of these days any more, so the marks go as well.
        self._counts.update_many(query, [{"$set": {"count": _FOLDED}}, {"$unset": ["hours", "batches"]}])
        return folded

    def prune(self, before: int) -> int:
        """See `KeepsUsage.prune_usage`."""
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

    def fold_last_uses(self) -> None:
        """See `KeepsUsage.fold_last_uses`."""
        for folding in superseded(self._last_uses, self._keys):
            self._note(list(folding.noted.values()))
            remove(self._last_uses, folding.removed)

    def page(self, after: UsageLabel | None, limit: int) -> list[UsageRow]:
        """See `KeepsUsage.usage_rows`."""
        query = {} if after is None else {"_id": {"$gte": first_id(after)}}
        with closing(self._in_order(query, limit)) as rows:
            return list(islice((row for row in rows if after is None or row.label > after), limit))

    def all(self) -> Iterator[UsageRow]:
        """See `KeepsUsage.all_usage_rows`."""
        return self._in_order({}, _PAGE)

    def merge(self, rows: Sequence[UsageRow], last_uses: Sequence[LastUse]) -> int:
        """See `KeepsUsage.merge_usage`."""
        changes: list[Change] = []
        for row in rows:
            field, count = counter(row.label), _count(row)
            query = {"_id": usage_id(row.label), field: {"$not": {"$gte": count}}}
            changes.append((query, {"$max": {field: count}, "$setOnInsert": usage_fields(row.label)}))
        merged = _write(self._counts, changes)
        self._note(last_uses)
        return merged

    def _note(self, last_uses: Sequence[LastUse]) -> None:
        changes: list[Change] = []
        for use in last_uses:
            fields = last_use_fields(use)
            # The address goes with its moment: one that is not later changes nothing.
            changes.append(({"_id": last_use_id(use), "at": {"$not": {"$gte": fields["at"]}}}, {"$set": fields}))
        _write(self._last_uses, changes)

    def _in_order(self, query: Query, page: int) -> Generator[UsageRow, None, None]:
        found = self._counts.find(query, {"batches": 0}, sort=[("_id", ASCENDING)], batch_size=page)
        with closing(found) as documents:
            yield from rows_in_order(documents)

    def _number_of(self, query: Query, size: dict[str, Any]) -> int:
        stages = [{"$match": query}, {"$group": {"_id": None, "rows": {"$sum": size}}}]
        with closing(self._counts.aggregate(stages)) as groups:
            return sum(int(group["rows"]) for group in groups)


def _write(collection: Documents, changes: Sequence[Change]) -> int:
    """Make changes of documents, and make those documents that are missing. Gives how many changes were made.

    A change whose document is there and does not match finds the id taken, and so
    does one that came second to a document which another process has just made. The
    latter is made in the second round, where the former matches nothing again.
    """
    if not changes:
        return 0
    made, taken = _write_each(collection, [UpdateOne(*change, upsert=True) for change in changes])
    if taken:
        made += _write_each(collection, [UpdateOne(*changes[index]) for index in taken])[0]
    return made


def _write_each(collection: Documents, updates: Sequence[UpdateOne]) -> tuple[int, list[int]]:
    try:
        result = collection.bulk_write(updates, ordered=False).bulk_api_result
    except BulkWriteError as exc:
        result = dict(exc.details)
        if result["writeConcernErrors"] or any(error["code"] != _DUPLICATE_KEY for error in result["writeErrors"]):
            raise
    made: int = result["nUpserted"] + result["nModified"]
    return made, [error["index"] for error in result["writeErrors"]]


def _by_document(rows: Iterable[UsageRow]) -> Iterator[tuple[str, list[UsageRow]]]:
    in_order = sorted(((usage_id(row.label), row) for row in rows), key=lambda pair: pair[0])
    for document_id, pairs in groupby(in_order, key=lambda pair: pair[0]):
        yield document_id, [row for _, row in pairs]


def _matching(usage_filter: UsageFilter) -> Iterator[Query]:
    query: Query = {"reason": {"$ne": ""} if usage_filter.refused else ""}
    days = {name: hour // DAY for name, hour in _hours(usage_filter).items()}
    if days:
        # A day that ends behind the period begins in it.
        query["day"] = {"$lte" if name == "$lt" else name: day for name, day in days.items()}
    if usage_filter.key_ids is None:
        yield query
    else:
        for some in _in_parts(usage_filter.key_ids):
            yield {"key_id": {"$in": some}, **query}


def _hours(usage_filter: UsageFilter) -> dict[str, int]:
    hours: dict[str, int] = {}
    if usage_filter.since is not None:
        hours["$gte"] = checked_number(usage_filter.since, "since")
    if usage_filter.until is not None:
        hours["$lt"] = checked_number(usage_filter.until, "until")
    return hours


def _in_parts(key_ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids, each once, as many at a time as fit into a command."""
    distinct = iter(dict.fromkeys(checked_text(key_id, "id") for key_id in key_ids))
    while some := list(islice(distinct, _MOST_IDS)):
        yield some


def _count(row: UsageRow) -> Int64:
    return Int64(checked_number(row.count, "a count"))

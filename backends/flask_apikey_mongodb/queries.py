"""Queries on the collection of keys. All values are checked, so that none can be an operator."""

import re
from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.keys import Cursor
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.storage.search import name_pattern
from flask_apikey.core.times import to_microseconds

Query = dict[str, Any]

OLDEST_FIRST = [("created_at", ASCENDING), ("_id", ASCENDING)]
NEWEST_FIRST = [("created_at", DESCENDING), ("_id", DESCENDING)]
BY_ID = [("_id", ASCENDING)]


def checked_text(value: object, name: str) -> str:
    """Return `value` if it is a str."""
    if not isinstance(value, str):
        raise InvalidValue(f"{name} must be a str, not {type(value).__name__}")
    return value


def checked_number(value: object, name: str) -> int:
    """Return `value` if it is an int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValue(f"{name} must be an int, not {type(value).__name__}")
    return value


def by_id(key_id: str) -> Query:
    """Match the key with this id."""
    return {"_id": checked_text(key_id, "id")}


def by_ids(key_ids: Sequence[str]) -> Query:
    """Match the keys with these ids."""
    return {"_id": {"$in": [checked_text(key_id, "id") for key_id in key_ids]}}


def as_it_was(key_id: str, version: int, seal: str) -> Query:
    """Match the document with this id, this version and this seal."""
    return {**by_id(key_id), "version": checked_number(version, "version"), "seal": checked_text(seal, "seal")}


def matching(key_filter: KeyFilter, after: Cursor | None = None, *, newest_first: bool = False) -> Query:
    """Match the keys that pass a filter and come after a position."""
    conditions = [*_conditions(key_filter), *_behind(after, newest_first=newest_first)]
    return {"$and": conditions} if conditions else {}


def _conditions(key_filter: KeyFilter) -> list[Query]:
    conditions: list[Query] = []
    if key_filter.owner is not None:
        conditions.append({"owner": checked_text(key_filter.owner, "owner")})
    if key_filter.revoked is not None:
        conditions.append({"revoked_at": {"$ne": None} if key_filter.revoked else None})
    if key_filter.suspended is not None:
        conditions.append({"suspended_at": {"$ne": None} if key_filter.suspended else None})
    if key_filter.adopted is not None:
        conditions.append({"adopted": {"$ne": None} if key_filter.adopted else None})
    conditions += _conditions_on_ends(key_filter)
    if key_filter.created_before is not None:
        conditions.append({"created_at": {"$lt": to_microseconds(key_filter.created_before)}})
    if key_filter.not_sealed_by is not None:
        conditions.append({"sealed_by": {"$ne": checked_text(key_filter.not_sealed_by, "not_sealed_by")}})
    if key_filter.pruned is not None:
        conditions.append({"pruned_at": {"$ne": None} if key_filter.pruned else None})
    if key_filter.ids is not None:
        conditions.append(by_ids(list(key_filter.ids)))
    if key_filter.search is not None:
        text = checked_text(key_filter.search, "search")
        beginning = {"$regex": f"^{re.escape(text)}"}
        name = {"$regex": name_pattern(text)}
        conditions.append({"$or": [{"_id": beginning}, {"owner": beginning}, {"scopes": beginning}, {"name": name}]})
    return conditions


def _conditions_on_ends(key_filter: KeyFilter) -> list[Query]:
    conditions: list[Query] = []
    if key_filter.expires_after is not None:
        later: Query = {"expires_at": {"$gt": to_microseconds(key_filter.expires_after)}}
        # Without $or, which would hide the range from the index.
        conditions.append(later if key_filter.expires_by is not None else {"$or": [{"expires_at": None}, later]})
    if key_filter.expires_by is not None:
        conditions.append({"expires_at": {"$lte": to_microseconds(key_filter.expires_by)}})
    if key_filter.ended_by is not None:
        moment = to_microseconds(key_filter.ended_by)
        conditions.append({"$or": [{"revoked_at": {"$lte": moment}}, {"expires_at": {"$lte": moment}}]})
    return conditions


def _behind(cursor: Cursor | None, *, newest_first: bool) -> list[Query]:
    if cursor is None:
        return []
    beyond = "$lt" if newest_first else "$gt"
    further_id = {"_id": {beyond: checked_text(cursor.id, "id")}}
    created_at = to_microseconds(cursor.created_at)
    # The second condition implies the first one, which lets the server use an index.
    return [
        {"created_at": {f"{beyond}e": created_at}},
        {"$or": [{"created_at": {beyond: created_at}}, {"created_at": created_at, **further_id}]},
    ]

"""Last uses that are kept one by one, although the secrets of their keys have been replaced."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from pymongo import ASCENDING, DeleteOne
from pymongo.collection import Collection

from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse
from flask_apikey.core.usage.last_use import Folding, folding_of
from flask_apikey_mongodb.queries import NOT_DELETED
from flask_apikey_mongodb.usage_documents import last_use_fields, last_use_id, readable_last_uses

Documents = Collection[dict[str, Any]]

_PAGE = 500


def superseded(uses: Documents, keys: Documents) -> Iterator[Folding]:
    """What is to be folded, some at a time."""
    with closing(uses.find({}, sort=[("_id", ASCENDING)], batch_size=_PAGE)) as documents:
        readable = readable_last_uses(documents)
        while page := list(islice(readable, _PAGE)):
            # Read after their uses, so that no new key is taken for one that was removed.
            folding = folding_of(page, _present(keys, page))
            if folding.removed:
                yield folding


def remove(uses: Documents, removed: Sequence[LastUse]) -> None:
    """Remove last uses, unless a later one was noted meanwhile."""
    same = [{"_id": last_use_id(use), "at": last_use_fields(use)["at"]} for use in removed]
    uses.bulk_write([DeleteOne(query) for query in same], ordered=False)


def _present(keys: Documents, uses: Sequence[LastUse]) -> dict[str, int]:
    query = {"_id": {"$in": list({use.key_id for use in uses})}, **NOT_DELETED}
    with closing(keys.find(query, {"created_at": 1, "rolled_at": 1})) as documents:
        return {each["_id"]: each.get("rolled_at") or each.get("created_at", PREVIOUS_SECRET) for each in documents}

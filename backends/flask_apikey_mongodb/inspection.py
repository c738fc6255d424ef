"""What the database has of our indexes."""

from collections.abc import Iterable, Iterator
from typing import Any

from pymongo import IndexModel
from pymongo.collection import Collection


def missing_indexes(collection: Collection[dict[str, Any]], wanted: Iterable[IndexModel]) -> Iterator[str]:
    """Indexes that are defined and not there."""
    present = [list(index["key"]) for index in collection.index_information().values()]
    for index in wanted:
        if list(index.document["key"].items()) not in present:
            yield f"index {index.document['name']} of {collection.name}"

"""A storage whose tables are still to be made holds nothing."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from flask_apikey.core.errors import StorageError
from flask_apikey.core.storage.contract import Inspectable

T = TypeVar("T")


def stored_in(storage: object, read: Callable[[], Iterable[T]]) -> Iterator[T]:
    """What is read from a storage, and nothing where it has no tables yet.

    Raises:
        StorageError: Reading failed for another reason.
    """
    try:
        yield from read()
    except StorageError:
        if not _lacks_tables(storage):
            raise


def _lacks_tables(storage: object) -> bool:
    return isinstance(storage, Inspectable) and any(part.startswith("table ") for part in storage.missing_parts())

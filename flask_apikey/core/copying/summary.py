"""Contents of storages, summarized and compared."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask_apikey.core.errors import ConfigurationError, StorageError
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend

T = TypeVar("T")


@dataclass(slots=True)
class StorageSummary:
    """Keys of a storage.

    Attributes:
        keys: Number of keys.
        digest: SHA-256 over all records and seals in order, in hexadecimal.
        fingerprints: Fingerprints of the Fernet keys that sealed the keys.
    """

    keys: int = 0
    digest: str = ""
    fingerprints: set[str] = field(default_factory=set)


def summarize(backend: Backend) -> StorageSummary:
    """Read every key. A storage without tables is empty."""
    summary = StorageSummary()
    digest = hashlib.sha256()
    for key in stored_in(backend, backend.all_keys):
        summary.keys += 1
        summary.fingerprints.add(key.seal.fingerprint)
        content = [key.record.to_dict(), key.seal.fingerprint, key.seal.token]
        digest.update(json.dumps(content, sort_keys=True).encode())
    summary.digest = digest.hexdigest()
    return summary


def refuse_unreadable(summary: StorageSummary, ring: FernetKeyring) -> None:
    """Raise unless the configured Fernet keys can unseal every key.

    Raises:
        ConfigurationError: A Fernet key is missing; the message names its fingerprint.
    """
    unknown = summary.fingerprints - ring.fingerprints
    if unknown:
        raise ConfigurationError(
            "some keys are sealed under Fernet keys that are not configured here "
            f"(fingerprints {', '.join(sorted(unknown))}): add them to APIKEY_FERNET_KEY_FALLBACKS first"
        )


def stored_in(backend: Backend, read: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yield the items that `read` returns, or none if the storage has no tables yet.

    Raises:
        StorageError: Reading failed for another reason.
    """
    try:
        yield from read()
    except StorageError:
        if not any(part.startswith("table ") for part in backend.missing_parts()):
            raise


def side_by_side(
    ours: Iterable[T], theirs: Iterable[T], position: Callable[[T], tuple[Any, ...]]
) -> Iterator[tuple[T | None, T | None]]:
    """Pair the items of two sorted iterables that have the same position.

    Args:
        ours: Items of the source, sorted by position.
        theirs: Items of the target, sorted by position.
        position: Returns the sort key of an item.

    Yields:
        Pairs in order, with None for an item that one side lacks.
    """
    others = iter(theirs)
    other = next(others, None)
    for item in ours:
        while other is not None and position(other) < position(item):
            yield None, other
            other = next(others, None)
        if other is not None and position(other) == position(item):
            yield item, other
            other = next(others, None)
        else:
            yield item, None
    while other is not None:
        yield None, other
        other = next(others, None)

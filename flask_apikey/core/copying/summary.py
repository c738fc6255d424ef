"""Contents of storages, summarized and compared."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

from flask_apikey.core.errors import ConfigurationError, StorageError
from flask_apikey.core.model.keys import DamagedKey, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, is_fingerprint
from flask_apikey.core.storage.contract import Backend, KeyFilter

T = TypeVar("T")


EVERYTHING = KeyFilter(pruned=None)
"""Keys, tombstones and the row of the storage itself."""

_MAX_FINGERPRINTS = 100


@dataclass(slots=True)
class StorageSummary:
    """Content of a storage.

    Attributes:
        rows: Number of keys and tombstones.
        keys: Number of keys.
        digest: SHA-256 over the seals of all rows, which cover all other fields.
        fingerprints: Fingerprints of the Fernet keys that sealed them.
    """

    rows: int = 0
    keys: int = 0
    digest: str = ""
    fingerprints: set[str] = field(default_factory=set)


def summarize(backend: Backend) -> StorageSummary:
    """Read every row that is not damaged. A storage without tables is empty."""
    summary = StorageSummary()
    digest = hashlib.sha256()
    for row in stored_in(backend, lambda: backend.scan(EVERYTHING)):
        if isinstance(row, DamagedKey):
            continue
        summary.rows += 1
        summary.keys += row.record.pruned_at is None
        if is_fingerprint(row.seal.fingerprint) and len(summary.fingerprints) < _MAX_FINGERPRINTS:
            summary.fingerprints.add(row.seal.fingerprint)
        digest.update(f"{row.record.id!r} {row.record.version} {row.seal.fingerprint!r} {row.seal.token!r}\n".encode())
    summary.digest = digest.hexdigest()
    return summary


def refuse_unreadable(summary: StorageSummary, ring: FernetKeyring) -> None:
    """Raise a ConfigurationError that names missing Fernet keys, unless every row can be unsealed."""
    unknown = summary.fingerprints - ring.fingerprints
    if unknown:
        raise ConfigurationError(
            "some keys are sealed under Fernet keys that are not configured here "
            f"(fingerprints {', '.join(sorted(unknown))}): add them to APIKEY_FERNET_KEY_FALLBACKS first"
        )


def stored_in(backend: Backend, read: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yield the items that `read` returns, or none if the storage has no tables yet."""
    try:
        yield from read()
    except StorageError:
        if not any(part.startswith("table ") for part in backend.missing_parts()):
            raise


def row_id(row: StoredKey | DamagedKey | None) -> str:
    """Return the id of a row, damaged or not."""
    if row is None:
        return ""
    return row.record.id if isinstance(row, StoredKey) else row.id


def side_by_side(
    ours: Iterable[T], theirs: Iterable[T], position: Callable[[T], tuple[Any, ...]]
) -> Iterator[tuple[T | None, T | None]]:
    """Pair the items of two iterables, both sorted by position. None stands for an item that one side lacks."""
    source = ((position(item), "source", item) for item in ours)
    target = ((position(item), "target", item) for item in theirs)
    for _, group in groupby(merge(source, target, key=itemgetter(0)), key=itemgetter(0)):
        items = {side: item for _, side, item in group}
        yield items.get("source"), items.get("target")

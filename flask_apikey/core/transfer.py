"""Keys move from one storage to another.

Both storages list their keys in the same order, so they are read side by side:
what is missing or older at the target is found without a look-up for each key,
in constant memory, and a copy that was interrupted goes on where it stopped.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, Conflict
from flask_apikey.core.records import Cursor, StoredKey
from flask_apikey.core.sealing import FernetRing
from flask_apikey.core.storage import Backend, KeyFilter

_PAGE = 500

Progress = Callable[[int], object]


@dataclass(slots=True)
class CopyReport:
    """What a copy did, or would do.

    Attributes:
        added: Keys that were missing at the target.
        updated: Keys that were older there.
        unchanged: Keys that were the same there.
        kept: Keys that were newer there, or changed there meanwhile, and were left alone.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    kept: int = 0


@dataclass(slots=True)
class Inventory:
    """What a storage holds.

    Attributes:
        keys: How many keys.
        digest: SHA-256 over all records and seals in order, in hexadecimal.
        fingerprints: Of the Fernet keys that sealed them.
    """

    keys: int = 0
    digest: str = ""
    fingerprints: set[str] = field(default_factory=set)


def all_keys(backend: Backend) -> Iterator[StoredKey]:
    """Every key, oldest first, a page at a time."""
    after = None
    while page := backend.find(KeyFilter(), after=after, limit=_PAGE):
        yield from page
        after = Cursor(page[-1].record.created_at, page[-1].record.id)


def take_inventory(backend: Backend, progress: Progress | None = None) -> Inventory:
    """Read every key and say what is there."""
    inventory = Inventory()
    digest = hashlib.sha256()
    for key in all_keys(backend):
        inventory.keys += 1
        inventory.fingerprints.add(key.seal.fingerprint)
        content = [key.record.to_dict(), key.seal.fingerprint, key.seal.token]
        digest.update(json.dumps(content, sort_keys=True).encode())
        if progress is not None:
            progress(1)
    inventory.digest = digest.hexdigest()
    return inventory


def refuse_unreadable(inventory: Inventory, ring: FernetRing, where: str) -> None:
    """Raise unless the configured Fernet keys open everything that is there.

    Raises:
        ConfigurationError: They do not; the message names the fingerprints.
    """
    unknown = inventory.fingerprints - ring.fingerprints
    if unknown:
        raise ConfigurationError(
            f"{where} holds keys that are sealed under Fernet keys which are not configured here "
            f"(fingerprints {', '.join(sorted(unknown))}): add them to APIKEY_FERNET_KEY_FALLBACKS first"
        )


def copy_keys(
    source: Backend, target: Backend, *, dry_run: bool = False, progress: Progress | None = None
) -> CopyReport:
    """Bring every key of `source` to `target`, unless what is there is as new.

    Args:
        source: Where from; it is only read.
        target: Where to; its storage must be initialised.
        dry_run: Write nothing, only count.
        progress: Called with the number of keys that were dealt with.

    Returns:
        What was done. Repeating it is harmless.
    """
    report = CopyReport()
    missing: list[StoredKey] = []
    for ours, theirs in _side_by_side(source, target):
        if theirs is None:
            missing.append(ours)
            if len(missing) == _PAGE:
                report.added += _add(target, missing, dry_run=dry_run)
                missing = []
        elif theirs == ours:
            report.unchanged += 1
        elif _is_newer(ours, theirs) and (dry_run or _replace(target, ours, theirs)):
            report.updated += 1
        else:
            report.kept += 1
        if progress is not None:
            progress(1)
    added_last = _add(target, missing, dry_run=dry_run)
    return replace(report, added=report.added + added_last)


def _side_by_side(source: Backend, target: Backend) -> Iterator[tuple[StoredKey, StoredKey | None]]:
    others = all_keys(target)
    other = next(others, None)
    for key in all_keys(source):
        position = _position(key)
        while other is not None and _position(other) < position:
            other = next(others, None)
        yield key, other if other is not None and _position(other) == position else None


def _position(key: StoredKey) -> tuple[object, str]:
    return key.record.created_at, key.record.id


def _is_newer(ours: StoredKey, theirs: StoredKey) -> bool:
    return (ours.record.version, ours.record.updated_at) > (theirs.record.version, theirs.record.updated_at)


def _add(target: Backend, keys: list[StoredKey], *, dry_run: bool) -> int:
    if dry_run or not keys:
        return len(keys)
    try:
        target.add_many(keys)
    except AlreadyExists:
        return sum(_add_one(target, key) for key in keys)
    return len(keys)


def _add_one(target: Backend, key: StoredKey) -> bool:
    try:
        target.add(key)
    except AlreadyExists:
        return False
    return True


def _replace(target: Backend, ours: StoredKey, theirs: StoredKey) -> bool:
    try:
        target.update(ours, expected_version=theirs.record.version)
    except Conflict:
        return False
    return True

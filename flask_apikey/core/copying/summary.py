"""What a storage holds, to be compared with another."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from flask_apikey.core.copying.unprepared import stored_in
from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend


@dataclass(slots=True)
class StorageSummary:
    """What a storage holds.

    Attributes:
        keys: How many keys.
        digest: SHA-256 over all records and seals in order, in hexadecimal.
        fingerprints: Of the Fernet keys that sealed them.
    """

    keys: int = 0
    digest: str = ""
    fingerprints: set[str] = field(default_factory=set)


def summarize(backend: Backend, progress: Callable[[int], object] | None = None) -> StorageSummary:
    """Read every key and say what is there; nothing is where the tables are still to be made."""
    inventory = StorageSummary()
    digest = hashlib.sha256()
    for key in stored_in(backend, backend.all_keys):
        inventory.keys += 1
        inventory.fingerprints.add(key.seal.fingerprint)
        content = [key.record.to_dict(), key.seal.fingerprint, key.seal.token]
        digest.update(json.dumps(content, sort_keys=True).encode())
        if progress is not None:
            progress(1)
    inventory.digest = digest.hexdigest()
    return inventory


def refuse_unreadable(inventory: StorageSummary, ring: FernetKeyring) -> None:
    """Raise unless the configured Fernet keys open everything that is there.

    Raises:
        ConfigurationError: They do not; the message names the fingerprints.
    """
    unknown = inventory.fingerprints - ring.fingerprints
    if unknown:
        raise ConfigurationError(
            "there are keys that are sealed under Fernet keys which are not configured here "
            f"(fingerprints {', '.join(sorted(unknown))}): add them to APIKEY_FERNET_KEY_FALLBACKS first"
        )

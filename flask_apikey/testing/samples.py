"""Sample keys, sealed under a Fernet key that is the same in every process, and their events."""

import base64
import os
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from flask_apikey.core.model.history import CREATED, GENESIS, UPDATED, LifecycleEvent
from flask_apikey.core.model.keys import APIKey, StoredKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealed_rows import sealed_row, secrets_of
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets

NOW = datetime(2026, 3, 29, 0, 59, 59, 999_999, tzinfo=timezone.utc)
RING = FernetKeyring(base64.urlsafe_b64encode(bytes(range(32))))


def stored_key(**values: Any) -> StoredKey:
    """Create a key with these values, and defaults for all others."""
    record = APIKey(
        **{"id": new_id(), "prefix": "fak", "name": "a key", "created_at": NOW, "updated_at": NOW, **values}
    )
    return sealed_row(record, "", SealedSecrets((os.urandom(32),)), RING)


def changed(key: StoredKey, **values: Any) -> StoredKey:
    """Return the next version of a key with these values, sealed again."""
    record = replace(key.record, version=key.record.version + 1, **values)
    return sealed_row(record, key.history_hash, secrets_of(key, RING), RING)


def recorded(key: StoredKey, **values: Any) -> tuple[StoredKey, LifecycleEvent]:
    """Return a key with the hash of its event, and the event, which follows the one of the version before."""
    record = key.record
    content = {
        "key_id": record.id,
        "number": record.version,
        "at": NOW,
        "event": CREATED if record.version == 1 else UPDATED,
        "owner": record.owner,
        "previous": key.history_hash or GENESIS,
        **values,
    }
    event = LifecycleEvent(**content)
    return sealed_row(record, event.hash, secrets_of(key, RING), RING), event


def sealed_under(fingerprint: str, key: StoredKey) -> StoredKey:
    """Return the key with another fingerprint in its seal."""
    return replace(key, seal=replace(key.seal, fingerprint=fingerprint))

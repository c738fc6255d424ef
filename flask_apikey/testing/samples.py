"""Sample keys."""

import os
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from flask_apikey.core.model.keys import APIKey, StoredKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealed_rows import sealed_row
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, generate_fernet_key

NOW = datetime(2026, 3, 29, 0, 59, 59, 999_999, tzinfo=timezone.utc)
_RING = FernetKeyring(generate_fernet_key())


def stored_key(**values: Any) -> StoredKey:
    """Create a key with these values, and defaults for all others."""
    record = APIKey(
        **{"id": new_id(), "prefix": "fak", "name": "a key", "created_at": NOW, "updated_at": NOW, **values}
    )
    return sealed_row(record, "", SealedSecrets((os.urandom(32),)), _RING)


def changed(key: StoredKey, **values: Any) -> StoredKey:
    """Return the next version of a key, with these values."""
    return replace(key, record=replace(key.record, version=key.record.version + 1, **values))


def sealed_under(fingerprint: str, key: StoredKey) -> StoredKey:
    """Return the key with another fingerprint in its seal."""
    return replace(key, seal=replace(key.seal, fingerprint=fingerprint))

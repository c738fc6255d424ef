"""Seals over whole rows: no field can be changed without the Fernet key, and no seal moved to another row.

A seal names a digest for each field that differs from its default. So a version of this
library that adds a field with a default still accepts the rows of earlier versions.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from json.encoder import encode_basestring_ascii

from flask_apikey.core.errors import RowTampered, SealUnreadable
from flask_apikey.core.model.keys import APIKey, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, SealContent, SealedSecrets
from flask_apikey.core.times import to_microseconds

_DIGEST_LENGTH = 16
_DEFAULTS = {each.name: ... if each.default is MISSING else each.default for each in fields(APIKey)}


def sealed_row(
    record: APIKey,
    history_hash: str,
    secrets: SealedSecrets,
    keyring: FernetKeyring,
    fingerprint: str | None = None,
) -> StoredKey:
    """Seal a row under the Fernet key of a fingerprint, by default the primary one."""
    content = SealContent(secrets, _field_digests(record, history_hash))
    return StoredKey(record, keyring.seal(content, fingerprint), history_hash)


def secrets_of(stored: StoredKey, keyring: FernetKeyring) -> SealedSecrets:
    """Return the secrets of a row whose seal fits.

    Raises:
        SealUnreadable: The Fernet key is not configured, or the seal is damaged.
        RowTampered: The row was changed without its seal, or has the seal of another row.
    """
    try:
        content = keyring.unseal(stored.seal)
    except SealUnreadable as exc:
        raise SealUnreadable(f"key {stored.record.id}: {exc}") from None
    changed = changed_fields(stored, content)
    if changed:
        raise RowTampered(stored.record.id, changed)
    return content.secrets


def changed_fields(stored: StoredKey, content: SealContent) -> tuple[str, ...]:
    """List the fields of a row that differ from what its seal names."""
    present = _field_digests(stored.record, stored.history_hash)
    if present == content.fields:
        return ()
    return tuple(name for name in sorted({*present, *content.fields}) if present.get(name) != content.fields.get(name))


def resealed_row(stored: StoredKey, keyring: FernetKeyring) -> StoredKey:
    """Seal a row under the primary Fernet key, if another key of the ring has sealed it.

    Raises:
        SealUnreadable: The Fernet key is not configured, or the seal is damaged.
        RowTampered: The seal does not fit the row.
    """
    secrets = secrets_of(stored, keyring)
    if stored.seal.fingerprint == keyring.fingerprint:
        return stored
    return sealed_row(stored.record, stored.history_hash, secrets, keyring)


def _field_digests(record: APIKey, history_hash: str) -> Mapping[str, str]:
    values = {name: value for name in _DEFAULTS if (value := getattr(record, name)) != _DEFAULTS[name]}
    digests = {name: _digest(name, value) for name, value in values.items()}
    if history_hash:
        digests["history_hash"] = _digest("history_hash", history_hash)
    return digests


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return to_microseconds(value)
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"a field of a row is a {type(value).__name__}")


# json.dumps() would make an encoder for each field.
_encode = json.JSONEncoder(default=_json_value, separators=(",", ":")).encode


def _digest(name: str, value: object) -> str:
    # JSON of a text is what the encoder would make of it, in a fraction of the time.
    encoded = encode_basestring_ascii(value) if type(value) is str else _encode(value)
    # 128 bits: only a second preimage would help, and the digests are encrypted.
    digest = hashlib.sha256(f'["{name}",{encoded}]'.encode()).digest()[:_DIGEST_LENGTH]
    return base64.b64encode(digest).decode("ascii").rstrip("=")

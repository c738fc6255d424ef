"""Conversion between documents and records.

Times are 64-bit microseconds since 1970-01-01 UTC, because BSON times only have
milliseconds. Metadata stays JSON text, because BSON cannot represent all of JSON.

Documents may be edited by hand. A damaged document is rejected as a whole. The error
shows no value.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from bson import Int64

from flask_apikey.core.addresses import parse_network
from flask_apikey.core.errors import RowDamaged
from flask_apikey.core.model.keys import APIKey, DamagedKey, StoredKey
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.quotas import parse_quota
from flask_apikey.core.model.rates import parse_rates
from flask_apikey.core.model.sealing import Seal
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_mongodb.collections import PENDING

Document = Mapping[str, Any]

MAX_CACHED = 4096

logger = logging.getLogger("flask_apikey")


_TEXT = {str}
_NUMBER = {int, Int64}
_LIST = {list}
_NONE = {type(None)}
_MISSING = {type(...)}
_TYPES: dict[str, set[Any]] = {
    "_id": _TEXT,
    "prefix": _TEXT,
    "name": _TEXT,
    "owner": _TEXT | _NONE,
    "scopes": _LIST,
    "allowed_ips": _LIST,
    "denied_ips": _LIST,
    "plan": _TEXT | _NONE,
    "rate": _TEXT | _NONE,
    "quota": _TEXT | _NONE,
    "metadata": _TEXT,
    "created_at": _NUMBER,
    "updated_at": _NUMBER,
    "expires_at": _NUMBER | _NONE,
    "rolled_at": _NUMBER | _NONE,
    "previous_secrets_expire_at": _LIST,
    "suspended_at": _NUMBER | _NONE,
    "suspension_reason": _TEXT | _NONE,
    "revoked_at": _NUMBER | _NONE,
    "revocation_reason": _TEXT | _NONE,
    "pruned_at": _NUMBER | _NONE,
    "adopted": _TEXT | _NONE,
    "version": _NUMBER,
    "history_hash": _TEXT,
    "sealed_by": _TEXT,
    "seal": _TEXT,
    PENDING: _LIST | _MISSING,
}


def to_document(key: StoredKey) -> dict[str, Any]:
    """Convert a key to a document."""
    record = key.record
    return {
        "_id": record.id,
        "prefix": record.prefix,
        "name": record.name,
        "owner": record.owner,
        "scopes": sorted(record.scopes),
        "allowed_ips": list(record.allowed_ips),
        "denied_ips": list(record.denied_ips),
        "plan": record.plan,
        "rate": record.rate,
        "quota": record.quota,
        "metadata": record.metadata_json,
        "created_at": _int64(record.created_at),
        "updated_at": _int64(record.updated_at),
        "expires_at": _nullable_int64(record.expires_at),
        "rolled_at": _nullable_int64(record.rolled_at),
        "previous_secrets_expire_at": [_int64(end) for end in record.previous_secrets_expire_at],
        "suspended_at": _nullable_int64(record.suspended_at),
        "suspension_reason": record.suspension_reason,
        "revoked_at": _nullable_int64(record.revoked_at),
        "revocation_reason": record.revocation_reason,
        "pruned_at": _nullable_int64(record.pruned_at),
        "adopted": record.adopted,
        "version": record.version,
        "history_hash": key.history_hash,
        "sealed_by": key.seal.fingerprint,
        "seal": key.seal.token,
    }


def from_document(document: Document) -> StoredKey:
    """Convert a document to a key.

    Raises:
        RowDamaged: A field is missing or invalid.
    """
    for field, types in _TYPES.items():
        if type(document.get(field, ...)) not in types:
            raise _damaged(document, f"{field} is missing or has another type")
    try:
        return _parsed(document)
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        raise _damaged(document, "a value is invalid") from None


def _parsed(document: Document) -> StoredKey:
    if not is_id(document["_id"]):
        raise ValueError("not the id of a key")
    if not all(isinstance(scope, str) for scope in document["scopes"]):
        raise TypeError("not text")
    if document["metadata"] != "{}" and not isinstance(json.loads(document["metadata"]), dict):
        raise TypeError("not a JSON object")
    record = APIKey(
        id=document["_id"],
        prefix=document["prefix"],
        name=document["name"],
        owner=document["owner"],
        scopes=frozenset(document["scopes"]),
        allowed_ips=_networks(tuple(document["allowed_ips"])),
        denied_ips=_networks(tuple(document["denied_ips"])),
        plan=document["plan"],
        rate=_rate(document["rate"]),
        quota=_quota(document["quota"]),
        metadata_json=document["metadata"],
        created_at=from_microseconds(document["created_at"]),
        updated_at=from_microseconds(document["updated_at"]),
        expires_at=_nullable_moment(document["expires_at"]),
        rolled_at=_nullable_moment(document["rolled_at"]),
        previous_secrets_expire_at=tuple(map(from_microseconds, document["previous_secrets_expire_at"])),
        suspended_at=_nullable_moment(document["suspended_at"]),
        suspension_reason=document["suspension_reason"],
        revoked_at=_nullable_moment(document["revoked_at"]),
        revocation_reason=document["revocation_reason"],
        pruned_at=_nullable_moment(document["pruned_at"]),
        adopted=document["adopted"],
        version=int(document["version"]),
    )
    return StoredKey(record, Seal(document["seal"], document["sealed_by"]), document["history_hash"])


def _damaged(document: Document, reason: str) -> RowDamaged:
    return RowDamaged(f"the stored document of key {document['_id']!r:.60} is damaged: {reason}")


def readable(documents: Iterable[Document]) -> Iterator[StoredKey]:
    """Convert documents. Damaged documents are logged and left out."""
    for document in documents:
        key = from_any_document(document)
        if isinstance(key, StoredKey):
            yield key
        else:
            logger.warning("left out of a listing: %s", key.problem)


def from_any_document(document: Document) -> StoredKey | DamagedKey:
    """Convert a document, which may be damaged."""
    try:
        return from_document(document)
    except RowDamaged as exc:
        return DamagedKey(str(document["_id"]), str(exc))


class LookupReader:
    """Converts documents, with a cache for unchanged ones.

    Each request still fetches the document. Only the conversion is cached.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[Document, StoredKey]] = {}

    def __call__(self, document: Document) -> StoredKey:
        """Convert a document whose ``_id`` is a str."""
        cached = self._cache.get(document["_id"])
        if cached is not None and cached[0] == document:
            return cached[1]
        key = from_document(document)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[key.record.id] = (document, key)
        return key


@lru_cache(maxsize=1024)
def _networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        parse_network(text)
    return texts


def _rate(text: str | None) -> str | None:
    if text is not None:
        parse_rates(text)
    return text


def _quota(text: str | None) -> str | None:
    if text is not None:
        parse_quota(text)
    return text


def _nullable_moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)


def _int64(moment: datetime) -> Int64:
    return Int64(to_microseconds(moment))


def _nullable_int64(moment: datetime | None) -> Int64 | None:
    return None if moment is None else _int64(moment)

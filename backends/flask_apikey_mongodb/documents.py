"""Conversion between documents and records.

Times are 64-bit microseconds since 1970-01-01 UTC, because BSON times only have
milliseconds. Metadata stays JSON text, because BSON cannot represent all of JSON.

Documents may be edited by hand. A damaged document is rejected as a whole. The error
names the field, not its value.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from bson import Int64

from flask_apikey.core.addresses import parse_network
from flask_apikey.core.model.keys import APIKey, StoredKey
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.sealing import Seal
from flask_apikey.core.times import from_microseconds, to_microseconds

Document = Mapping[str, Any]

MAX_CACHED = 4096

logger = logging.getLogger("flask_apikey")


class DamagedDocument(ValueError):
    """A document that does not hold a valid key."""


def to_document(key: StoredKey) -> dict[str, Any]:
    """Convert a key to a document."""
    return {**to_record_fields(key.record), "sealed_by": key.seal.fingerprint, "seal": key.seal.token}


def to_record_fields(record: APIKey) -> dict[str, Any]:
    """Convert a key to the fields of a document without its seal."""
    return {
        "_id": record.id,
        "prefix": record.prefix,
        "name": record.name,
        "owner": record.owner,
        "scopes": sorted(record.scopes),
        "allowed_ips": list(record.allowed_ips),
        "denied_ips": list(record.denied_ips),
        "metadata": record.metadata_json,
        "created_at": _int64(record.created_at),
        "updated_at": _int64(record.updated_at),
        "expires_at": _nullable_int64(record.expires_at),
        "rolled_at": _nullable_int64(record.rolled_at),
        "previous_secrets_expire_at": [_int64(end) for end in record.previous_secrets_expire_at],
        "revoked_at": _nullable_int64(record.revoked_at),
        "revocation_reason": record.revocation_reason,
        "version": record.version,
    }


def from_document(document: Document) -> StoredKey:
    """Convert a document to a key.

    Raises:
        DamagedDocument: A field is missing or invalid.
    """
    try:
        record = APIKey(
            id=_id(document["_id"]),
            prefix=_text(document, "prefix"),
            name=_text(document, "name"),
            owner=_nullable_text(document, "owner"),
            scopes=frozenset(_texts(document, "scopes")),
            allowed_ips=_networks(document, "allowed_ips"),
            denied_ips=_networks(document, "denied_ips"),
            metadata_json=_json_object(document, "metadata"),
            created_at=_moment(document, "created_at"),
            updated_at=_moment(document, "updated_at"),
            expires_at=_nullable_moment(document, "expires_at"),
            rolled_at=_nullable_moment(document, "rolled_at"),
            previous_secrets_expire_at=tuple(
                _as_moment(end, "previous_secrets_expire_at") for end in _list(document, "previous_secrets_expire_at")
            ),
            revoked_at=_nullable_moment(document, "revoked_at"),
            revocation_reason=_nullable_text(document, "revocation_reason"),
            version=_version(document, "version"),
        )
        return StoredKey(record, Seal(_text(document, "seal"), _text(document, "sealed_by")))
    except KeyError as exc:
        reason = f"{exc.args[0]} is missing"
    except _InvalidField as exc:
        reason = str(exc)
    raise DamagedDocument(f"the stored document of key {_shown(document['_id'])} is damaged: {reason}")


def readable(documents: Iterable[Document]) -> Iterator[StoredKey]:
    """Convert documents. Damaged documents are logged and left out."""
    for document in documents:
        try:
            key = from_document(document)
        except DamagedDocument as exc:
            logger.warning("left out of a listing: %s", exc)
        else:
            yield key


class LookupReader:
    """Converts documents, with a cache for unchanged ones.

    Each request still fetches the document. Only the conversion is cached.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[Document, StoredKey]] = {}

    def __call__(self, document: Document) -> StoredKey:
        """Convert a document whose ``_id`` is a str.

        Raises:
            DamagedDocument: A field is missing or invalid.
        """
        cached = self._cache.get(document["_id"])
        if cached is not None and cached[0] == document:
            return cached[1]
        key = from_document(document)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[key.record.id] = (document, key)
        return key


class _InvalidField(Exception):
    """An invalid field of a document."""


def _id(value: object) -> str:
    if not isinstance(value, str) or not is_id(value):
        raise _InvalidField("_id is not the id of a key")
    return value


def _text(document: Document, field: str) -> str:
    value = document[field]
    if not isinstance(value, str):
        raise _InvalidField(f"{field} is not text")
    return value


def _nullable_text(document: Document, field: str) -> str | None:
    return None if document[field] is None else _text(document, field)


def _list(document: Document, field: str) -> list[Any]:
    value = document[field]
    if not isinstance(value, list):
        raise _InvalidField(f"{field} is not a list")
    return value


def _texts(document: Document, field: str) -> list[str]:
    values = _list(document, field)
    for value in values:
        if not isinstance(value, str):
            raise _InvalidField(f"{field} is not a list of texts")
    return values


def _networks(document: Document, field: str) -> tuple[str, ...]:
    networks = tuple(_texts(document, field))
    if networks and not _are_networks(networks):
        raise _InvalidField(f"{field} is not a list of networks")
    return networks


@lru_cache(maxsize=1024)
def _are_networks(texts: tuple[str, ...]) -> bool:
    try:
        for text in texts:
            parse_network(text)
    except ValueError:
        return False
    return True


def _json_object(document: Document, field: str) -> str:
    text = _text(document, field)
    if text != "{}" and not _is_json_object(text):
        raise _InvalidField(f"{field} is not a JSON object")
    return text


@lru_cache(maxsize=1024)
def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _as_int(value: object, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _InvalidField(f"{field} is not a whole number")
    return int(value)


def _version(document: Document, field: str) -> int:
    return _as_int(document[field], field)


def _as_moment(value: object, field: str) -> datetime:
    try:
        return from_microseconds(_as_int(value, field))
    except OverflowError:
        raise _InvalidField(f"{field} is not a moment in microseconds") from None


def _moment(document: Document, field: str) -> datetime:
    return _as_moment(document[field], field)


def _nullable_moment(document: Document, field: str) -> datetime | None:
    value = document[field]
    return None if value is None else _as_moment(value, field)


def _int64(moment: datetime) -> Int64:
    return Int64(to_microseconds(moment))


def _nullable_int64(moment: datetime | None) -> Int64 | None:
    return None if moment is None else _int64(moment)


def _shown(key_id: object) -> str:
    return key_id if isinstance(key_id, str) and is_id(key_id) else repr(key_id)[:60]

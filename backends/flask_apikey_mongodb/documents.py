"""How documents and records become each other.

Times are microseconds since 1970-01-01 UTC as 64-bit integers, since BSON's own
have milliseconds only. The application's JSON stays text, since BSON cannot hold
all that JSON can.

People edit documents by hand. One that makes no sense any more is refused here,
by the name of the field and without its contents, and never half understood.
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

MAX_REMEMBERED = 4096

logger = logging.getLogger("flask_apikey")


class DamagedDocument(ValueError):
    """A document is not that of a key."""


def to_document(key: StoredKey) -> dict[str, Any]:
    """The document of a key."""
    return {**to_record_fields(key.record), "sealed_by": key.seal.fingerprint, "seal": key.seal.token}


def to_record_fields(record: APIKey) -> dict[str, Any]:
    """The document of a key without the fields of its seal."""
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
    """The key of a document.

    Raises:
        DamagedDocument: Something is missing, or is not what it must be.
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
    except _Nonsense as exc:
        reason = str(exc)
    raise DamagedDocument(f"the stored document of key {_shown(document['_id'])} is damaged: {reason}")


def readable(documents: Iterable[Document]) -> Iterator[StoredKey]:
    """The keys of those documents that can be read; the others are reported."""
    for document in documents:
        try:
            key = from_document(document)
        except DamagedDocument as exc:
            logger.warning("left out of a listing: %s", exc)
        else:
            yield key


class LookupReader:
    """Reads one document at a time, and remembers what an unchanged one means.

    The document itself is fetched anew for every request.
    """

    def __init__(self) -> None:
        self._remembered: dict[str, tuple[Document, StoredKey]] = {}

    def __call__(self, document: Document) -> StoredKey:
        """The key of a document whose ``_id`` is a str.

        Raises:
            DamagedDocument: Something is missing, or is not what it must be.
        """
        remembered = self._remembered.get(document["_id"])
        if remembered is not None and remembered[0] == document:
            return remembered[1]
        key = from_document(document)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[key.record.id] = (document, key)
        return key


class _Nonsense(Exception):
    """What is wrong with a field."""


def _id(value: object) -> str:
    if not isinstance(value, str) or not is_id(value):
        raise _Nonsense("_id is not the id of a key")
    return value


def _text(document: Document, field: str) -> str:
    value = document[field]
    if not isinstance(value, str):
        raise _Nonsense(f"{field} is not text")
    return value


def _nullable_text(document: Document, field: str) -> str | None:
    return None if document[field] is None else _text(document, field)


def _list(document: Document, field: str) -> list[Any]:
    value = document[field]
    if not isinstance(value, list):
        raise _Nonsense(f"{field} is not a list")
    return value


def _texts(document: Document, field: str) -> list[str]:
    values = _list(document, field)
    for value in values:
        if not isinstance(value, str):
            raise _Nonsense(f"{field} is not a list of texts")
    return values


def _networks(document: Document, field: str) -> tuple[str, ...]:
    networks = tuple(_texts(document, field))
    if networks and not _are_networks(networks):
        raise _Nonsense(f"{field} is not a list of networks")
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
        raise _Nonsense(f"{field} is not a JSON object")
    return text


@lru_cache(maxsize=1024)
def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _as_int(value: object, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Nonsense(f"{field} is not a whole number")
    return int(value)


def _version(document: Document, field: str) -> int:
    return _as_int(document[field], field)


def _as_moment(value: object, field: str) -> datetime:
    try:
        return from_microseconds(_as_int(value, field))
    except OverflowError:
        raise _Nonsense(f"{field} is not a moment in microseconds") from None


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

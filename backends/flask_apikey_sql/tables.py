"""The table of keys, and the conversion between rows and records.

Times are microseconds since 1970-01-01 UTC. Everything else is text or a number, so
that a row reads the same through any driver.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Row, String, Table, Text, text
from sqlalchemy.sql.schema import SchemaConst

from flask_apikey.core.addresses import parse_network
from flask_apikey.core.errors import RowDamaged
from flask_apikey.core.model.adopted_form import MAX_FORM_LENGTH
from flask_apikey.core.model.keys import APIKey, DamagedKey, StoredKey
from flask_apikey.core.model.keystring import ID_LENGTH, MAX_PREFIX_LENGTH, is_id
from flask_apikey.core.model.quotas import MAX_QUOTA_LENGTH, parse_quota
from flask_apikey.core.model.rates import MAX_RATE_LENGTH, parse_rates
from flask_apikey.core.model.sealing import Seal
from flask_apikey.core.model.validation import MAX_NAME_LENGTH, MAX_OWNER_LENGTH, MAX_PLAN_LENGTH, MAX_REASON_LENGTH
from flask_apikey.core.times import from_microseconds, to_microseconds

logger = logging.getLogger("flask_apikey")

KEYS_TABLE = "flask_apikey_keys"
HASH_LENGTH = 64

Schema: TypeAlias = str | Literal[SchemaConst.BLANK_SCHEMA] | None
"""The schema of a table. None means that of its metadata, and ``BLANK_SCHEMA`` that of the connection."""

NOT_PRUNED = 0
"""The stored ``pruned_at`` of a key that is no tombstone."""

TABLE_OPTIONS: dict[str, Any] = {
    "keep_existing": True,
    **{
        f"{dialect}_{option}": value
        for dialect in ("mysql", "mariadb")
        for option, value in (
            ("charset", "utf8mb4"),
            ("collate", "utf8mb4_bin"),
            ("engine", "InnoDB"),
            ("row_format", "DYNAMIC"),
        )
    },
}


def text_in_order(length: int) -> String:
    """Return a text type that sorts by code point in any database locale."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def keys_table(metadata: MetaData, schema: Schema = None) -> Table:
    """Return the table of keys in `metadata`, defined if missing. The default is the schema of `metadata`."""
    return Table(
        KEYS_TABLE,
        metadata,
        Column("id", text_in_order(ID_LENGTH), primary_key=True),
        Column("prefix", String(MAX_PREFIX_LENGTH), nullable=False),
        Column("name", String(MAX_NAME_LENGTH), nullable=False),
        Column("owner", String(MAX_OWNER_LENGTH)),
        Column("scopes", Text, nullable=False),
        Column("allowed_ips", Text, nullable=False),
        Column("denied_ips", Text, nullable=False),
        Column("plan", String(MAX_PLAN_LENGTH)),
        Column("rate", String(MAX_RATE_LENGTH)),
        Column("quota", String(MAX_QUOTA_LENGTH)),
        Column("metadata", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
        Column("rolled_at", BigInteger),
        Column("previous_secrets_expire_at", Text, nullable=False),
        Column("suspended_at", BigInteger),
        Column("suspension_reason", String(MAX_REASON_LENGTH)),
        Column("revoked_at", BigInteger),
        Column("revocation_reason", String(MAX_REASON_LENGTH)),
        # Not NULL for a key: PostgreSQL uses no index for ORDER BY behind a column that IS NULL.
        Column("pruned_at", BigInteger, nullable=False),
        Column("adopted", String(MAX_FORM_LENGTH)),
        Column("version", Integer, nullable=False),
        Column("history_hash", String(HASH_LENGTH), nullable=False),
        Column("sealed_by", String(64), nullable=False),
        Column("seal", Text, nullable=False),
        # Not sealed, as the database sets it. Empty until the first change, so that creations cost no index.
        Column("changed_at", BigInteger),
        Index("ix_flask_apikey_keys_created_at", "pruned_at", "created_at", "id"),
        # With `pruned_at`, because SQLite prefers the other index to one with fewer conditions.
        Index("ix_flask_apikey_keys_owner", "owner", "pruned_at", "created_at", "id"),
        # In the order of a listing, as revoked keys pile up.
        _index_of("revoked_at", "revoked", "created_at", "id"),
        _index_of("revoked_at", "revoked_at", "revoked_at"),
        _index_of("suspended_at", "suspended_at", "suspended_at"),
        _index_of("expires_at", "expires_at", "expires_at"),
        _index_of("adopted", "adopted", "created_at", "id"),
        _index_of("changed_at", "changed_at", "changed_at", "id"),
        schema=schema,
        **TABLE_OPTIONS,
    )


def _index_of(condition: str, name: str, *columns: str) -> Index:
    """Return an index of the rows that have a value in a column, where the database has partial indexes."""
    has_value = text(f"{condition} IS NOT NULL")
    return Index(f"ix_flask_apikey_keys_{name}", *columns, postgresql_where=has_value, sqlite_where=has_value)


def to_row(key: StoredKey) -> dict[str, Any]:
    """Convert a key to column values."""
    record = key.record
    return {
        "id": record.id,
        "prefix": record.prefix,
        "name": record.name,
        "owner": record.owner,
        "scopes": " ".join(sorted(record.scopes)),
        "allowed_ips": " ".join(record.allowed_ips),
        "denied_ips": " ".join(record.denied_ips),
        "plan": record.plan,
        "rate": record.rate,
        "quota": record.quota,
        "metadata": record.metadata_json,
        "created_at": to_microseconds(record.created_at),
        "updated_at": to_microseconds(record.updated_at),
        "expires_at": _nullable_microseconds(record.expires_at),
        "rolled_at": _nullable_microseconds(record.rolled_at),
        "previous_secrets_expire_at": " ".join(str(to_microseconds(end)) for end in record.previous_secrets_expire_at),
        "suspended_at": _nullable_microseconds(record.suspended_at),
        "suspension_reason": record.suspension_reason,
        "revoked_at": _nullable_microseconds(record.revoked_at),
        "revocation_reason": record.revocation_reason,
        "pruned_at": _nullable_microseconds(record.pruned_at) or NOT_PRUNED,
        "adopted": record.adopted,
        "version": record.version,
        "history_hash": key.history_hash,
        "sealed_by": key.seal.fingerprint,
        "seal": key.seal.token,
    }


@lru_cache(maxsize=4096)
def from_row(row: tuple[Any, ...]) -> StoredKey:
    """Convert a row with the columns in the order of the table. Only the conversion is cached.

    Raises:
        RowDamaged: The row does not hold valid values.
    """
    try:
        return _parsed(row)
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError):
        raise RowDamaged(f"the stored row of key {row[0]!r:.60} is damaged") from None


def _parsed(row: tuple[Any, ...]) -> StoredKey:
    (
        key_id,
        prefix,
        name,
        owner,
        scopes,
        allowed_ips,
        denied_ips,
        plan,
        rate,
        quota,
        metadata,
        created_at,
        updated_at,
        expires_at,
        rolled_at,
        previous_secrets_expire_at,
        suspended_at,
        suspension_reason,
        revoked_at,
        revocation_reason,
        pruned_at,
        adopted,
        version,
        history_hash,
        sealed_by,
        seal,
        _changed_at,
    ) = row
    if not is_id(key_id):
        raise ValueError("not the id of a key")
    # SQLite does not enforce column types.
    reasons = (suspension_reason or "", revocation_reason or "")
    texts = (
        prefix,
        name,
        owner or "",
        plan or "",
        rate or "",
        quota or "",
        adopted or "",
        *reasons,
        history_hash,
        sealed_by,
        seal,
    )
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not text")
    if not isinstance(version, int):
        raise TypeError("not a whole number")
    if metadata != "{}" and not isinstance(json.loads(metadata), dict):
        raise TypeError("not a JSON object")
    record = APIKey(
        id=key_id,
        prefix=prefix,
        name=name,
        owner=owner,
        scopes=frozenset(scopes.split()),
        allowed_ips=_networks(allowed_ips),
        denied_ips=_networks(denied_ips),
        plan=plan,
        rate=_rate(rate),
        quota=_quota(quota),
        metadata_json=metadata,
        created_at=from_microseconds(created_at),
        updated_at=from_microseconds(updated_at),
        expires_at=None if expires_at is None else from_microseconds(expires_at),
        rolled_at=None if rolled_at is None else from_microseconds(rolled_at),
        previous_secrets_expire_at=tuple(from_microseconds(int(end)) for end in previous_secrets_expire_at.split())
        if previous_secrets_expire_at
        else (),
        suspended_at=None if suspended_at is None else from_microseconds(suspended_at),
        suspension_reason=suspension_reason,
        revoked_at=None if revoked_at is None else from_microseconds(revoked_at),
        revocation_reason=revocation_reason,
        pruned_at=None if pruned_at == NOT_PRUNED else from_microseconds(pruned_at),
        adopted=adopted,
        version=version,
    )
    return StoredKey(record, Seal(seal, sealed_by), history_hash)


def readable(rows: Iterable[Row[Any]]) -> Iterator[StoredKey]:
    """Convert rows. Damaged rows are logged and left out."""
    for row in rows:
        key = from_any_row(row)
        if isinstance(key, StoredKey):
            yield key
        else:
            logger.warning("left out of a listing: %s", key.problem)


def from_any_row(row: Row[Any]) -> StoredKey | DamagedKey:
    """Convert a row, which may be damaged."""
    try:
        return from_row(tuple(row))
    except RowDamaged as exc:
        return DamagedKey(str(row[0]), str(exc))


def _networks(text: str) -> tuple[str, ...]:
    networks = tuple(text.split())
    for network in networks:
        parse_network(network)
    return networks


def _rate(text: str | None) -> str | None:
    if text is not None:
        parse_rates(text)
    return text


def _quota(text: str | None) -> str | None:
    if text is not None:
        parse_quota(text)
    return text


def _nullable_microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else to_microseconds(moment)

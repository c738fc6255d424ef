"""The tables of usage, and the conversion between rows and records."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Row, SmallInteger, String, Table

from flask_apikey.core.model.keystring import ID_LENGTH
from flask_apikey.core.model.usage import (
    MAX_ADDRESS_LENGTH,
    MAX_ENDPOINT_LENGTH,
    MAX_METHOD_LENGTH,
    MAX_REFUSAL_LENGTH,
    MAX_STATUS_LENGTH,
    MAX_WRITER_LENGTH,
    LastUse,
    UsageLabel,
    UsageRow,
    stored_last_use,
)
from flask_apikey.core.model.validation import MAX_OWNER_LENGTH
from flask_apikey.core.times import to_microseconds
from flask_apikey_sql.tables import TABLE_OPTIONS, Schema, text_in_order

USAGE_TABLE = "flask_apikey_usage"
LAST_USES_TABLE = "flask_apikey_last_uses"
WRITERS_TABLE = "flask_apikey_usage_writers"


class UsageTables(NamedTuple):
    """The counts by label, the last use of each secret, and the last batch of each writer."""

    usage: Table
    last_uses: Table
    writers: Table


def usage_tables(metadata: MetaData, schema: Schema = None) -> UsageTables:
    """Return the tables of usage in `metadata`, defined if missing."""
    usage = Table(
        USAGE_TABLE,
        metadata,
        Column("key_id", text_in_order(ID_LENGTH), primary_key=True),
        Column("hour", Integer, primary_key=True, autoincrement=False),
        Column("endpoint", text_in_order(MAX_ENDPOINT_LENGTH), primary_key=True),
        Column("method", text_in_order(MAX_METHOD_LENGTH), primary_key=True),
        Column("status", text_in_order(MAX_STATUS_LENGTH), primary_key=True),
        Column("reason", text_in_order(MAX_REFUSAL_LENGTH), primary_key=True),
        Column("owner", text_in_order(MAX_OWNER_LENGTH), primary_key=True),
        Column("span", SmallInteger, primary_key=True, autoincrement=False),
        Column("count", BigInteger, nullable=False),
        Index("ix_flask_apikey_usage_span", "span", "hour"),
        Index("ix_flask_apikey_usage_owner", "owner", "hour"),
        schema=schema,
        **TABLE_OPTIONS,
    )
    last_uses = Table(
        LAST_USES_TABLE,
        metadata,
        Column("key_id", text_in_order(ID_LENGTH), primary_key=True),
        Column("secret", BigInteger, primary_key=True, autoincrement=False),
        Column("at", BigInteger, nullable=False),
        Column("address", String(MAX_ADDRESS_LENGTH)),
        schema=schema,
        **TABLE_OPTIONS,
    )
    writers = Table(
        WRITERS_TABLE,
        metadata,
        Column("writer", text_in_order(MAX_WRITER_LENGTH), primary_key=True),
        Column("number", BigInteger, nullable=False),
        Column("written_at", BigInteger, nullable=False),
        schema=schema,
        **TABLE_OPTIONS,
    )
    return UsageTables(usage, last_uses, writers)


def to_usage_row(row: UsageRow) -> dict[str, Any]:
    """Convert a count to column values."""
    return {**row.label._asdict(), "count": row.count}


def from_usage_row(row: Row[Any]) -> UsageRow:
    """Convert a row with the columns in the order of the table."""
    *label, count = tuple(row)
    return UsageRow(UsageLabel(*label), count)


def to_last_use_row(use: LastUse) -> dict[str, Any]:
    """Convert a last use to column values."""
    return {"key_id": use.key_id, "secret": use.secret, "at": to_microseconds(use.at), "address": use.address}


def from_last_use_row(row: Sequence[Any]) -> LastUse:
    """Convert a row with the columns in the order of the table."""
    return stored_last_use(*row)

"""The documents of usage, and the conversion between documents and records.

One document holds the counts of a key, day, endpoint, method, status class, reason and
owner: hourly counts in ``hours``, the daily count in ``count``. The ``_id`` contains
these values, so that the days of a key are sorted. ``batches`` holds the number of the
last batch of each writer.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from bson import Int64

from flask_apikey.core.errors import InvalidValue, RowDamaged
from flask_apikey.core.model.usage import DAY, HOUR, LastUse, UsageLabel, UsageRow, stored_last_use
from flask_apikey.core.times import to_microseconds
from flask_apikey_mongodb.queries import checked_number, checked_text

Document = Mapping[str, Any]

logger = logging.getLogger("flask_apikey")

_TEXT_FIELDS = ("endpoint", "method", "status", "reason", "owner")

_is_writer = re.compile(r"[0-9A-Za-z]+").fullmatch


def usage_id(label: UsageLabel) -> str:
    """Return the ``_id`` of the document for a label."""
    endpoint = checked_text(label.endpoint, "the endpoint of a label")
    words = " ".join(_word(text) for text in (label.method, label.status, label.reason, label.owner))
    return f"{first_id(label)}{words} {endpoint}"


def first_id(label: UsageLabel) -> str:
    """Return a lower bound of the ids for the key and day of a label."""
    return f"{_word(label.key_id)} {checked_number(label.hour, 'the hour of a label') // DAY:06} "


def _word(text: str) -> str:
    return checked_text(text, "a part of a label").replace("%", "%25").replace(" ", "%20")


def usage_fields(label: UsageLabel) -> dict[str, Any]:
    """Return the fields of a document that identify its label."""
    return {
        "key_id": label.key_id,
        "day": label.hour // DAY,
        "endpoint": label.endpoint,
        "method": label.method,
        "status": label.status,
        "reason": label.reason,
        "owner": label.owner,
    }


def counter(label: UsageLabel) -> str:
    """Return the name of the field with the count of a label."""
    return f"hours.{label.hour % DAY}" if label.span == HOUR else "count"


def marker(writer: str) -> str:
    """Return the name of the field with the number of the writer's last batch."""
    if not _is_writer(checked_text(writer, "the name of a writer")):
        raise InvalidValue("the name of a writer must be letters and digits")
    return f"batches.{writer}"


def rows_in_order(documents: Iterable[Document]) -> Iterator[UsageRow]:
    """Convert documents sorted by id to sorted rows. Damaged documents are logged and left out."""
    for _, of_day in groupby(documents, key=lambda document: document["_id"].split(" ")[:2]):
        yield from sorted((row for document in of_day for row in _rows(document)), key=lambda row: row.label)


def _rows(document: Document) -> list[UsageRow]:
    try:
        of_day = UsageLabel(
            checked_text(document["key_id"], "key_id"),
            checked_number(document["day"], "day") * DAY,
            **{field: checked_text(document[field], field) for field in _TEXT_FIELDS},
            span=DAY,
        )
        rows = [
            UsageRow(of_day._replace(hour=of_day.hour + int(hour), span=HOUR), int(count))
            for hour, count in document.get("hours", {}).items()
        ]
        if "count" in document:
            rows.append(UsageRow(of_day, int(document["count"])))
    except (AttributeError, InvalidValue, KeyError, TypeError, ValueError):
        logger.warning("left out of the usage: the stored document %.60r is damaged", document["_id"])
        return []
    return rows


def last_use_id(use: LastUse) -> str:
    """Return the ``_id`` of the document of a last use."""
    return f"{checked_text(use.key_id, 'the key of a last use')} {checked_number(use.secret, 'a secret')}"


def last_use_fields(use: LastUse) -> dict[str, Any]:
    """Return the other fields of the document of a last use."""
    return {
        "key_id": use.key_id,
        "secret": Int64(use.secret),
        "at": Int64(to_microseconds(use.at)),
        "address": use.address,
    }


def readable_last_uses(documents: Iterable[Document]) -> Iterator[LastUse]:
    """Convert documents. Damaged documents are logged and left out."""
    for document in documents:
        try:
            use = from_last_use(document)
            last_use_id(use)
        except (InvalidValue, RowDamaged):
            logger.warning("left as it is: the stored document %.60r of a last use is damaged", document["_id"])
        else:
            yield use


def from_last_use(document: Document) -> LastUse:
    """Convert a document to a last use."""
    return stored_last_use(*(document.get(name) for name in ("key_id", "secret", "at", "address")))

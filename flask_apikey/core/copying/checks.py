"""Checks of everything that a copy reads from its source. Invalid values raise `InvalidValue`.

A seal proves that this library wrote a row. It proves nothing about usage, about the
state of a rotation, and about events and rows that a repair accepted as they stood.
"""

import re
from datetime import datetime, timedelta
from typing import Any

from flask_apikey.core.addresses import parse_address
from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.adopted_form import is_form_name
from flask_apikey.core.model.history import MAX_ACTOR_LENGTH, ROWS_OF_STORAGE, LifecycleEvent
from flask_apikey.core.model.keys import APIKey, Rotation
from flask_apikey.core.model.keystring import is_id, is_prefix
from flask_apikey.core.model.quotas import checked_quota
from flask_apikey.core.model.rates import checked_rate
from flask_apikey.core.model.sealing import is_fingerprint
from flask_apikey.core.model.usage import (
    DAY,
    HOUR,
    MAX_ADDRESS_LENGTH,
    MAX_ENDPOINT_LENGTH,
    MAX_METHOD_LENGTH,
    MAX_REFUSAL_LENGTH,
    LastUse,
    UsageRow,
)
from flask_apikey.core.model.validation import (
    MAX_NAME_LENGTH,
    MAX_OWNER_LENGTH,
    MAX_PLAN_LENGTH,
    MAX_REASON_LENGTH,
    checked_fields,
    checked_owner,
    checked_reason,
)
from flask_apikey.core.text import sanitized
from flask_apikey.core.times import EPOCH, to_microseconds

MAX_COUNT = 10**12
"""Maximum count of one row. Sums of many such rows fit into 64 bits."""

_MAX_NUMBER = 2**31 - 1
_MAX_SKEW = timedelta(days=1)
_SECONDS_PER_HOUR = 3_600
_MAX_BYTES = 65_535
"""Size of a long text in MySQL."""

_EVENT_LENGTHS = {"event": 40, "actor": MAX_ACTOR_LENGTH, "details": _MAX_BYTES, "previous": 64, "hash": 64}
_NULLABLE_EVENT_LENGTHS = {"owner": MAX_OWNER_LENGTH, "reason": MAX_REASON_LENGTH}

_is_status_class = re.compile("[0-9]xx").fullmatch


def check_record(record: APIKey) -> None:
    """Check a record as `APIKeys.create` checks its arguments."""
    _require("version", holds=_is_between(record.version, 1, _MAX_NUMBER))
    _require("prefix", holds=is_prefix(record.prefix) or record.id in ROWS_OF_STORAGE)
    _require("form of adopted keys", holds=record.adopted is None or is_form_name(record.adopted) is not None)
    if record.pruned_at is not None:
        texts = (
            record.name,
            record.owner,
            record.scopes,
            record.allowed_ips,
            record.denied_ips,
            record.plan,
            record.rate,
            record.quota,
        )
        _require("content as a tombstone", holds=not any(texts) and record.metadata_json == "{}")
        return
    checked_reason(record.revocation_reason)
    checked_reason(record.suspension_reason)
    try:
        values: dict[str, Any] = {"metadata": record.metadata}
        for name in ("name", "owner", "scopes", "allowed_ips", "denied_ips", "plan", "rate", "quota", "expires_at"):
            values[name] = getattr(record, name)
        checked_fields(values)
    except RecursionError:
        raise InvalidValue("its metadata is not valid") from None
    # Checked without the white space around them, and stored with it if a repair accepted it.
    _require("name", holds=_is_text(record.name, MAX_NAME_LENGTH))
    _require("owner", holds=_is_text(record.owner or "", MAX_OWNER_LENGTH))
    _require("plan", holds=_is_text(record.plan or "", MAX_PLAN_LENGTH))
    _require("rate", holds=record.rate == checked_rate(record.rate))
    _require("quota", holds=record.quota == checked_quota(record.quota))
    for reason in (record.revocation_reason, record.suspension_reason):
        _require("reason", holds=_is_text(reason or "", MAX_REASON_LENGTH))
    _require("metadata", holds=len(record.metadata_json.encode()) <= _MAX_BYTES)


def check_event(event: LifecycleEvent) -> None:
    """Check that every storage can hold an event."""
    for name, length in _EVENT_LENGTHS.items():
        _require(f"{name} of event {event.number}", holds=_is_text(getattr(event, name), length))
    # The limit of this column is in bytes.
    _require(f"details of event {event.number}", holds=event.details.isascii())
    for name, length in _NULLABLE_EVENT_LENGTHS.items():
        value = getattr(event, name)
        _require(f"{name} of event {event.number}", holds=value is None or _is_text(value, length))


def check_usage_row(row: UsageRow, now: datetime) -> None:
    """Check a count and its label."""
    label = row.label
    last_hour = int((now + _MAX_SKEW - EPOCH).total_seconds()) // _SECONDS_PER_HOUR
    has_status = _is_text(label.status, 3) and _is_status_class(label.status) is not None
    has_reason = label.reason != ""
    _require("id", holds=is_id(label.key_id) or (label.key_id == "" and has_reason and has_status))
    _require("hour", holds=_is_between(label.hour, 0, last_hour))
    _require("endpoint", holds=_is_label(label.endpoint, MAX_ENDPOINT_LENGTH))
    _require("method", holds=_is_label(label.method, MAX_METHOD_LENGTH))
    _require("status", holds=has_status or (has_reason and label.status == ""))
    _require("reason", holds=not has_reason or _is_label(label.reason, MAX_REFUSAL_LENGTH))
    _require("owner", holds=label.owner == "" or checked_owner(label.owner) == label.owner)
    _require("span", holds=label.span in {HOUR, DAY} and label.hour % label.span == 0)
    _require("count", holds=_is_between(row.count, 1, MAX_COUNT))


def check_last_use(use: LastUse, now: datetime) -> None:
    """Check a last use."""
    latest = now + _MAX_SKEW
    _require("secret", holds=_is_between(use.secret, 0, to_microseconds(latest)))
    _require("time", holds=EPOCH <= use.at <= latest)
    _require("address", holds=use.address is None or _is_address(use.address))


def check_rotation(rotation: Rotation) -> None:
    """Check the state of a rotation of the Fernet key."""
    fingerprints = rotation.from_fingerprint, rotation.to_fingerprint
    is_pair = all(_is_text(each, 16) and is_fingerprint(each) for each in fingerprints)
    _require("fingerprint", holds=is_pair and len(set(fingerprints)) > 1)
    _require("version", holds=_is_between(rotation.version, 1, _MAX_NUMBER))


def _require(what: str, *, holds: bool) -> None:
    if not holds:
        raise InvalidValue(f"its {what} is not valid")


def _is_between(value: object, first: int, last: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and first <= value <= last


def _is_text(value: object, max_length: int) -> bool:
    # PostgreSQL stores no null character.
    return isinstance(value, str) and len(value) <= max_length and "\0" not in value


def _is_label(value: object, max_length: int) -> bool:
    return isinstance(value, str) and value.strip() == value != "" and sanitized(value, max_length) == value


def _is_address(value: object) -> bool:
    if not isinstance(value, str) or len(value) > MAX_ADDRESS_LENGTH:
        return False
    return str(parse_address(value)) == value

"""Values of columns, as other systems export them.

Every function raises ValueError with what was expected.
No message shows a value, which may be a key in the wrong column.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from flask_apikey.core.times import from_microseconds

_match_moment = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?"
    r" ?(?:Z|UTC|([+-])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
).fullmatch
_match_epoch = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII).fullmatch
_BOOLEANS = {"true": True, "t": True, "1": True, "yes": True, "false": False, "f": False, "0": False, "no": False}
_MOMENT = "expected a time, such as 2026-02-03T10:11:12Z, or seconds since 1970"


class Narrowed(NamedTuple):
    """Value that gives less access than the one in the file, or says less.

    Attributes:
        value: The value.
        note: Difference, for the report.
    """

    value: object
    note: str


def parse_moment(value: object) -> datetime | None:
    """Parse a time in ISO 8601, as PostgreSQL writes it, or in seconds since 1970. The default zone is UTC."""
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return from_microseconds(round(value * 1_000_000))
        if isinstance(value, str):
            return _moment(value.strip())
    except (ValueError, OverflowError):
        pass
    raise ValueError(_MOMENT)


def parse_boolean(value: object) -> bool:
    """Parse true or false, t or f, yes or no, 1 or 0. No value is False."""
    if value is None:
        return False
    if isinstance(value, bool | int | str):
        parsed = _BOOLEANS.get(str(value).strip().lower())
        if parsed is not None:
            return parsed
    raise ValueError("expected true or false, t or f, yes or no, or 1 or 0")


def parse_ended(value: object) -> datetime | bool:
    """Parse whether something ended, or when."""
    try:
        return parse_boolean(value)
    except ValueError as exc:
        try:
            return parse_moment(value) or False
        except ValueError:
            raise ValueError(f"{exc}, or the time") from None


def parse_list(value: object) -> list[Any]:
    """Parse a list: of JSON, of PostgreSQL without quotes, or separated by spaces or commas."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise ValueError("expected a list")  # noqa: TRY004  # callers handle one error
    text = value.strip()
    if text.startswith("["):
        parsed = _json(text)
        if isinstance(parsed, list):
            return parsed
        raise ValueError("expected a list")
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    return re.split(r"[\s,]+", text.strip(" ,")) if text.strip(" ,") else []


def parse_object(value: object) -> dict[str, Any]:
    """Parse a JSON object."""
    if value is None:
        return {}
    parsed = _json(value) if isinstance(value, str) else value
    if isinstance(parsed, dict):
        return parsed
    raise ValueError("expected a JSON object")


def parse_text(value: object) -> object:
    """Return a number as text, such as the id of an owner. Other values stay as they are."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


PARSERS: dict[str, Callable[[object], object]] = {
    "digest": lambda value: value,
    "key": lambda value: value,
    "visible": parse_text,
    "name": parse_text,
    "owner": parse_text,
    "scopes": parse_list,
    "created_at": parse_moment,
    "expires_at": parse_moment,
    "revoked": parse_ended,
    "metadata": parse_object,
    "allowed_ips": parse_list,
    "denied_ips": parse_list,
    "plan": lambda value: value,
    "rate": lambda value: value,
    "quota": lambda value: value,
}
"""Functions that parse the columns, by their names."""


def unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the members of a JSON object, each of which must be there once."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is there twice")
    return members


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("expected JSON") from None


def _moment(text: str) -> datetime:
    epoch = _match_epoch(text)
    if epoch is not None:
        return from_microseconds(int(epoch[1]) * 1_000_000 + _microseconds(epoch[2]))
    match = _match_moment(text)
    if match is None:
        raise ValueError
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    offset = timedelta(hours=int(offset_hours or 0), minutes=int(offset_minutes or 0))
    moment = datetime(
        int(year),
        int(month),
        int(day),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        _microseconds(fraction),
        tzinfo=timezone(-offset if sign == "-" else offset),
    )
    return moment.astimezone(timezone.utc)


def _microseconds(fraction: str | None) -> int:
    return int((fraction or "")[:6].ljust(6, "0"))

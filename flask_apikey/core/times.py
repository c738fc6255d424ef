"""Moments in UTC, and durations, to the microsecond."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Literal, TypeAlias

Clock = Callable[[], datetime]

Duration: TypeAlias = timedelta | str | Literal[0]
"""A timedelta, text for `parse_duration`, or 0."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}

_match_duration = re.compile(r"([0-9]{1,9})(ms|s|m|h|d|w)", re.ASCII).fullmatch


def utc_now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(timezone.utc)


def to_microseconds(moment: datetime) -> int:
    """Return the microseconds from 1970-01-01 UTC to `moment`."""
    return (moment - EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Return the moment this many microseconds after 1970-01-01 UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def to_isoformat(moment: datetime | None) -> str | None:
    """Return the moment in ISO 8601, or None for None."""
    return None if moment is None else moment.isoformat()


def to_duration(value: object) -> timedelta:
    """Convert a timedelta, text for `parse_duration`, or zero, or raise a ValueError."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value == 0:
            return timedelta(0)
        raise ValueError("needs a unit: write text such as '90d', '24h' or '30s'")
    raise ValueError(f"must be a timedelta or text such as '90d', not {type(value).__name__}")


def in_words(duration: timedelta) -> str:
    """Return a duration for people, such as ``"14 days"`` or ``"36 hours"``."""
    for name in ("day", "hour", "minute", "second"):
        count, rest = divmod(duration, _UNITS[name[0]])
        if not rest:
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    return f"{duration.total_seconds()} seconds"


def parse_duration(text: str) -> timedelta:
    """Parse a whole number and a unit, such as ``"90d"``, ``"24h"``, ``"30m"``, ``"10s"``, ``"10ms"`` or ``"2w"``.

    ``"0"`` needs no unit.
    """
    text = text.strip()
    if text == "0":
        return timedelta(0)
    match = _match_duration(text)
    if match is None:
        raise ValueError("expected a whole number and a unit, such as 90d, 24h, 30m, 10s or 10ms")
    try:
        return int(match[1]) * _UNITS[match[2]]
    except OverflowError:
        raise ValueError("the duration is too long") from None

"""Quotas: numbers of requests in periods of the calendar, and the counters of these periods."""

import re
from calendar import monthrange
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.times import EPOCH

MAX_QUOTA = 10**15
"""Maximum number of requests in a quota, and maximum addition to one."""

MAX_QUOTA_LENGTH = 50
MAX_SUBJECT_LENGTH = 100
"""Maximum length of the subject of a counter, in printable ASCII."""

TOTAL = "total"
_FROM_CREATION = " from creation"
# 0001-01-01 is the first day of a week, of a month and of a year.
_CALENDAR = date.min
_DAY = timedelta(days=1)
_EXAMPLES = "'10000/month', '100000/total' or '10000/month from creation'"

_match_quota = re.compile(
    r"([0-9]{1,18}) ?/ ?(day|week|month|year|total)(| from creation)", re.ASCII | re.IGNORECASE
).fullmatch


class Quota(NamedTuple):
    """A number of requests in a period.

    Attributes:
        amount: Number of requests, or the sum of their costs.
        period: ``day``, ``week``, ``month``, ``year`` or ``total``.
        is_from_creation: True if periods start on the day on which the key was created, and not with the calendar.
    """

    amount: int
    period: str
    is_from_creation: bool = False

    def __str__(self) -> str:
        return f"{self.amount}/{self.period}{_FROM_CREATION if self.is_from_creation else ''}"


class QuotaCounter(NamedTuple):
    """Names a counter: the one of a subject in a period.

    Attributes:
        subject: Key or owner, and the kind of the period, in printable ASCII without spaces.
        starts_at: Start of the period.
        ends_at: End of the period; None for a quota without periods.
    """

    subject: str
    starts_at: datetime
    ends_at: datetime | None

    @property
    def length(self) -> int | None:
        """Length of the period in seconds; None for a quota without periods."""
        return None if self.ends_at is None else int((self.ends_at - self.starts_at).total_seconds())


class QuotaState(NamedTuple):
    """State of a counter.

    Attributes:
        used: What was taken and not given back.
        added: What was added to the limit in this period.
        generation: Number of resets.
        granted: What the operation has taken.
    """

    used: int = 0
    added: int = 0
    generation: int = 0
    granted: int = 0


@lru_cache(maxsize=1024)
def parse_quota(text: str) -> Quota:
    """Parse a quota such as ``10000/month``.

    Raises:
        InvalidValue: The text is not valid.
    """
    match = _match_quota(text.strip())
    if match is None:
        raise InvalidValue(f"quota: {text!r:.100} is not a quota, such as {_EXAMPLES}")
    quota = Quota(int(match[1]), match[2].lower(), bool(match[3]))
    if not 1 <= quota.amount <= MAX_QUOTA:
        raise InvalidValue(f"quota: {text!r} must allow between 1 and {MAX_QUOTA} requests")
    if quota.is_from_creation and quota.period in {"day", TOTAL}:
        raise InvalidValue(f"quota: {text!r} contradicts itself; 'from creation' has no effect beside {quota.period}")
    return quota


def checked_quota(value: object) -> str | None:
    """Validate the quota of a key, or None, and return it in its canonical form."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidValue(f"quota must be a str such as '10000/month', not {type(value).__name__}")
    return str(parse_quota(value))


def checked_addition(value: object) -> int:
    """Validate an addition to a quota."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_QUOTA:
        raise InvalidValue(f"amount must be a whole number from 1 to {MAX_QUOTA}, not {value!r:.100}")
    return value


def counter_at(quota: Quota, subject: str, now: datetime, created_at: datetime) -> QuotaCounter:
    """Return the counter of the period that contains a moment.

    Args:
        quota: The quota.
        subject: Subject of the counter.
        now: The moment.
        created_at: Time when the key was created.
    """
    if quota.period == TOTAL:
        return QuotaCounter(subject, EPOCH, None)
    first = created_at.astimezone(timezone.utc).date() if quota.is_from_creation else _CALENDAR
    start, end = _days(quota.period, now.astimezone(timezone.utc).date(), first)
    return QuotaCounter(subject, _midnight(start), _midnight(end))


def _days(period: str, today: date, first: date) -> tuple[date, date]:
    """Return the first day of the present period and that of the next."""
    if period == "day":
        return today, today + _DAY
    if period == "week":
        start = today - (today - first) % (7 * _DAY)
        return start, start + 7 * _DAY
    length = 12 if period == "year" else 1
    month = today.year * 12 + (first.month if period == "year" else today.month) - 1
    if _day_of_month(month, first.day) > today:
        month -= length
    return _day_of_month(month, first.day), _day_of_month(month + length, first.day)


def _day_of_month(months: int, day: int) -> date:
    """Return a day of a month, counted from the year 0. A month that is too short has its last day."""
    year, month = divmod(months, 12)
    return date(year, month + 1, min(day, monthrange(year, month + 1)[1]))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), timezone.utc)

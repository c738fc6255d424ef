"""Limits in text, such as ``60/minute``."""

from reprlib import repr as repr_of

from limits import RateLimitItem, parse_many


def parse_limit(value: object) -> RateLimitItem:
    """Parse a number and a period, such as ``"60/minute"`` or ``"100/5 minutes"``, or raise a ValueError."""
    try:
        items = parse_many(value) if isinstance(value, str) else []
    except ValueError:
        items = []
    if len(items) != 1 or items[0].amount < 1:
        raise ValueError(f"must be one limit from 1 on, such as '60/minute' or '100/5 minutes', not {repr_of(value)}")
    return items[0]

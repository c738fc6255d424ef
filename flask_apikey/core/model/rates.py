"""Rates: numbers of requests in moving windows."""

from functools import lru_cache
from itertools import pairwise
from reprlib import repr as repr_of
from typing import Any, NamedTuple, TypeGuard

from flask_apikey.core.errors import InvalidValue

MAX_RATE_LENGTH = 200
MAX_AMOUNT = 1_000_000_000
"""Maximum number of requests in a rate, and maximum cost of a request."""

_MAX_RATES = 5
_MAX_SECONDS = 366 * 86_400


class Rate(NamedTuple):
    """A number of requests in a moving window.

    Attributes:
        amount: Number of requests, or the sum of their costs.
        seconds: Length of the window.
        period: The window in words, such as ``minute`` or ``5 minutes``.
    """

    amount: int
    seconds: int
    period: str

    def __str__(self) -> str:
        return f"{self.amount}/{self.period}"


@lru_cache(maxsize=1024)
def parse_rates(text: str) -> tuple[Rate, ...]:
    """Parse rates such as ``60/minute; 1000/hour``, and sort them by their windows.

    Raises:
        InvalidValue: The text is not valid, or two rates contradict each other.
    """
    from limits import parse_many  # noqa: PLC0415  # takes longer to import than all else, and few processes need it

    if len(text) > MAX_RATE_LENGTH:
        raise InvalidValue(f"rate has {len(text)} characters; at most {MAX_RATE_LENGTH} can be stored")
    try:
        items = parse_many(text)
    except ValueError:
        raise InvalidValue(
            f"rate: {text!r} is not a rate, such as '60/minute', '100/5 minutes' or '60/minute; 1000/hour'"
        ) from None
    if len(items) > _MAX_RATES:
        raise InvalidValue(f"rate: {text!r} has {len(items)} rates; at most {_MAX_RATES} can be combined")
    rates = sorted((_rate(each.amount, each.multiples, each.GRANULARITY) for each in items), key=lambda r: r.seconds)
    for rate in rates:
        if not 1 <= rate.amount <= MAX_AMOUNT:
            raise InvalidValue(f"rate: {text!r} must allow between 1 and {MAX_AMOUNT} requests")
        if rate.seconds > _MAX_SECONDS:
            raise InvalidValue(f"rate: {text!r} covers more than a year")
    for shorter, longer in pairwise(rates):
        if shorter.seconds == longer.seconds:
            raise InvalidValue(f"rate: {text!r} limits one period twice; keep one of {shorter} and {longer}")
        if shorter.amount >= longer.amount:
            raise InvalidValue(f"rate: {text!r} contradicts itself; {shorter} has no effect beside {longer}")
    return tuple(rates)


def parse_rate(value: object) -> Rate:
    """Parse one rate, such as ``60/minute`` or ``100/5 minutes``, or raise a ValueError."""
    try:
        rates = parse_rates(value) if isinstance(value, str) else ()
    except InvalidValue:
        rates = ()
    if len(rates) != 1:
        raise ValueError(f"must be one limit from 1 on, such as '60/minute' or '100/5 minutes', not {repr_of(value)}")
    return rates[0]


def checked_rate(value: object) -> str | None:
    """Validate the rate of a key, or None, and return it in its canonical form."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidValue(f"rate must be a str such as '60/minute', not {type(value).__name__}")
    return "; ".join(map(str, parse_rates(value)))


def is_cost(value: object) -> TypeGuard[int]:
    """Return True if a value can be the cost of a request."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_AMOUNT


def _rate(amount: int, multiples: int, granularity: Any) -> Rate:
    period = granularity.name if multiples == 1 else f"{multiples} {granularity.name}s"
    return Rate(amount, granularity.seconds * multiples, period)

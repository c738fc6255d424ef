"""Where the bars of a chart of days stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from flask_apikey.core.usage.reports import UsageCount

HEIGHT = 100
_MAX_BARS = 190
_GRID_LINES = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        label: The day, or the first and the last of several.
        count: Requests.
        x: Where it begins; each bar has one unit of width.
        y: Where it begins, from the top.
        height: In parts of `HEIGHT`.
    """

    label: str
    count: int
    x: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class BarChart:
    """A chart of consecutive days.

    Attributes:
        bars: From the first day to the last.
        days_per_bar: How many days a bar stands for.
        grid: The numbers at the side, the largest first; the last is 0.
    """

    bars: tuple[Bar, ...]
    days_per_bar: int
    grid: tuple[int, ...]


def bar_chart(days: Sequence[UsageCount]) -> BarChart:
    """The chart from the first of at least one day to the last. Where that are many, a bar stands for several.

    Days that are left out are drawn as without requests.
    """
    first, last = (date.fromisoformat(days[end].label).toordinal() for end in (0, -1))
    days_per_bar = -(-(last - first + 1) // _MAX_BARS)
    starts = range(first, last + 1, days_per_bar)
    counts = [0] * len(starts)
    for day in days:
        counts[(date.fromisoformat(day.label).toordinal() - first) // days_per_bar] += day.count
    step = _round_step(max(counts))
    top = -(-max(counts) // step) * step
    bars = tuple(
        Bar(
            label=_label(start, min(start + days_per_bar - 1, last)),
            count=count,
            x=x,
            y=round(HEIGHT - HEIGHT * count / top, 3),
            height=round(HEIGHT * count / top, 3),
        )
        for x, (start, count) in enumerate(zip(starts, counts, strict=True))
    )
    return BarChart(bars, days_per_bar, tuple(range(top, -1, -step)))


def _label(first: int, last: int) -> str:
    days = [date.fromordinal(day).isoformat() for day in (first, last)]
    return days[0] if first == last else " to ".join(days)


def _round_step(most: int) -> int:
    """1, 2, 25 or 5, and zeros, so that a few steps reach `most`."""
    magnitude = 1
    while True:
        for tenths in (10, 20, 25, 50):
            step, rest = divmod(tenths * magnitude, 10)
            if not rest and step * _GRID_LINES >= most:
                return step
        magnitude *= 10

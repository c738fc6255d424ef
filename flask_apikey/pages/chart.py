"""Bar chart of requests by day."""

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
        label: The day, or the first and last day.
        count: Number of requests.
        x: Left edge; each bar is one unit wide.
        y: Upper edge, measured from the top of the chart.
        height: Height, on a scale where the chart has `HEIGHT`.
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
        bars: The bars, oldest first.
        days_per_bar: Number of days of each bar.
        grid: Numbers of the vertical axis, from the largest down to 0.
    """

    bars: tuple[Bar, ...]
    days_per_bar: int
    grid: tuple[int, ...]


def bar_chart(days: Sequence[UsageCount]) -> BarChart:
    """Return a chart of all days from the first to the last, given at least one day, in order.

    Many days share bars. Days missing in between are drawn as 0.
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


def _round_step(max_count: int) -> int:
    """Return the smallest step of the form 1, 2, 2.5 or 5 times a power of ten that needs few grid lines."""
    magnitude = 1
    while True:
        for tenths in (10, 20, 25, 50):
            step, rest = divmod(tenths * magnitude, 10)
            if not rest and step * _GRID_LINES >= max_count:
                return step
        magnitude *= 10

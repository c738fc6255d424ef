"""Counts with horizontal bars, for a terminal."""

from collections.abc import Sequence

import click

from flask_apikey.cli.output import can_show, shortened
from flask_apikey.core.text import sanitized
from flask_apikey.core.usage.reports import UsageCount

_BLOCKS = "▏▎▍▌▋▊▉█"
_ASCII_BLOCKS = "#"
_MAX_LABEL = 500
_MIN_BAR = 10
_MAX_BAR = 60


def bar_lines(counts: Sequence[UsageCount], *, columns: int, color: str) -> list[str]:
    """A line for each count: its label, the number, and a bar that is as long as the number is large.

    Args:
        counts: At least one.
        columns: How wide the terminal is.
        color: Of the bars.
    """
    numbers = [f"{count:,}" for _, count in counts]
    number_width = max(map(len, numbers))
    most = max(count for _, count in counts)
    most_label_width = max(1, columns - number_width - _MIN_BAR - 4)
    labels = [shortened(sanitized(label, _MAX_LABEL), most_label_width) for label, _ in counts]
    label_width = max(map(len, labels))
    bar_width = max(_MIN_BAR, min(_MAX_BAR, columns - label_width - number_width - 4))
    blocks = _BLOCKS if can_show(_BLOCKS) else _ASCII_BLOCKS
    lines = []
    for label, number, (_, count) in zip(labels, numbers, counts, strict=True):
        bar = click.style(_bar(count, most, bar_width, blocks), fg=color) if count else ""
        lines.append(f"{label:<{label_width}}  {number:>{number_width}}  {bar}".rstrip())
    return lines


def _bar(count: int, most: int, width: int, blocks: str) -> str:
    """A bar in steps of a part of a character; whatever is there at all can be seen."""
    steps = max(1, count * width * len(blocks) // most)
    full, part = divmod(steps, len(blocks))
    return blocks[-1] * full + (blocks[part - 1] if part else "")

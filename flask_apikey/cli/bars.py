"""Horizontal bars for a terminal."""

import shutil
from collections.abc import Sequence

import click

from flask_apikey.cli.output import can_show, shortened, show
from flask_apikey.core.text import sanitized, visible
from flask_apikey.core.usage.reports import UsageCount

_BLOCKS = "▏▎▍▌▋▊▉█"
_ASCII_BLOCKS = "#"
_MAX_LABEL = 500
_MIN_BAR = 10
_MAX_BAR = 60
_MIN_COLUMNS = 40


def print_bars(heading: str, counts: Sequence[UsageCount], *, color: str) -> None:
    """Print a heading, and a line for each count: label, number, and a bar of proportional length."""
    show(click.style(visible(heading), bold=True))
    if not counts:
        return
    columns = max(_MIN_COLUMNS, shutil.get_terminal_size((120, 24)).columns)
    numbers = [f"{count:,}" for _, count in counts]
    number_width = max(map(len, numbers))
    max_count = max(count for _, count in counts)
    max_label_width = max(1, columns - number_width - _MIN_BAR - 4)
    labels = [shortened(sanitized(label, _MAX_LABEL), max_label_width) for label, _ in counts]
    label_width = max(map(len, labels))
    bar_width = max(_MIN_BAR, min(_MAX_BAR, columns - label_width - number_width - 4))
    blocks = _BLOCKS if can_show(_BLOCKS) else _ASCII_BLOCKS
    show()
    for label, number, (_, count) in zip(labels, numbers, counts, strict=True):
        bar = click.style(_bar(count, max_count, bar_width, blocks), fg=color) if count else ""
        show(f"{label:<{label_width}}  {number:>{number_width}}  {bar}".rstrip())


def _bar(count: int, max_count: int, width: int, blocks: str) -> str:
    """Return a bar drawn in fractions of a character; at least one fraction, so that small counts are visible."""
    steps = max(1, count * width * len(blocks) // max_count)
    full, part = divmod(steps, len(blocks))
    return blocks[-1] * full + (blocks[part - 1] if part else "")

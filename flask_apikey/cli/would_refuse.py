"""The table of ``flask apikey usage --would-refuse``."""

from flask_apikey.cli.output import show
from flask_apikey.core.text import visible
from flask_apikey.core.usage.reports import WouldRefuseReport

_TITLES = ("REQUESTS", "REASON", "ENDPOINT", "KEY", "OWNER")


def print_would_refuse(report: WouldRefuseReport, period: str) -> None:
    """Print the requests that report mode let pass, those that were most first."""
    show(f"Requests that would be refused, {period}: {report.total:,}")
    if not report.rows:
        return
    lines = [_TITLES] + [
        (f"{row.count:,}", row.reason, row.endpoint, row.key_id or "-", row.owner or "-") for row in report.rows
    ]
    texts = [[visible(text) for text in line] for line in lines]
    widths = [max(len(line[column]) for line in texts) for column in range(len(_TITLES))]
    show()
    for number, *others in texts:
        cells = [number.rjust(widths[0]), *(text.ljust(width) for text, width in zip(others, widths[1:], strict=True))]
        show("  ".join(cells).rstrip())

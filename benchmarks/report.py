"""Results of the benchmarks, as a table or as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from os import cpu_count
from platform import python_implementation, python_version, system
from sqlite3 import sqlite_version
from typing import Any

from benchmarks.estimates import Estimate

LIBRARIES = (
    "flask",
    "werkzeug",
    "sqlalchemy",
    "flask-sqlalchemy",
    "flask-httpauth",
    "cryptography",
    "psycopg",
    "pymysql",
    "pymongo",
    "flask-apikey-auth",
)


@dataclass(frozen=True)
class Row:
    """Result of one contender.

    Attributes:
        name: Name of the contender.
        median: Median time of a request, in microseconds.
        ratios: Further estimates, such as ratios to other rows, by column heading.
    """

    name: str
    median: Estimate
    ratios: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """Upper limit of a measured value.

    Attributes:
        promise: Description of the value.
        limit: Maximum that meets the target.
        measured: Measured value.
    """

    promise: str
    limit: float
    measured: Estimate

    @property
    def met(self) -> bool:
        """True if the measured value is within the limit."""
        return self.measured.value <= self.limit


@dataclass(frozen=True)
class Report:
    """Result of one benchmark."""

    title: str
    rows: Sequence[Row]
    targets: Sequence[Target] = ()

    def table(self) -> str:
        """Format the report as text."""
        headings = list(dict.fromkeys(heading for row in self.rows for heading in row.ratios))
        lines = [["", "median", "95 % interval", *headings]]
        for row in self.rows:
            interval = f"{row.median.low:.1f} to {row.median.high:.1f}"
            ratios = [f"{row.ratios[each].value:.2f}" if each in row.ratios else "" for each in headings]
            lines.append([row.name, f"{row.median.value:.1f} µs", interval, *ratios])
        return "\n".join([self.title, "", *_aligned(lines), *(["", *map(_line, self.targets)] if self.targets else [])])

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to JSON."""
        targets = [{**asdict(target), "met": target.met} for target in self.targets]
        return {"title": self.title, "rows": [asdict(row) for row in self.rows], "targets": targets}


def environment() -> dict[str, Any]:
    """Describe the machine and the versions of the libraries."""
    return {
        "system": system(),
        "processors": cpu_count(),
        "python": f"{python_implementation()} {python_version()}",
        "sqlite": sqlite_version,
        **{library: version(library) for library in LIBRARIES},
    }


def _line(target: Target) -> str:
    measured = target.measured
    outcome = "met" if target.met else "MISSED"
    interval = f"{measured.low:.2f} to {measured.high:.2f}"
    return f"{outcome}: {target.promise} ≤ {target.limit}: {measured.value:.2f} ({interval})"


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]

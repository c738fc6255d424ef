"""Counts and last uses move from one storage to another.

Both storages give their counts in the same order, so they are read side by side, a
key and a day at a time, like the keys themselves. A day that one side has folded and
the other has not is compared as a whole.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

from flask_apikey.core.records import StoredKey
from flask_apikey.core.storage import Backend, KeepsUsage
from flask_apikey.core.usage_records import DAY, HOUR, LastUse, UsageField, UsageFilter, UsageLabel, UsageRow

_PAGE = 1_000

Progress = Callable[[int], object]

T = TypeVar("T")

_Day = tuple[str, int]
"""A key, and the first hour of a day."""


@dataclass(slots=True)
class UsageCopyReport:
    """What a copy of usage did, or would do.

    Attributes:
        counts: Counts that were missing or smaller at the target.
        last_uses: Last uses that were missing or earlier there.
    """

    counts: int = 0
    last_uses: int = 0


def requests_counted(backend: Backend) -> int:
    """How many requests a storage has counted, with those that were refused."""
    if not isinstance(backend, KeepsUsage):
        return 0
    accepted = backend.sum_usage(UsageField.METHOD, UsageFilter())
    refused = backend.sum_usage(UsageField.METHOD, UsageFilter(refused=True))
    return sum(accepted.values()) + sum(refused.values())


def copy_usage(
    source: Backend, target: Backend, *, dry_run: bool = False, progress: Progress | None = None
) -> UsageCopyReport:
    """Bring every count and every last use to `target`, unless what is there is as large, or as late.

    Args:
        source: Where from; it is only read.
        target: Where to; its storage must be initialised.
        dry_run: Write nothing, only count.
        progress: Called with the number of counted requests that were dealt with.

    Returns:
        What was done. Repeating it is harmless. Where one side keeps no usage, nothing is.
    """
    report = UsageCopyReport()
    if isinstance(source, KeepsUsage) and isinstance(target, KeepsUsage):
        for rows in _in_pages(_missing(source, target, dry_run=dry_run, progress=progress)):
            report.counts += len(rows) if dry_run else target.merge_usage(rows, [])
        for uses in _in_pages(_later(source, target, source.all_keys())):
            report.last_uses += len(uses)
            if not dry_run:
                target.merge_usage([], uses)
    return report


def _missing(source: KeepsUsage, target: KeepsUsage, *, dry_run: bool, progress: Progress | None) -> Iterator[UsageRow]:
    for day, ours, theirs in _side_by_side(source, target):
        if any(row.label.span == DAY for row in (*ours, *theirs)):
            ours_whole, theirs_whole = _whole(day, ours), _whole(day, theirs)
            larger = _larger(ours_whole, theirs_whole)
            # Hours and a day that holds them must not stand side by side.
            if larger and not dry_run and any(row.label.span == HOUR for row in theirs):
                target.fold_usage(before=day[1] + DAY)
            yield from larger
        else:
            yield from _larger(ours, theirs)
        if progress is not None:
            progress(sum(row.count for row in ours))


def _larger(ours: Iterable[UsageRow], theirs: Iterable[UsageRow]) -> list[UsageRow]:
    counts = {row.label: row.count for row in theirs}
    return [row for row in ours if row.count > counts.get(row.label, 0)]


def _whole(day: _Day, rows: Iterable[UsageRow]) -> list[UsageRow]:
    """The rows of a day, each label once and without its hour."""
    counts: defaultdict[UsageLabel, int] = defaultdict(int)
    for row in rows:
        counts[row.label._replace(hour=day[1], span=DAY)] += row.count
    return [UsageRow(label, count) for label, count in counts.items()]


def _side_by_side(source: KeepsUsage, target: KeepsUsage) -> Iterator[tuple[_Day, list[UsageRow], list[UsageRow]]]:
    others = _days(target)
    other = next(others, None)
    for day, ours in _days(source):
        while other is not None and other[0] < day:
            other = next(others, None)
        yield day, ours, other[1] if other is not None and other[0] == day else []


def _days(storage: KeepsUsage) -> Iterator[tuple[_Day, list[UsageRow]]]:
    for day, rows in groupby(storage.all_usage_rows(), key=_day):
        yield day, list(rows)


def _day(row: UsageRow) -> _Day:
    return row.label.key_id, row.label.hour // DAY * DAY


def _later(source: KeepsUsage, target: KeepsUsage, keys: Iterable[StoredKey]) -> Iterator[LastUse]:
    ids = (key.record.id for key in keys)
    while some := list(islice(ids, _PAGE)):
        there = {(use.key_id, use.secret): use.at for use in target.last_uses(some)}
        for use in source.last_uses(some):
            at = there.get((use.key_id, use.secret))
            if at is None or at < use.at:
                yield use


def _in_pages(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while page := list(islice(iterator, _PAGE)):
        yield page

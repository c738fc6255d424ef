"""Counts and last uses move from one storage to another.

Both storages give their counts in the same order. A page of the source is compared
with the same days at the target as they are then, just before it is written.

What one side has by the hour and the other by the day is compared as a whole day, for
each label by itself. What the target lacks of such a day is added to its row of the
day, beside the hours that it has, so that the target need not be folded.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby, islice
from typing import TypeVar

from flask_apikey.core.copying.unprepared import stored_in
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.usage import DAY, LastUse, UsageField, UsageFilter, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import Backend, KeepsUsage
from flask_apikey.core.times import EPOCH
from flask_apikey.core.usage.retention import MIN_AGE

_PAGE = 1_000

Progress = Callable[[int], object]

T = TypeVar("T")

_Counts = Mapping[UsageLabel, int]


@dataclass(slots=True)
class UsageCopyReport:
    """What a copy of usage did, or would do.

    Attributes:
        counts: Counts that were missing or smaller at the target.
        last_uses: Last uses that were missing or earlier there.
        larger: The larger of what both sides had counted for each label and day of the
            source, added up by the first hour of the day.
    """

    counts: int = 0
    last_uses: int = 0
    larger: Counter[int] = field(default_factory=Counter)


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
        target: Where to; its storage must be initialised, unless nothing is written.
        dry_run: Write nothing, only count.
        progress: Called with the number of counted requests that were dealt with.

    Returns:
        What was done. Repeating it is harmless. Where one side keeps no usage, nothing is.
    """
    report = UsageCopyReport()
    if isinstance(source, KeepsUsage) and isinstance(target, KeepsUsage):
        for page in _whole_days(source.all_usage_rows()):
            missing = _missing(page, stored_in(target, partial(_same_days, target, page)), report.larger)
            report.counts += len(missing) if dry_run else target.merge_usage(missing, [])
            if progress is not None:
                progress(sum(row.count for row in page))
        for uses in _in_pages(_later(source, target, source.all_keys())):
            report.last_uses += len(uses)
            if not dry_run:
                target.merge_usage([], uses)
    return report


def surplus(copied: UsageCopyReport, afterwards: UsageCopyReport, now: datetime) -> int:
    """How many requests the target counts that neither side had counted before it was copied to.

    Days in which somebody may still be counting are left out.

    Args:
        copied: Of the copy.
        afterwards: Of another one behind it, which may be a dry run.
        now: The present moment, in UTC.
    """
    more = afterwards.larger - copied.larger
    return sum(count for day, count in more.items() if EPOCH + timedelta(hours=day + DAY) <= now - MIN_AGE)


def _missing(page: Iterable[UsageRow], there: Iterable[UsageRow], larger: Counter[int]) -> list[UsageRow]:
    theirs = _by_day(there)
    missing: list[UsageRow] = []
    for day, counts in _by_day(page).items():
        of_day = theirs.get(day, {})
        lacking = _lacking(day, counts, of_day)
        larger[day.hour] += sum(of_day.values()) + sum(row.count - of_day.get(row.label, 0) for row in lacking)
        missing += lacking
    return missing


def _lacking(day: UsageLabel, ours: _Counts, theirs: _Counts) -> list[UsageRow]:
    if day in ours or day in theirs:
        difference = sum(ours.values()) - sum(theirs.values())
        return [UsageRow(day, theirs.get(day, 0) + difference)] if difference > 0 else []
    return [UsageRow(label, count) for label, count in ours.items() if count > theirs.get(label, 0)]


def _by_day(rows: Iterable[UsageRow]) -> dict[UsageLabel, dict[UsageLabel, int]]:
    """The counts of rows, by the label that their whole day has."""
    days: defaultdict[UsageLabel, dict[UsageLabel, int]] = defaultdict(dict)
    for row in rows:
        days[row.label._replace(hour=_first_hour(row), span=DAY)][row.label] = row.count
    return days


def _whole_days(rows: Iterable[UsageRow]) -> Iterator[list[UsageRow]]:
    """Pages that have whatever a key did on a day together."""
    page: list[UsageRow] = []
    for _, of_day in groupby(rows, key=_day):
        page += of_day
        if len(page) >= _PAGE:
            yield page
            page = []
    if page:
        yield page


def _same_days(storage: KeepsUsage, page: list[UsageRow]) -> Iterator[UsageRow]:
    """The rows that a storage has for the keys and days of a page."""
    days = {_day(row) for row in page}
    last = _day(page[-1])
    # No label comes before this one on that day.
    after = UsageLabel(*_day(page[0]), endpoint="", method="", status="", span=0)
    while rows := storage.usage_rows(after=after, limit=_PAGE):
        for row in rows:
            if _day(row) > last:
                return
            if _day(row) in days:
                yield row
        after = rows[-1].label


def _day(row: UsageRow) -> tuple[str, int]:
    return row.label.key_id, _first_hour(row)


def _first_hour(row: UsageRow) -> int:
    return row.label.hour // DAY * DAY


def _later(source: KeepsUsage, target: KeepsUsage, keys: Iterable[StoredKey]) -> Iterator[LastUse]:
    ids = (key.record.id for key in keys)
    while some := list(islice(ids, _PAGE)):
        there = {(use.key_id, use.secret): use.at for use in stored_in(target, partial(target.last_uses, some))}
        for use in source.last_uses(some):
            at = there.get((use.key_id, use.secret))
            if at is None or at < use.at:
                yield use


def _in_pages(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while page := list(islice(iterator, _PAGE)):
        yield page

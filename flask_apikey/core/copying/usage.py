"""Counts and last uses, copied from one storage to another.

Both storages list their counts in the same order and are read side by side, one
day of a key at a time. If one side has folded the hours of a day, whole days are
compared, and the difference is added to the day at the target.

No seal covers usage. Rows that this library would not write are left out and reported,
and so are those of keys that were not copied.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, groupby, islice

from flask_apikey.core.copying.checks import check_last_use, check_usage_row
from flask_apikey.core.copying.refusals import Refusals
from flask_apikey.core.copying.summary import EVERYTHING, row_id, side_by_side, stored_in
from flask_apikey.core.errors import InvalidValue, RowDamaged, StorageError, TargetInUse
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.usage import DAY, LastUse, UsageField, UsageFilter, UsageLabel, UsageOutcome, UsageRow
from flask_apikey.core.storage.contract import Backend, KeyFilter, UsageStore
from flask_apikey.core.times import EPOCH, Clock, utc_now

_PAGE = 1_000
_DAYS = 100

Progress = Callable[[int], object]

_Pair = tuple[list[UsageRow] | None, list[UsageRow] | None]
"""Rows of the same key and day at the source and at the target."""


@dataclass(slots=True)
class UsageCopyReport:
    """Numbers of counts and last uses that a copy stored, or would store, and what it left out."""

    counts: int = 0
    last_uses: int = 0
    refusals: Refusals = field(default_factory=Refusals)


def requests_counted(backend: Backend) -> int:
    """Return the number of requests that a storage has counted, refused ones and those that would be included."""
    return sum(_counts_by_hour(backend).values())


def copy_usage(
    source: Backend,
    target: Backend,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    clock: Clock = utc_now,
) -> UsageCopyReport:
    """Copy every count and every last use, as `copy_keys` copies keys. The keys must be copied before.

    Raises:
        TargetInUse: The target has counted requests that the source has not.
    """
    report = UsageCopyReport()
    store = target.usage
    if store is None:
        return report
    reader = _UsageReader(source, report.refusals, clock())
    # A dry run finds no keys at the target.
    copied = source if dry_run else target
    days = _key_days(source, target, store, reader.rows(chain([""], _ids(copied, EVERYTHING))))
    while page := list(islice(days, _DAYS)):
        missing = [row for ours, theirs in page for row in _missing(ours or [], theirs or [])]
        report.counts += len(missing)
        if missing and not dry_run:
            store.put(missing, [])
        if progress is not None:
            progress(sum(row.count for ours, _ in page for row in ours or []))
    ids = _ids(copied, KeyFilter())
    while key_ids := list(islice(ids, _PAGE)):
        uses = _later_uses(reader.last_uses(key_ids), target, store, key_ids)
        report.last_uses += len(uses)
        if uses and not dry_run:
            store.put([], uses)
    return report


class _UsageReader:
    """Reads the usage of a source, and leaves out what this library would not write."""

    def __init__(self, source: Backend, refusals: Refusals, now: datetime) -> None:
        self._store = source.usage
        self._refusals = refusals
        self._now = now

    def rows(self, key_ids: Iterator[str]) -> Iterator[UsageRow]:
        """Iterate over the counts of keys, whose ids are sorted. The empty id stands for requests without a key."""
        key_id = next(key_ids, None)
        last: UsageLabel | None = None
        for row in () if self._store is None else self._store.all_rows():
            label = row.label
            try:
                check_usage_row(row, self._now)
            except InvalidValue as exc:
                self._refusals.add(label.key_id, f"a count of its usage was left out: {exc}")
                continue
            while key_id is not None and key_id < label.key_id:
                key_id = next(key_ids, None)
            if key_id != label.key_id or (last is not None and label <= last):
                self._refusals.add(label.key_id, "a count of its usage was left out: the key was not copied")
                continue
            last = label
            yield row

    def last_uses(self, key_ids: Sequence[str]) -> list[LastUse]:
        """Return the last uses of keys."""
        if self._store is None:
            return []
        try:
            uses = self._store.last_uses(key_ids)
        except (ArithmeticError, LookupError, RowDamaged, TypeError, ValueError):
            if len(key_ids) > 1:
                return [use for key_id in key_ids for use in self.last_uses([key_id])]
            self._refusals.add(key_ids[0], "its last uses were left out: one is damaged")
            return []
        return [use for use in uses if self._is_valid(use)]

    def _is_valid(self, use: LastUse) -> bool:
        try:
            check_last_use(use, self._now)
        except InvalidValue as exc:
            self._refusals.add(use.key_id, f"a last use was left out: {exc}")
            return False
        return True


def _ids(backend: Backend, key_filter: KeyFilter) -> Iterator[str]:
    """Iterate over the ids of the rows of a storage, in order."""
    last_id = ""
    for row in backend.scan(key_filter):
        key_id = row_id(row)
        if is_id(key_id) and key_id > last_id:
            last_id = key_id
            yield key_id


def _counts_by_hour(backend: Backend) -> Mapping[int, int]:
    counts: defaultdict[int, int] = defaultdict(int)
    if backend.usage is not None:
        try:
            for outcome in UsageOutcome:
                for (hour,), count in backend.usage.totals([UsageField.HOUR], UsageFilter(outcome=outcome)).items():
                    if isinstance(hour, int) and hour >= 0:
                        counts[hour] += count
        except (ArithmeticError, RowDamaged, TypeError, ValueError):
            raise StorageError("a count of requests is damaged") from None
    return counts


def _key_days(source: Backend, target: Backend, store: UsageStore, ours: Iterable[UsageRow]) -> Iterator[_Pair]:
    # The source may have removed old rows since an earlier copy.
    first_hour = min(_counts_by_hour(source), default=0)
    theirs = stored_in(target, store.all_rows)
    kept = (row for row in theirs if row.label.hour + row.label.span > first_hour)
    return side_by_side(_grouped(ours), _grouped(kept), lambda rows: _key_day(rows[0]))


def _grouped(rows: Iterable[UsageRow]) -> Iterator[list[UsageRow]]:
    return (list(group) for _, group in groupby(rows, key=_key_day))


def _key_day(row: UsageRow) -> tuple[str, int]:
    return row.label.key_id, row.label.hour // DAY * DAY


def _missing(ours: Iterable[UsageRow], theirs: Iterable[UsageRow]) -> list[UsageRow]:
    """Return the rows that bring the target up to date with one day of a key."""
    our_days, their_days = _by_day(ours), _by_day(theirs)
    missing: list[UsageRow] = []
    for day in our_days | their_days:
        wanted, stored = our_days.get(day, {}), their_days.get(day, {})
        if day in wanted or day in stored:
            difference = sum(wanted.values()) - sum(stored.values())
            stored = {day: stored.get(day, 0)}
            wanted = {day: stored[day] + difference}
        if any(count > wanted.get(label, 0) for label, count in stored.items()):
            date = EPOCH + timedelta(hours=day.hour)
            raise TargetInUse(f"it has counted more requests of key {day.key_id} on {date:%Y-%m-%d} than the source")
        missing += [UsageRow(label, count) for label, count in wanted.items() if count > stored.get(label, 0)]
    return missing


def _by_day(rows: Iterable[UsageRow]) -> dict[UsageLabel, dict[UsageLabel, int]]:
    """Group counts by the label that their whole day has."""
    days: defaultdict[UsageLabel, dict[UsageLabel, int]] = defaultdict(dict)
    for row in rows:
        days[row.label._replace(hour=_key_day(row)[1], span=DAY)][row.label] = row.count
    return days


def _later_uses(ours: Sequence[LastUse], target: Backend, store: UsageStore, key_ids: Sequence[str]) -> list[LastUse]:
    """Return the last uses that the target lacks, or has with an earlier time."""
    theirs = list(stored_in(target, partial(store.last_uses, key_ids)))
    latest = _latest(ours)
    for key_id, at in _latest(theirs).items():
        if key_id not in latest or latest[key_id] < at:
            raise TargetInUse(f"key {key_id} was used there")
    stored = {(use.key_id, use.secret): use.at for use in theirs}
    return [use for use in ours if stored.get((use.key_id, use.secret), EPOCH) < use.at]


def _latest(uses: Iterable[LastUse]) -> dict[str, datetime]:
    """Return the last use of each key, whichever its secret: folding may move a use to another secret."""
    latest: dict[str, datetime] = {}
    for use in uses:
        latest[use.key_id] = max(use.at, latest.get(use.key_id, EPOCH))
    return latest

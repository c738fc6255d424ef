"""Retention of counts: old hours are folded into days, old counts are removed.

Both also fold the last uses of previous secrets into one for each key.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.usage import UsageRow
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.times import EPOCH

MIN_AGE = timedelta(days=2)
"""Minimum age of prunable counts. A process may still hold younger ones while the storage is away."""

_PAGE = 1_000
_HOUR = timedelta(hours=1)
_HOURS_PER_DAY = 24


class UsageRetention:
    """Folding and removal of counts older than a given age.

    Args:
        storage: The storage of the counts.
        now: The current time, in UTC.
        older_than: The minimum age of affected counts; at least `MIN_AGE`.

    Attributes:
        before: The end of the affected period, in hours since 1970-01-01 UTC.

    Raises:
        InvalidValue: The age is less than `MIN_AGE`.
    """

    def __init__(self, storage: UsageStore, now: datetime, older_than: timedelta) -> None:
        if older_than < MIN_AGE:
            raise InvalidValue(f"usage less than {MIN_AGE.days} days old cannot be pruned: it may still be counted")
        self._storage = storage
        self.before = max(0, (now - EPOCH - older_than) // _HOUR)

    def fold(self) -> int:
        """Fold the hours of whole days into days. Totals stay the same.

        Returns:
            The number of hourly rows folded.
        """
        self._storage.fold_last_uses()
        return self._storage.fold(before=self.before)

    def remove(self) -> int:
        """Remove hours and days permanently.

        Returns:
            The number of rows removed.
        """
        self._storage.fold_last_uses()
        return self._storage.prune(before=self.before)

    def count_foldable(self) -> int:
        """Count the rows that `fold` would fold."""
        return sum(row.label.span == 1 and _end_of_day(row) <= self.before for row in self._rows())

    def count_removable(self) -> int:
        """Count the rows that `remove` would remove."""
        return sum(row.label.hour + row.label.span <= self.before for row in self._rows())

    def _rows(self) -> Iterator[UsageRow]:
        after = None
        while page := self._storage.rows(after=after, limit=_PAGE):
            yield from page
            after = page[-1].label


def _end_of_day(row: UsageRow) -> int:
    return (row.label.hour // _HOURS_PER_DAY + 1) * _HOURS_PER_DAY

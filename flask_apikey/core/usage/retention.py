"""How long counts are kept: old hours become days, old days are removed.

With either, the last uses of secrets that rolls have replaced become one for each key.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.usage import UsageRow
from flask_apikey.core.storage.contract import KeepsUsage
from flask_apikey.core.times import EPOCH

MIN_AGE = timedelta(days=2)
"""Nobody counts in hours any more that are as old as this, however long the storage was away."""

_PAGE = 1_000
_HOUR = timedelta(hours=1)
_HOURS_OF_A_DAY = 24


class UsageRetention:
    """Removes what is older than a moment, or folds it.

    Args:
        storage: Where counts are kept.
        now: The present moment, in UTC.
        older_than: How old the counts are; at least `MIN_AGE`.

    Attributes:
        before: What ended before this hour is meant, in hours since 1970-01-01 UTC.

    Raises:
        InvalidValue: Somebody may still be counting in hours that are so young.
    """

    def __init__(self, storage: KeepsUsage, now: datetime, older_than: timedelta) -> None:
        if older_than < MIN_AGE:
            raise InvalidValue(f"what is less than {MIN_AGE.days} days old cannot be pruned: it may still be counted")
        self._storage = storage
        self.before = max(0, (now - EPOCH - older_than) // _HOUR)

    def fold(self) -> int:
        """Add whole days of hours up. Totals stay as they are. Gives how many rows of hours became rows of days."""
        self._storage.fold_last_uses()
        return self._storage.fold_usage(before=self.before)

    def remove(self) -> int:
        """Remove hours and days for good. Gives how many rows."""
        self._storage.fold_last_uses()
        return self._storage.prune_usage(before=self.before)

    def count_folded(self) -> int:
        """How many rows `fold` would deal with."""
        return sum(row.label.span == 1 and _end_of_day(row) <= self.before for row in self._rows())

    def count_removed(self) -> int:
        """How many rows `remove` would deal with."""
        return sum(row.label.hour + row.label.span <= self.before for row in self._rows())

    def _rows(self) -> Iterator[UsageRow]:
        after = None
        while page := self._storage.usage_rows(after=after, limit=_PAGE):
            yield from page
            after = page[-1].label


def _end_of_day(row: UsageRow) -> int:
    return (row.label.hour // _HOURS_OF_A_DAY + 1) * _HOURS_OF_A_DAY

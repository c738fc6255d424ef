"""Retention of counts: old hours are folded into days, or old counts are removed."""

from datetime import datetime, timedelta

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.times import EPOCH

MIN_AGE = timedelta(days=2)
"""Minimum age of prunable counts. A process may still hold younger ones while the storage is away."""

_HOUR = timedelta(hours=1)
_HOURS_PER_DAY = 24


def prunable_until(now: datetime, older_than: timedelta) -> int:
    """Return the end of the prunable period, in hours since 1970-01-01 UTC. Refuses an age below `MIN_AGE`."""
    if older_than < MIN_AGE:
        raise InvalidValue(f"usage less than {MIN_AGE.days} days old cannot be pruned: it may still be counted")
    return max(0, (now - EPOCH - older_than) // _HOUR)


def prune(storage: UsageStore, before: int, *, fold: bool) -> int:
    """Fold the hours of whole days, or remove counts permanently. Returns the number of rows.

    Also fold the last uses of previous secrets into one for each key.
    """
    storage.fold_last_uses()
    return storage.fold(before=before) if fold else storage.prune(before=before)


def count_prunable(storage: UsageStore, before: int, *, fold: bool) -> int:
    """Count the rows that `prune` would fold or remove."""
    labels = (row.label for row in storage.all_rows())
    if fold:
        end_of_last_day = before // _HOURS_PER_DAY * _HOURS_PER_DAY
        return sum(label.span == 1 and label.hour < end_of_last_day for label in labels)
    return sum(label.hour + label.span <= before for label in labels)

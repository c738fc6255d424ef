"""A clock for tests."""

from datetime import datetime, timedelta, timezone


class FrozenClock:
    """A clock that only changes when set. Pass it as the ``clock`` of an `APIKeys`.

    Args:
        now: The initial time, with a time zone.
    """

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)) -> None:
        self.set(now)

    def __call__(self) -> datetime:
        """Return the time in UTC."""
        return self._now

    def set(self, now: datetime) -> None:
        """Set the time."""
        if now.utcoffset() is None:
            raise ValueError("the time needs a zone, such as datetime(…, tzinfo=timezone.utc)")
        self._now = now.astimezone(timezone.utc)

    def advance(self, duration: timedelta) -> None:
        """Move the time forward."""
        self._now += duration

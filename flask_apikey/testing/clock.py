"""A clock that stands still until it is set."""

from datetime import datetime, timedelta, timezone


class FrozenClock:
    """The clock of an `APIKeys` under test.

    Args:
        now: The moment it shows, with a time zone.
    """

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)) -> None:
        self.set(now)

    def __call__(self) -> datetime:
        """The moment that was set, in UTC."""
        return self._now

    def set(self, now: datetime) -> None:
        """Show another moment."""
        if now.utcoffset() is None:
            raise ValueError("the moment needs a time zone, such as datetime(…, tzinfo=timezone.utc)")
        self._now = now.astimezone(timezone.utc)

    def advance(self, duration: timedelta) -> None:
        """Let time pass."""
        self._now += duration

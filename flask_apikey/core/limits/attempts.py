"""The budget of failed attempts of each caller address."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from flask_apikey.core.addresses import Address, address_groups
from flask_apikey.core.limits.token_bucket import TokenBucket
from flask_apikey.core.processes import ProcessLock

MAX_GROUPS = 10_000
"""Maximum number of groups of addresses that are counted, and of those whose budget is exhausted."""

LOOKUPS_PER_SECOND = 5
"""Look-ups that all callers with an exhausted budget share."""

MAX_RETRY_AFTER = 60
"""Maximum of ``Retry-After`` in seconds. A genuine key can get a shared look-up before its budget is renewed."""

_FACTORS = (1, 10)
"""Budgets of an address or its /64, and of the /48 around that."""

_UNKNOWN = ("",)
"""Group of callers without an address, such as those on a Unix socket."""


@dataclass(slots=True)
class _Window:
    ends_at: float
    failures: int = 0


class FailedAttempts:
    """Failed attempts in this process, with bounded memory.

    The window of a group begins with its first failure. Where there are too many groups, the
    oldest windows are forgotten. An exhausted budget is only displaced by other exhausted ones,
    so that a flood from many addresses does not renew it.

    Args:
        limit: Number of failures of an address in a window.
        period: Length of a window in seconds.
        monotonic: Clock in seconds.
        max_groups: Maximum number of counted groups, and of exhausted ones.
    """

    def __init__(
        self,
        limit: int,
        period: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        max_groups: int = MAX_GROUPS,
    ) -> None:
        self._limit = limit
        self._period = period
        self._longest_retry_after = min(math.ceil(period), MAX_RETRY_AFTER)
        self._monotonic = monotonic
        self._max_groups = max_groups
        self._lock = ProcessLock()
        # By their end, because all windows are equally long and are added when they begin.
        self._windows: dict[str, _Window] = {}
        self._exhausted: dict[str, float] = {}
        self._lookups = TokenBucket(LOOKUPS_PER_SECOND, LOOKUPS_PER_SECOND, monotonic)

    def retry_after(self, address: Address | None, needs_lookup: Callable[[], bool]) -> int | None:
        """Return the seconds for ``Retry-After``, or None if an attempt is admitted.

        Args:
            address: Address of the caller.
            needs_lookup: Called if a shared look-up is left. False if the attempt must not take it.
        """
        if not self._exhausted:
            return None
        remaining = self._exhausted_until(_groups(address)) - self._monotonic()
        if remaining <= 0 or (self._lookups.has() and needs_lookup() and self._lookups.take()):
            return None
        return min(math.ceil(remaining), self._longest_retry_after)

    def count(self, address: Address | None) -> None:
        """Count a failed attempt."""
        groups = _groups(address)
        with self._lock:
            now = self._monotonic()
            if self._exhausted_until(groups) > now:
                # Shared look-ups must not prolong it.
                return
            for group, factor in zip(groups, _FACTORS, strict=False):
                window = self._window(group, now)
                window.failures += 1
                if window.failures >= self._limit * factor:
                    self._exhaust(group)

    def _exhausted_until(self, groups: tuple[str, ...]) -> float:
        return max(self._exhausted.get(group, -math.inf) for group in groups)

    def _window(self, group: str, now: float) -> _Window:
        windows = self._windows
        window = windows.get(group)
        if window is not None and window.ends_at > now:
            return window
        windows.pop(group, None)
        while windows and (len(windows) >= self._max_groups or next(iter(windows.values())).ends_at <= now):
            del windows[next(iter(windows))]
        windows[group] = _Window(now + self._period)
        return windows[group]

    def _exhaust(self, group: str) -> None:
        self._exhausted.pop(group, None)
        if len(self._exhausted) >= self._max_groups:
            del self._exhausted[next(iter(self._exhausted))]
        self._exhausted[group] = self._windows.pop(group).ends_at


def _groups(address: Address | None) -> tuple[str, ...]:
    return _UNKNOWN if address is None else address_groups(address)

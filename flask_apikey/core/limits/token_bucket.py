"""A limit on how often or how long something happens in a process."""

import time
from collections.abc import Callable

from flask_apikey.core.processes import ProcessLock


class TokenBucket:
    """A token bucket. It is full at first.

    Args:
        rate: Tokens that are added per second.
        capacity: Maximum number of tokens.
        monotonic: Clock in seconds.
    """

    def __init__(self, rate: float, capacity: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._capacity = self._tokens = capacity
        self._monotonic = monotonic
        self._updated_at = monotonic()
        self._lock = ProcessLock()

    def take(self, tokens: float = 1.0) -> bool:
        """Take tokens and return True, or return False if there are too few."""
        with self._lock:
            now = self._monotonic()
            self._tokens = self._available(now)
            self._updated_at = now
            if self._tokens < tokens:
                return False
            self._tokens -= tokens
            return True

    def has(self, tokens: float = 1.0) -> bool:
        """Return True if there are enough tokens at the moment."""
        return self._available(self._monotonic()) >= tokens

    def _available(self, now: float) -> float:
        return min(self._capacity, self._tokens + (now - self._updated_at) * self._rate)

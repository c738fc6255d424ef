"""The budget of comparisons with slow hashes, which cost processor time on purpose."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flask_apikey.core.errors import StorageError
from flask_apikey.core.limits.token_bucket import TokenBucket
from flask_apikey.core.processes import PerProcess, ProcessLock

CHECKS_AT_ONCE = 2
"""Slow comparisons that run at the same time in a process."""

CHECKS_PER_SECOND = 2
MAX_CHECKS = 20
"""Slow comparisons of a process in a row, before `CHECKS_PER_SECOND` counts."""

CHECKS_OF_A_ROW_PER_MINUTE = 6
MAX_CHECKS_OF_A_ROW = 10
"""Slow comparisons with one row in a row, so that whoever knows one visible prefix takes few from all others."""

MAX_ROWS = 1_000
"""Rows whose comparisons are counted. The oldest is forgotten first."""

MAX_WAIT = 1.0
"""Seconds that a comparison waits for others."""


class TooManySlowChecks(StorageError):
    """Too many slow hashes are being compared. Nothing is wrong with the storage."""

    def __init__(self) -> None:
        super().__init__("too many slow hashes of adopted keys are being checked, so this one was not; try again later")


class SlowChecks:
    """Slow comparisons of this process."""

    def __init__(self) -> None:
        self._all = TokenBucket(CHECKS_PER_SECOND, MAX_CHECKS)
        self._of_row: dict[str, TokenBucket] = {}
        self._lock = ProcessLock()
        self._running = PerProcess(lambda: threading.BoundedSemaphore(CHECKS_AT_ONCE))

    @contextmanager
    def admit(self, key_id: str) -> Iterator[None]:
        """Run a comparison with a row.

        Raises:
            TooManySlowChecks: The budget is used up.
        """
        # The budget of the row first: its attacker must not use up that of all.
        if not self._bucket_of(key_id).take() or not self._all.take():
            raise TooManySlowChecks
        running = self._running.get()
        if not running.acquire(timeout=MAX_WAIT):
            raise TooManySlowChecks
        try:
            yield
        finally:
            running.release()

    def _bucket_of(self, key_id: str) -> TokenBucket:
        with self._lock:
            bucket = self._of_row.get(key_id)
            if bucket is None:
                if len(self._of_row) >= MAX_ROWS:
                    del self._of_row[next(iter(self._of_row))]
                bucket = self._of_row[key_id] = TokenBucket(CHECKS_OF_A_ROW_PER_MINUTE / 60, MAX_CHECKS_OF_A_ROW)
            return bucket

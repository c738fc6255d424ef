"""Single flight: concurrent calls share one attempt."""

import threading
from collections.abc import Callable

Attempt = Callable[[], bool]


class SingleFlight:
    """Runs one attempt at a time, on behalf of every thread that waits.

    A slow attempt, as with a storage that hangs, delays all waiting threads once
    rather than one after the other.
    """

    def __init__(self) -> None:
        self._has_ended = threading.Condition()
        self._begun = 0
        self._ended = 0
        self._succeeded = True
        self.is_running = False

    def run(self, attempt: Attempt) -> bool:
        """Run an attempt, or share one that another thread starts after this call. Returns True if it succeeded.

        Waits for a running attempt, and for at most one more.
        """
        with self._has_ended:
            begun = self._begun
            while self.is_running and self._ended <= begun:
                self._has_ended.wait()
            if self._ended > begun:
                return self._succeeded
            self._begin()
        return self._run(attempt)

    def run_unless_running(self, attempt: Attempt) -> None:
        """Run an attempt unless one is running."""
        with self._has_ended:
            if self.is_running:
                return
            self._begin()
        self._run(attempt)

    def _begin(self) -> None:
        self._begun += 1
        self.is_running = True

    def _run(self, attempt: Attempt) -> bool:
        succeeded = False
        try:
            succeeded = attempt()
        finally:
            with self._has_ended:
                self._ended = self._begun
                self._succeeded = succeeded
                self.is_running = False
                self._has_ended.notify_all()
        return succeeded

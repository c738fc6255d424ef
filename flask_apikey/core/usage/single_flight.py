"""Attempts that are made one at a time, each for everybody who waits for it."""

import threading
from collections.abc import Callable

Attempt = Callable[[], bool]


class SingleFlight:
    """Makes one attempt at a time.

    What takes long, as a storage that hangs, then takes as long for each thread that
    waits, and not for one after the other.

    Attributes:
        is_running: Whether one is being made.
    """

    def __init__(self) -> None:
        self._has_ended = threading.Condition()
        self._begun = 0
        self._ended = 0
        self._succeeded = True
        self.is_running = False

    def join(self, attempt: Attempt) -> bool:
        """Whether an attempt succeeds that begins after this call, whichever thread makes it.

        Waits for one that began before, and for one more at most.

        Args:
            attempt: Makes one, where no other thread does.
        """
        with self._has_ended:
            begun = self._begun
            while self.is_running and self._ended <= begun:
                self._has_ended.wait()
            if self._ended > begun:
                return self._succeeded
            self._begin()
        return self._run(attempt)

    def make_unless_running(self, attempt: Attempt) -> None:
        """Make an attempt, unless one is being made."""
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

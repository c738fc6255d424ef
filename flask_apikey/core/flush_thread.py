"""Background thread that flushes at an interval."""

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress


class FlushThread:
    """Daemon thread that calls `flush` at an interval, and at once when woken.

    It references the owner of `flush` weakly, and ends when the owner is freed.
    """

    def __init__(self, flush: Callable[[], object], interval: float, name: str = "flask-apikey-usage") -> None:
        self._flush = weakref.WeakMethod(flush)
        self._interval = interval
        self._name = name
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopped = False
        self.is_started = False

    def start(self) -> None:
        """Start the thread unless it runs. A system that is out of threads leaves it unstarted."""
        with self._lock, suppress(RuntimeError):
            if not self.is_started:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
                self.is_started = True

    def wake(self) -> None:
        """Flush now rather than at the end of the interval."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread without another flush."""
        self._is_stopped = True
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._interval)
            self._wake.clear()
            flush = self._flush()
            if flush is None or self._is_stopped:
                return
            flush()
            del flush

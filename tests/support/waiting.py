"""Helpers for tests with threads."""

import threading
from contextlib import contextmanager

from flask_apikey.core.usage.single_flight import SingleFlight


class WatchedFlight(SingleFlight):
    """Single flight that counts the threads waiting for an attempt."""

    def __init__(self):
        super().__init__()
        self.waiting = threading.Semaphore(0)
        wait = self._has_ended.wait

        def watched_wait():
            # Waking this thread needs the lock, which is only released by waiting.
            self.waiting.release()
            wait()

        self._has_ended.wait = watched_wait


@contextmanager
def in_thread(work, *arguments):
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()

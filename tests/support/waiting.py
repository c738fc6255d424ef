"""Threads that wait for each other, and how a test knows that they do."""

import threading
from contextlib import contextmanager

from flask_apikey.core.usage.single_flight import SingleFlight


class WatchedFlight(SingleFlight):
    """Says how many threads have begun to wait for an attempt."""

    def __init__(self):
        super().__init__()
        self.waiting = threading.Semaphore(0)
        wait = self._has_ended.wait

        def watched_wait():
            # Who would wake this thread needs the lock that it gives back when it waits.
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

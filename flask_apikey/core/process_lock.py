"""A lock that survives a fork."""

import os
import threading


class ProcessLock:
    """Excludes the threads of one process from each other, and those of no other.

    What a thread of the parent held at a fork would stay held in the child, where
    that thread is not. So a child has a lock of its own.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    def __enter__(self) -> None:
        process = os.getpid()
        # setdefault is atomic: threads that come here together get the same one.
        lock = self._locks.get(process) or self._locks.setdefault(process, threading.Lock())
        lock.acquire()

    def __exit__(self, *_exc: object) -> None:
        self._locks[os.getpid()].release()

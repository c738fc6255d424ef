"""A lock that survives a fork."""

import os
import threading
from collections.abc import Callable
from typing import Protocol


class _Lock(Protocol):
    def acquire(self) -> bool: ...

    def release(self) -> None: ...


class ProcessLock:
    """Excludes the threads of one process from each other, and those of no other.

    What a thread of the parent held at a fork would stay held in the child, where
    that thread is not. So a child has a lock of its own.

    Args:
        is_reentrant: Whether the thread that holds it may enter it again.
    """

    def __init__(self, *, is_reentrant: bool = False) -> None:
        self._make: Callable[[], _Lock] = threading.RLock if is_reentrant else threading.Lock
        self._locks: dict[int, _Lock] = {}

    def __enter__(self) -> None:
        process = os.getpid()
        # setdefault is atomic: threads that come here together get the same one.
        lock = self._locks.get(process) or self._locks.setdefault(process, self._make())
        lock.acquire()

    def __exit__(self, *_exc: object) -> None:
        self._locks[os.getpid()].release()

"""Values and locks for each process, so that forking is safe."""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """One value for each process, created on first use.

    A child process keeps the values of its parents, because closing a connection there
    could end the session of the parent. Threads call `create` once.
    """

    def __init__(self, create: Callable[[], T]) -> None:
        self._create = create
        self._values: dict[int, T] = {}
        self._locks: dict[int, threading.RLock] = {}

    def get(self) -> T:
        """Return the value of this process, created if missing."""
        value = self._values.get(os.getpid())
        return self._created() if value is None else value

    def peek(self) -> T | None:
        """Return the value of this process, or None if there is none."""
        return self._values.get(os.getpid())

    def pop(self) -> T | None:
        """Remove and return the value of this process, or None if there is none."""
        return self._values.pop(os.getpid(), None)

    def _created(self) -> T:
        process = os.getpid()
        # setdefault() is atomic. After a fork, another thread of the parent may hold the parent's lock forever.
        with self._locks.setdefault(process, threading.RLock()):
            if process not in self._values:
                self._values[process] = self._create()
            return self._values[process]


class ProcessLock:
    """A reentrant lock between the threads of one process. A child process starts with it unlocked."""

    def __init__(self) -> None:
        self._lock = PerProcess(threading.RLock)

    def __enter__(self) -> None:
        self._lock.get().acquire()

    def __exit__(self, *_exc: object) -> None:
        self._lock.get().release()

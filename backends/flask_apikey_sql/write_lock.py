"""The write lock of a SQLite file of our own."""

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

if sys.platform != "win32":
    import fcntl

SQLITE_BUSY_TIMEOUT = 15.0
"""Default seconds to wait for another process that writes to the same SQLite file."""

WRITE_TIMEOUT = "flask_apikey_write_timeout"
"""Execution option of engines on a SQLite file of their own: seconds to wait for other writers."""

_LONGEST_PAUSE = 0.0002


@contextmanager
def write_turn(file: str | None, timeout: float) -> Iterator[None]:
    """Let the processes that use this library write to a SQLite file one after the other.

    SQLite's own pauses grow to 100 ms, so that some writers wait for seconds under
    load. To ask for an advisory lock costs so little that the pauses can be short.
    Nothing depends on it: without such a lock, and after the timeout, SQLite decides.

    Args:
        file: Path of the SQLite file, or None if it is not known.
        timeout: Seconds to wait for the turn.
    """
    descriptor = None if file is None else _opened(f"{file}-wal")
    if descriptor is None:
        yield
        return
    try:
        deadline = time.monotonic() + timeout
        while not _locks(descriptor) and time.monotonic() < deadline:
            # Random pauses give all writers the same chance.
            time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # no secret
        yield
    finally:
        _unlock(descriptor)
        os.close(descriptor)


def _opened(log: str) -> int | None:
    """Open the write-ahead log, which SQLite does not lock itself.

    To close one of the files that it locks would release its locks in this process.
    """
    if sys.platform == "win32":
        return None
    try:
        return os.open(log, os.O_RDONLY)
    except OSError:
        return None


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    # A child that was forked meanwhile keeps the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_UN)

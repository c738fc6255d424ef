"""Races between processes."""

import sys
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from importlib.metadata import entry_points
from multiprocessing import get_all_start_methods, get_context
from typing import Any

from flask_apikey.core.errors import AlreadyExists, Conflict, StorageError
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.storage.registry import ENTRY_POINT_GROUP

MakeBackend = Callable[[], Backend]
Race = Callable[[Callable[..., int], list[tuple[Any, ...]]], list[int]]

_JOIN_TIMEOUT = 120
_BARRIER_TIMEOUT = 60


def run_in_processes(
    make_backend: MakeBackend, target: Callable[..., int], arguments: list[tuple[Any, ...]]
) -> list[int]:
    """Run `target` in one process for each tuple of arguments, and return the results.

    It is called with a backend, a barrier for all processes, and its arguments.
    """
    context = _context(target)
    barrier = context.Barrier(len(arguments), timeout=_BARRIER_TIMEOUT)
    results = context.SimpleQueue()
    racers = [context.Process(target=_run, args=(target, make_backend, barrier, results, each)) for each in arguments]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(_JOIN_TIMEOUT)
        if racer.exitcode is None:
            racer.terminate()
            racer.join()
    statuses = [racer.exitcode for racer in racers]
    if any(statuses):
        raise AssertionError(f"processes ended with {statuses}")
    return [results.get() for _ in racers]


def count_wins(barrier: Any, attempts: Iterable[Callable[[], None]]) -> int:
    """Make each attempt together with the other racers, and count those that were first."""
    won = 0
    for attempt in attempts:
        barrier.wait()
        won += wins(attempt)
    return won


def wins(attempt: Callable[[], None]) -> bool:
    """Make an attempt, and return True if it was first."""
    with suppress(AlreadyExists, Conflict):
        attempt()
        return True
    return False


def _context(target: Callable[..., int]) -> Any:
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    # New processes then start with all imports and no open connections.
    context = get_context("forkserver")
    backends = [point.module for point in entry_points(group=ENTRY_POINT_GROUP) if point.module in sys.modules]
    context.set_forkserver_preload([target.__module__, *backends])
    return context


def _run(target: Callable[..., int], make_backend: MakeBackend, barrier: Any, results: Any, arguments: Any) -> None:
    try:
        with closing(make_backend()) as backend:
            with suppress(StorageError):
                backend.ping()
            results.put(target(backend, barrier, *arguments))
    except BaseException:
        # The other processes would wait for this one.
        barrier.abort()
        raise

"""Keys created by one process and by eight processes at once: throughput and slowest creation."""

import time
from collections.abc import Sequence
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.applications import PREFIX, deleted_afterwards, named_storages
from benchmarks.estimates import Estimate, median
from benchmarks.report import Report, Row, Target
from flask_apikey.core.keys.lifecycle import KeyLifecycle
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.core.times import utc_now

PROCESSES = 8
SLOWEST = 1_000.0

Created = tuple[list[int], list[str]]
"""Durations in nanoseconds, and ids."""


def run(directory: Path, seconds: float) -> Report:
    """Measure each storage for some seconds with one process and with eight, in turn and twice."""
    rows, targets = [], []
    for name, uri in named_storages(directory).items():
        with deleted_afterwards(uri) as stored:
            counts: dict[int, list[int]] = {1: [], PROCESSES: []}
            for processes in (1, PROCESSES, PROCESSES, 1):
                for durations, created in _create(uri, processes, seconds / 2):
                    counts[processes] += durations
                    stored.extend(created)
        for processes, durations in counts.items():
            rows.append(
                Row(
                    f"{name}, {processes} process{'es' if processes > 1 else ''}",
                    median(np.array(durations)),
                    {"keys/s": _exactly(len(durations) / seconds), "slowest, ms": _exactly(max(durations) / 1e6)},
                )
            )
        targets += [
            Target(
                f"{name}: keys of one process / of {PROCESSES}", 1.0, _exactly(len(counts[1]) / len(counts[PROCESSES]))
            ),
            Target(f"{name}: slowest, ms", SLOWEST, _exactly(max(counts[PROCESSES]) / 1e6)),
        ]
    return Report("Creating keys", rows, targets)


def _create(uri: str, processes: int, seconds: float) -> Sequence[Created]:
    context = get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    fernet_key = generate_fernet_key()
    creators = [
        context.Process(target=_create_repeatedly, args=(uri, fernet_key, seconds, barrier, results))
        for _ in range(processes)
    ]
    for creator in creators:
        creator.start()
    created = [results.get() for _ in creators]
    for creator in creators:
        creator.join()
    return created


def _create_repeatedly(uri: str, fernet_key: str, seconds: float, barrier: Any, results: Any) -> None:
    durations: list[int] = []
    ids: list[str] = []
    with closing(backend_for(uri)) as backend:
        repository = KeyRepository(backend, FernetKeyring(fernet_key), utc_now)
        lifecycle = KeyLifecycle(repository, IssuePolicy(prefix=PREFIX))
        ids.append(lifecycle.create(name="warm-up", metadata={}).record.id)
        barrier.wait()
        end = time.monotonic() + seconds
        while not durations or time.monotonic() < end:
            begin = time.perf_counter_ns()
            ids.append(lifecycle.create(name="created", owner="team-7", metadata={}).record.id)
            durations.append(time.perf_counter_ns() - begin)
    results.put((durations, ids))


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)

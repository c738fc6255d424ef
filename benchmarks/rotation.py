"""Duration of a rotation of the Fernet key in SQLite, and its effect on requests."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import applications
from benchmarks.estimates import Estimate, median, ratio
from benchmarks.report import Report, Row, Target
from benchmarks.timing import Contender, environ_with, measure, timed_call
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.core.storage.contract import KeyFilter

PRESENTED = 100
BLOCK = 0.1
POLL_INTERVAL = 0.001
COMMAND = (sys.executable, "-m", "flask", "--app", "benchmarks.command_app", "apikey", "rotation", "run")

WITHOUT = "a valid key, while the run is stopped"
DURING = "a valid key, while it goes on"

Times = NDArray[np.int64]


def run(directory: Path, warm_up: int, *, rotated: int) -> Report:
    """Time ``flask apikey rotation run``, and requests in this process during the run.

    The run is stopped and continued in turn, for a tenth of a second each, so that other
    load on the machine affects the requests with and without the run alike.
    """
    old, new = generate_fernet_key(), generate_fernet_key()
    database = directory / "keys.db"
    authorizations = applications.store_keys(database, old, stored=rotated, presented=min(PRESENTED, rotated))
    uri = f"sqlite:///{database}"
    app = applications.flask_apikey(uri, new, fallbacks=[old])
    backend = app.extensions["apikey"].backend
    contender = Contender(WITHOUT, app, [environ_with(each) for each in authorizations])
    measure([contender], 1, warm_up=warm_up)

    seconds, without, during = _rotate(
        contender, backend, {"STORAGE_URI": uri, "FERNET_KEY": new, "FERNET_KEY_FALLBACKS": [old]}
    )
    if dict(backend.rotation.count_seals()) != {FernetKeyring(new).fingerprint: rotated}:
        raise AssertionError("the run has left keys under the old Fernet key")
    contender.prove()
    slowdown = ratio(during, without)
    rows = [Row(WITHOUT, median(without)), Row(DURING, median(during), {"/ row above": slowdown})]
    targets = [
        Target(f"re-sealing {rotated:,} keys, s", 30.0, Estimate(seconds, seconds, seconds)),
        Target("median request during the run / without", 1.5, slowdown),
    ]
    return Report(f"A rotation of the Fernet key, {rotated:,} keys in SQLite", rows, targets)


def _rotate(contender: Contender, backend: Any, settings: dict[str, object]) -> tuple[float, Times, Times]:
    """Return the seconds the command ran, start of Python included, and equal samples without and with the run."""
    environment = {f"BENCHMARK_APIKEY_{name}": json.dumps(value) for name, value in settings.items()}
    (first,) = backend.find(KeyFilter(), after=None, limit=1)
    begin, stopped = time.monotonic(), 0.0
    without: list[int] = []
    during: list[int] = []
    with TemporaryFile() as printed:
        process = subprocess.Popen(COMMAND, env={**os.environ, **environment}, stdout=printed, stderr=printed)
        while backend.get(first.record.id).seal == first.seal and process.poll() is None:
            time.sleep(POLL_INTERVAL)
        while process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            stopped += _time_requests(contender, without, until=time.monotonic() + BLOCK)
            process.send_signal(signal.SIGCONT)
            _time_requests(contender, during, until=time.monotonic() + BLOCK, process=process)
        seconds = time.monotonic() - begin - stopped
        if process.returncode:
            printed.seek(0)
            raise AssertionError(f"the command ended with {process.returncode}: {printed.read().decode()}")
    return seconds, *_equal_samples(without, during)


def _time_requests(
    contender: Contender, times: list[int], *, until: float, process: "subprocess.Popen[bytes] | None" = None
) -> float:
    """Time requests until a moment or the end of a process, and return the seconds elapsed."""
    begin = time.monotonic()
    while time.monotonic() < until and (process is None or process.poll() is None):
        times.append(timed_call(contender.app, contender.environ(len(times))))
    return time.monotonic() - begin


def _equal_samples(*times: list[int]) -> tuple[Times, Times]:
    """Return as many times of each as of the shortest, evenly spread."""
    number = min(map(len, times))
    one, other = (np.array(each, dtype=np.int64)[np.linspace(0, len(each) - 1, number).astype(int)] for each in times)
    return one, other

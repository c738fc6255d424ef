"""A client with a valid key beside a client that sends junk keys as fast as it can, under gunicorn."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np

from benchmarks import applications, junk_client
from benchmarks.estimates import Estimate, Samples, median
from benchmarks.junk_client import TIMEOUT, answer
from benchmarks.report import Report, Row, Target
from flask_apikey.core.model import keystring
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key

VALID_CONNECTIONS = 4
JUNK_CONNECTIONS = 16

THROUGHPUT = 0.8
"""Minimum throughput of valid requests, as a share of that of a bare view beside the same junk."""

P99 = 1.5
"""Maximum 99th percentile of valid requests, as a multiple of that of a bare view beside the same junk."""

BARE = "bare view"
STORAGES = ("SQLite", "PostgreSQL")
WORKERS = {"sync": (), "gthread": ("--threads", "4")}
JUNK: dict[str, Callable[[], list[str]]] = {
    "malformed": lambda: ["malformed"],
    "random ids": lambda: [keystring.mint(applications.PREFIX, keystring.new_id()) for _ in range(20_000)],
}


def run(directory: Path, seconds: float) -> Report:
    """Measure each server for some seconds, in turn and twice, with each kind of junk and of worker."""
    (directory / "gunicorn.conf.py").write_text("control_socket_disable = True\n", encoding="utf-8")
    named = applications.named_storages(directory)
    storages = {name: named[name] for name in STORAGES if name in named}
    fernet_key = generate_fernet_key()
    key, stored = applications.make_key(FernetKeyring(fernet_key), 0)
    rows: list[Row] = []
    targets: list[Target] = []
    with ExitStack() as stack:
        for uri in storages.values():
            stack.enter_context(applications.stored_temporarily(uri, [stored]))
        for workers, options in WORKERS.items():
            with ExitStack() as servers:
                command = ("--worker-class", workers, "--workers", "2", *options)
                ports = {BARE: servers.enter_context(_serving(directory, "bare", command, {}))}
                for name, uri in storages.items():
                    environment = {"JUNK_STORAGE_URI": uri, "JUNK_FERNET_KEY": fernet_key}
                    ports[name] = servers.enter_context(_serving(directory, "guarded", command, environment))
                for junk in JUNK:
                    measured = _measure(ports, junk, key, seconds)
                    rows += _rows(f"{workers}, {junk}", measured, seconds)
                    targets += _targets(f"{workers}, {junk}", measured)
    title = f"A valid key on {VALID_CONNECTIONS} connections beside junk on {JUNK_CONNECTIONS}, gunicorn -w 2"
    return Report(title, rows, targets)


def _measure(ports: Mapping[str, int], junk: str, key: str, seconds: float) -> dict[str, tuple[Samples, int]]:
    """Return the times of valid requests in nanoseconds, and the number of junk requests, of each server."""
    names = list(ports)
    times: dict[str, list[int]] = {name: [] for name in names}
    sent = dict.fromkeys(names, 0)
    for name in [*names, *reversed(names)]:
        valid, junk_times = _beside(ports[name], junk, key, seconds / 2)
        times[name] += valid
        sent[name] += len(junk_times)
    return {name: (np.array(times[name]), sent[name]) for name in names}


def _rows(title: str, measured: Mapping[str, tuple[Samples, int]], seconds: float) -> list[Row]:
    return [
        Row(
            f"{title}, {name}",
            median(times),
            {
                "p99, ms": _exactly(_p99(times)),
                "requests/s": _exactly(len(times) / seconds),
                "junk/s": _exactly(sent / seconds),
            },
        )
        for name, (times, sent) in measured.items()
    ]


def _targets(title: str, measured: Mapping[str, tuple[Samples, int]]) -> Iterator[Target]:
    bare, _ = measured[BARE]
    for name, (times, _) in measured.items():
        if name != BARE:
            # As a target is an upper limit, the throughput is compared the other way round.
            yield Target(
                f"{title}, {name}: requests/s of a bare view / valid", 1 / THROUGHPUT, _exactly(len(bare) / len(times))
            )
            yield Target(f"{title}, {name}: p99 of valid / bare view", P99, _exactly(_p99(times) / _p99(bare)))


def _p99(times: Samples) -> float:
    return float(np.quantile(times, 0.99)) / 1e6


def _beside(port: int, junk: str, key: str, seconds: float) -> tuple[list[int], list[int]]:
    """Send valid requests and junk at the same time, and return the times of both."""
    jobs: list[dict[str, object]] = [
        {"keys": [key], "connections": VALID_CONNECTIONS, "accepted": True},
        {"keys": JUNK[junk](), "connections": JUNK_CONNECTIONS, "accepted": False},
    ]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, junk_client.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for _ in jobs
        ]
        for client, job in zip(clients, jobs, strict=True):
            _tell(client, json.dumps({**job, "port": port, "seconds": seconds}))
            _line_of(client)
        for client in clients:
            _tell(client, "go")
        valid, refused = (json.loads(_line_of(client)) for client in clients)
    return valid, refused


def _tell(client: "subprocess.Popen[str]", line: str) -> None:
    assert client.stdin is not None
    client.stdin.write(f"{line}\n")
    client.stdin.flush()


def _line_of(client: "subprocess.Popen[str]") -> str:
    assert client.stdout is not None
    return client.stdout.readline()


@contextmanager
def _serving(
    directory: Path, application: str, options: Sequence[str], environment: Mapping[str, str]
) -> Iterator[int]:
    """Serve an application with gunicorn, and yield its port."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = [str(Path(__file__).parents[1]), *(path for path in sys.path if path)]
    # Refusals are written to the standard error, as Python does unless it is configured.
    with (directory / f"{port}.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"),
                *(*options, f"benchmarks.junk_apps:{application}()"),
            ],
            cwd=directory,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(server, port)
        yield port
    finally:
        server.terminate()
        server.wait(TIMEOUT)


def _wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until a worker answers."""
    ends = time.monotonic() + TIMEOUT
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
                connection.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                if answer(connection):
                    return
        except OSError:
            if server.poll() is not None or time.monotonic() > ends:
                raise
            time.sleep(0.02)


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)

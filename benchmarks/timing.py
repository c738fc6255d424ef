"""Timing of requests at the WSGI level, with interleaved contenders."""

import gc
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import numpy as np
from flask import Flask
from numpy.typing import NDArray
from werkzeug.test import EnvironBuilder, run_wsgi_app

Environ = dict[str, Any]
Times = Mapping[str, NDArray[np.int64]]

SEED = 20_240_601


def environ_with(authorization: str | None = None, path: str = "/") -> Environ:
    """Build the WSGI environ of a GET over HTTPS."""
    headers = [] if authorization is None else [("Authorization", authorization)]
    return EnvironBuilder(path=path, base_url="https://localhost", headers=headers).get_environ()


@dataclass(frozen=True)
class Contender:
    """One application under measurement.

    Attributes:
        name: Name in the table.
        app: Application that serves the requests.
        environs: WSGI environs of its requests, sent in turn.
        status: Expected status of the responses.
    """

    name: str
    app: Flask
    environs: Sequence[Environ] = field(repr=False)
    status: int = 200

    def environ(self, number: int) -> Environ:
        """Copy the environ of a request, because the application changes it."""
        return dict(self.environs[number % len(self.environs)])

    def prove(self, number: int = 0) -> None:
        """Send one request, and fail unless the response has the expected status."""
        _, status, _ = run_wsgi_app(self.app, self.environ(number))
        if int(status.split()[0]) != self.status:
            raise AssertionError(f"{self.name} answers {status}, not {self.status}")


def measure(contenders: Sequence[Contender], samples: int, *, warm_up: int) -> Times:
    """Time `samples` requests of every contender.

    Each round calls every contender once, in random order. So a disturbance of the
    machine affects all contenders alike, and the contender before, which leaves its
    data in the processor's caches, varies. The responses are checked during
    `warm_up` untimed rounds.

    Returns:
        Times in nanoseconds, by the name of the contender.
    """
    for number in range(-warm_up, 0):
        for contender in contenders:
            contender.prove(number)
    order = list(contenders)
    times = {contender.name: np.zeros(samples, dtype=np.int64) for contender in contenders}
    draw = random.Random(SEED)  # noqa: S311  # an order, not a secret
    gc.collect()
    gc.freeze()
    try:
        for number in range(samples):
            draw.shuffle(order)
            for contender in order:
                times[contender.name][number] = timed_call(contender.app, contender.environ(number))
    finally:
        gc.unfreeze()
    return times


def timed_call(app: Flask, environ: Environ) -> int:
    """Send a request and return its time in nanoseconds. The application may change the environ."""
    begin = perf_counter_ns()
    response = app.wsgi_app(environ, _start_response)
    for _ in response:
        pass
    close = getattr(response, "close", None)  # PEP 3333: servers must call it if it exists
    if close is not None:
        close()
    return perf_counter_ns() - begin


def _start_response(*_: object) -> Any:
    return None

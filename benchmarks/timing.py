"""Times requests at the WSGI level, call by call, contender beside contender."""

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
    """What a server would pass for a GET over HTTPS."""
    headers = [] if authorization is None else [("Authorization", authorization)]
    return EnvironBuilder(path=path, base_url="https://localhost", headers=headers).get_environ()


@dataclass(frozen=True)
class Contender:
    """One of the things that are compared.

    Attributes:
        name: Stands in the table.
        app: Answers ``GET`` requests.
        environs: Its requests, which are sent in turn.
        status: What it must answer.
    """

    name: str
    app: Flask
    environs: Sequence[Environ] = field(repr=False)
    status: int = 200

    def environ(self, number: int) -> Environ:
        """A request of its own to spoil."""
        return dict(self.environs[number % len(self.environs)])

    def prove(self, number: int = 0) -> None:
        """Send one of the requests, and fail unless the answer is what it must be."""
        _, status, _ = run_wsgi_app(self.app, self.environ(number))
        if int(status.split()[0]) != self.status:
            raise AssertionError(f"{self.name} answers {status}, not {self.status}")


def measure(contenders: Sequence[Contender], samples: int, *, warm_up: int) -> Times:
    """Time every contender `samples` times, in nanoseconds.

    In each round every contender is called once, in an order that is drawn anew:
    whatever slows the machine down for a moment strikes them all alike, and none
    always finds the processor's caches as the same neighbour left them. The answers
    are looked at in `warm_up` rounds before, which are not timed.
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
    """How long an application takes for a request, in nanoseconds. The environ is spoilt."""
    begin = perf_counter_ns()
    response = app.wsgi_app(environ, _start_response)
    for _ in response:
        pass
    close = getattr(response, "close", None)  # PEP 3333: servers call it where there is one
    if close is not None:
        close()
    return perf_counter_ns() - begin


def _start_response(*_: object) -> Any:
    return None

"""Test if the time of a refusal reveals its reason. See docs/explanation/timing.rst.

Requests are timed at the WSGI level, in the process that serves them. A socket would
only add noise, and hide differences that exist here.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask

from benchmarks import applications
from benchmarks.estimates import Estimate, median
from benchmarks.report import Report, Row, Target
from benchmarks.timing import SEED, Contender, Environ, Times, environ_with, measure
from flask_apikey.core.audit_log import LOGGER_NAME
from flask_apikey.core.keys.adopted_lookup import AdoptedRow, FoundSecret
from flask_apikey.core.keys.authenticator import Authenticator, Verdict
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.limits.token_bucket import TokenBucket
from flask_apikey.core.model import keystring
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.logs import JSONFormatter
from flask_apikey.signals import api_key_refused

SAMPLES = 5_000

LIMIT = 50.0
"""Maximum difference in microseconds."""

CONFIDENCE = 0.99
RESAMPLES = 2_000
BLOCK = 50
"""Consecutive rounds that are resampled together, because a disturbance lasts for several rounds."""

KEYS = 100
ADDRESSES = 1_000
"""Number of caller addresses. Repeated failures of one address would exhaust its budget."""

POSTGRESQL = "FLASK_APIKEY_TEST_POSTGRESQL_URI"

MALFORMED, BAD_CHECKSUM, UNKNOWN, WRONG_SECRET = "malformed", "bad checksum", "unknown id", "wrong secret"
REVOKED, EXPIRED, ADDRESS_REFUSED = "revoked", "expired", "address refused"

VERDICTS = {
    MALFORMED: Verdict.MALFORMED,
    BAD_CHECKSUM: Verdict.MALFORMED,
    UNKNOWN: Verdict.UNKNOWN,
    WRONG_SECRET: Verdict.WRONG_SECRET,
    REVOKED: Verdict.REVOKED,
    EXPIRED: Verdict.EXPIRED,
    ADDRESS_REFUSED: Verdict.ADDRESS_REFUSED,
}

HIDDEN = {(MALFORMED, WRONG_SECRET), (UNKNOWN, WRONG_SECRET)}
"""Pairs that differ without the defences: the first is faster without deadline or decoy."""


@dataclass(frozen=True)
class Pair:
    """Comparison of two kinds of refusal.

    Attributes:
        first: First kind.
        second: Second kind.
        difference: Median of the first minus median of the second, in microseconds.
        slower: Share of the rounds in which the first took longer. 0.5 means no difference.
    """

    first: str
    second: str
    difference: Estimate
    slower: Estimate

    @property
    def distance(self) -> Estimate:
        """Absolute difference, with an interval that covers both signs."""
        low, high = self.difference.low, self.difference.high
        return Estimate(abs(self.difference.value), max(low, -high, 0.0), max(-low, high))


class WholeInterval(Target):
    """Target that the whole confidence interval must meet."""

    @property
    def met(self) -> bool:
        """True if no value in the interval exceeds the limit."""
        return self.measured.high <= self.limit


@dataclass(frozen=True)
class Comparison(Report):
    """Report with the pairs of each storage, with and without the defences."""

    pairs: Mapping[str, Sequence[Pair]] = field(default_factory=dict)

    def table(self) -> str:
        """Format the report as text."""
        return "\n\n".join([super().table(), *(_table(name, pairs) for name, pairs in self.pairs.items())])

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to JSON."""
        pairs = {name: [asdict(pair) for pair in pairs] for name, pairs in self.pairs.items()}
        return {**super().to_dict(), "confidence": CONFIDENCE, "pairs": pairs}


class WithoutDecoy(Authenticator):
    """Authenticator that unseals nothing for an unknown id."""

    def _proven_position(
        self, stored: StoredKey, credentials: Credentials, adopted: AdoptedRow | None
    ) -> FoundSecret | None:
        return None if stored is self._decoy else super()._proven_position(stored, credentials, adopted)


def run(directory: Path, samples: int, warm_up: int) -> Report:
    """Compare all kinds of refusal, with the defaults and without the defences."""
    storages = {"SQLite": f"sqlite:///{directory / 'keys.db'}"}
    if os.environ.get(POSTGRESQL):
        storages["PostgreSQL"] = os.environ[POSTGRESQL]
    rows: list[Row] = []
    targets: list[Target] = []
    pairs: dict[str, Sequence[Pair]] = {}
    with _logging_to(directory / "audit.log"):
        for storage, uri in storages.items():
            fernet_key = generate_fernet_key()
            with _presented(uri, fernet_key) as presented:
                defended = _times(_defended(uri, fernet_key), presented, samples, warm_up)
                undefended = _times(_undefended(uri, fernet_key), presented, samples, warm_up)
            off = f"{storage}, deadline and decoy off"
            pairs[storage], pairs[off] = _pairs(defended), _pairs(undefended)
            rows += [Row(f"{storage}, {name}", median(times)) for name, times in defended.items()]
            rows += [Row(f"{off}, {name}", median(times)) for name, times in undefended.items()]
            targets += [_no_difference(storage, pairs[storage]), *_differences(off, pairs[off])]
    return Comparison(f"Refusals, {KEYS} keys of each kind stored", rows, targets, pairs)


def _defended(uri: str, fernet_key: str) -> Flask:
    app = applications.flask_apikey(uri, fernet_key)
    # Requests come faster than a process would delay their refusals.
    app.extensions["apikey"].enforcement._waiting = TokenBucket(0, float("inf"))
    return app


def _undefended(uri: str, fernet_key: str) -> Flask:
    app = applications.flask_apikey(uri, fernet_key, min_failure_time=0)
    state = app.extensions["apikey"]
    authenticator = WithoutDecoy(state.backend, state.ring, state.clock)
    state.enforcement._authenticator = lambda: authenticator
    return app


def _times(app: Flask, presented: Mapping[str, Sequence[str]], samples: int, warm_up: int) -> Times:
    contenders = []
    for name, keys in presented.items():
        status = 403 if VERDICTS[name] is Verdict.ADDRESS_REFUSED else 401
        environs = [_environ(keys[number % len(keys)], number) for number in range(ADDRESSES)]
        contenders.append(Contender(name, app, environs, status=status))
        _prove_verdict(contenders[-1])
    try:
        return measure(contenders, samples, warm_up=warm_up)
    finally:
        app.extensions["apikey"].backend.close()


def _environ(key: str, number: int) -> Environ:
    return {**environ_with(f"Api-Key {key}"), "REMOTE_ADDR": str(IPv4Address("10.0.0.0") + number)}


def _prove_verdict(contender: Contender) -> None:
    """Send one request, and fail unless it is refused for the expected reason."""
    verdicts = []

    def note(_: object, decision: Any) -> None:
        verdicts.append(decision.verdict)

    with api_key_refused.connected_to(note, contender.app):
        contender.prove()
    if verdicts != [VERDICTS[contender.name]]:
        raise AssertionError(f"{contender.name} is refused as {verdicts}")


@contextmanager
def _presented(uri: str, fernet_key: str) -> Iterator[Mapping[str, Sequence[str]]]:
    """Store keys for every kind of refusal, and remove them at the end."""
    ring = FernetKeyring(fernet_key)
    now = datetime.now(timezone.utc)
    changes: list[tuple[str, dict[str, Any]]] = [
        (WRONG_SECRET, {}),
        (REVOKED, {"revoked_at": now}),
        (EXPIRED, {"expires_at": now - timedelta(days=1)}),
        (ADDRESS_REFUSED, {"allowed_ips": ("192.0.2.0/24",)}),
    ]
    presented: dict[str, list[str]] = {name: [] for name in VERDICTS}
    rows = []
    for number in range(4 * KEYS):
        name, change = changes[number % len(changes)]
        key, stored = applications.make_key(ring, number, **change)
        rows.append(stored)
        presented[name].append(key)
    ids = [key.split("_")[-2] for key in presented[WRONG_SECRET]]
    presented[WRONG_SECRET] = [keystring.mint(applications.PREFIX, key_id) for key_id in ids]
    presented[UNKNOWN] = [keystring.mint(applications.PREFIX, keystring.new_id()) for _ in ids]
    presented[BAD_CHECKSUM] = [f"{key[:-1]}{'1' if key[-1] == '0' else '0'}" for key in presented[WRONG_SECRET]]
    presented[MALFORMED] = ["malformed"]
    with applications.stored_temporarily(uri, rows):
        yield presented


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Log every refusal as a line of JSON to a file, as in production."""
    logger = logging.getLogger(LOGGER_NAME)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JSONFormatter())
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
        handler.close()


def _pairs(times: Times) -> list[Pair]:
    """Compare every pair of kinds, with intervals by a circular block bootstrap of whole rounds."""
    names = list(times)
    samples = np.stack([times[name] for name in names])
    rounds = samples.shape[1]
    chosen = list(combinations(range(len(names)), 2))
    first, second = (list(each) for each in zip(*chosen, strict=True))
    slower = np.sign(samples[first] - samples[second]) / 2 + 0.5
    block = np.arange(min(BLOCK, rounds))
    draw = np.random.default_rng(SEED)
    medians = np.zeros((RESAMPLES, len(names)))
    shares = np.zeros((RESAMPLES, len(chosen)))
    for number in range(RESAMPLES):
        starts = draw.integers(rounds, size=(-(-rounds // len(block)), 1))
        drawn = ((starts + block) % rounds).ravel()[:rounds]
        medians[number] = np.median(samples[:, drawn], axis=1) / 1000
        shares[number] = slower[:, drawn].mean(axis=1)
    measured = np.median(samples, axis=1) / 1000
    return [
        Pair(
            names[one],
            names[other],
            _estimate(measured[one] - measured[other], medians[:, one] - medians[:, other]),
            _estimate(slower[number].mean(), shares[:, number]),
        )
        for number, (one, other) in enumerate(chosen)
    ]


def _estimate(value: Any, resampled: Any) -> Estimate:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(value), float(low), float(high))


def _no_difference(storage: str, pairs: Sequence[Pair]) -> Target:
    largest = max(pairs, key=lambda pair: pair.distance.high)
    promise = f"{storage}: |{largest.first} - {largest.second}|, the largest of {len(pairs)} pairs, µs"
    return WholeInterval(promise, LIMIT, largest.distance)


def _differences(storage: str, pairs: Sequence[Pair]) -> list[Target]:
    """Prove that the benchmark can find differences, where no defence hides them."""
    return [
        WholeInterval(f"{storage}: {pair.first} - {pair.second}, µs", 0.0, pair.difference)
        for pair in pairs
        if (pair.first, pair.second) in HIDDEN
    ]


def _table(storage: str, pairs: Sequence[Pair]) -> str:
    lines = [f"{storage:<44}{'difference':>13}{'99 % interval':>22}{'slower':>9}{'99 % interval':>18}"]
    for pair in pairs:
        difference, slower = pair.difference, pair.slower
        lines.append(
            f"{f'{pair.first} - {pair.second}':<44}"
            f"{difference.value:>10.1f} µs{f'{difference.low:.1f} to {difference.high:.1f}':>22}"
            f"{slower.value:>9.2f}{f'{slower.low:.2f} to {slower.high:.2f}':>18}"
        )
    return "\n".join(lines)

"""Security events, and their log."""

import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from flask_apikey.core.addresses import address_groups, parse_address
from flask_apikey.core.processes import ProcessLock
from flask_apikey.core.text import redacted, sanitized

LOGGER_NAME = "flask_apikey"

LEAK = "leak"
"""Event of a leaked secret that was reported."""

WOULD_REFUSE = "would_refuse"
"""Event of a request that passed in report mode and would be refused otherwise."""

MAX_FAILURES_LOGGED = 10
"""Maximum number of failures logged per address, reason and period."""

MAX_LINES = 50
"""Maximum number of failures logged per reason and period, from all addresses together."""

MAX_SUMMARIES = 10
"""Maximum number of addresses summarized one by one per reason and period."""

SUMMARY_PERIOD = 60.0
"""Seconds between summaries of the other failures."""

MAX_ADDRESSES = 10_000
"""Maximum number of counters per period. Further addresses share one."""

_Kind = tuple[str, str | None]
_Source = tuple[_Kind, str | None]

_WARNINGS = {"key.expiring", LEAK}
_ERRORS = {"storage", "owner_loader", "plan", "rate_storage", "quota_storage"}
_WITH_REASONS = {"authentication", WOULD_REFUSE}
_ALWAYS_LOGGED = {*_ERRORS, "configuration"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Security event. It contains no secret, no digest and no query string.

    Attributes:
        event: ``authentication``, ``would_refuse``, ``exposure``, ``leak``, ``storage``, ``owner_loader``, ``plan``,
            ``rate_storage``, ``quota_storage``, ``configuration``,
            ``key.created``, ``key.updated``, ``key.rolled``, ``key.secrets_ended``,
            ``key.revealed``, ``key.suspended``, ``key.resumed``, ``key.revoked``, ``key.pruned``,
            ``key.repaired``, ``key.limits_reset``, ``key.expiring``,
            ``rotation.started``, ``rotation.run``, ``rotation.finished`` or ``rotation.cancelled``.
        outcome: ``success`` or ``failure``.
        reason: The reason, in one word or line.
        key_id: The public id of the key.
        owner: The id of the key's owner.
        actor: The name of who made a change.
        address: The caller's address.
        method: The HTTP method.
        endpoint: The URL rule of the request.
        request_id: The ``X-Request-ID`` of the request.
        count: Number of events in a summary.
    """

    event: str
    outcome: str = "success"
    reason: str | None = None
    key_id: str | None = None
    owner: str | None = None
    actor: str | None = None
    address: str | None = None
    method: str | None = None
    endpoint: str | None = None
    request_id: str | None = None
    count: int = 1


FIELDS = tuple(field.name for field in fields(AuditEvent))


class AuditLog:
    """Log of security events, written to the logger ``flask_apikey``.

    Repeated failures are summarized, so that an attacker cannot flood the log. Unless
    the log is enabled, it has only failures of the storage or the owner loader, and
    configuration warnings.
    """

    def __init__(self, *, is_enabled: bool = True, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._is_enabled = is_enabled
        self._logger = logging.getLogger(LOGGER_NAME)
        self._repeated = _RepeatedFailures(monotonic)

    @property
    def writes_successes(self) -> bool:
        """True if successes are logged. Callers need not create their events otherwise."""
        return self._is_enabled and self._logger.isEnabledFor(logging.INFO)

    def record(self, event: AuditEvent) -> None:
        """Log an event, or count it for the next summary."""
        if not self._is_enabled and event.event not in _ALWAYS_LOGGED:
            return
        for summary in self._repeated.due():
            self._write(summary)
        if event.outcome == "success" or self._repeated.admits(event):
            self._write(event)

    def _write(self, event: AuditEvent) -> None:
        level = _level(event)
        if not self._logger.isEnabledFor(level):
            return
        values = {name: _safe(getattr(event, name)) for name in FIELDS}
        message = " ".join(f"{name}={value}" for name, value in values.items() if value is not None and value != 1)
        self._logger.log(level, "%s", message, extra=values)


@dataclass(slots=True)
class _Tally:
    failures: int = 0
    logged: int = 0

    @property
    def unlogged(self) -> int:
        return self.failures - self.logged


class _RepeatedFailures:
    """Failure counters per address (IPv6: per /64) within a period.

    Each reason has its own counters and its own maximum of lines: guesses must not hide
    refusals of a genuine key.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = ProcessLock()
        self._period_ends = monotonic() + SUMMARY_PERIOD
        # Counters only: values from requests could fill the memory.
        self._tallies: dict[_Source, _Tally] = {}
        self._lines: Counter[_Kind] = Counter()

    def admits(self, event: AuditEvent) -> bool:
        # A storage's error message may differ each time.
        kind = (event.event, event.reason if event.event in _WITH_REASONS else None)
        source = (kind, _group(event.address))
        with self._lock:
            if source not in self._tallies and len(self._tallies) >= MAX_ADDRESSES:
                source = (kind, None)
            tally = self._tallies.setdefault(source, _Tally())
            tally.failures += event.count
            if tally.failures > MAX_FAILURES_LOGGED or self._lines[kind] >= MAX_LINES:
                return False
            tally.logged += event.count
            self._lines[kind] += 1
            return True

    def due(self) -> list[AuditEvent]:
        now = self._monotonic()
        if now < self._period_ends:
            return []
        with self._lock:
            tallies, self._tallies = self._tallies, {}
            self._lines.clear()
            self._period_ends = now + SUMMARY_PERIOD
        unlogged: dict[_Kind, dict[str | None, int]] = {}
        for (kind, group), tally in tallies.items():
            if tally.unlogged > 0:
                unlogged.setdefault(kind, {})[group] = tally.unlogged
        return [summary for (event, _), counts in unlogged.items() for summary in _summaries(event, counts)]


def _summaries(event: str, counts: dict[str | None, int]) -> Iterator[AuditEvent]:
    """Summarize the addresses with most failures one by one, and all others together."""
    frequent = heapq.nlargest(MAX_SUMMARIES, (group for group in counts if group is not None), key=counts.__getitem__)
    for group in frequent:
        yield AuditEvent(event=event, outcome="failure", reason="repeated", address=group, count=counts.pop(group))
    if counts:
        yield AuditEvent(event=event, outcome="failure", reason="repeated", count=sum(counts.values()))


def _group(address: str | None) -> str | None:
    parsed = None if address is None else parse_address(address)
    return address if parsed is None else address_groups(parsed)[0]


def _level(event: AuditEvent) -> int:
    if event.event in _ERRORS:
        return logging.ERROR
    return logging.INFO if event.outcome == "success" and event.event not in _WARNINGS else logging.WARNING


def _safe(value: str | int | None) -> str | int | None:
    return redacted(sanitized(value)) if isinstance(value, str) else value

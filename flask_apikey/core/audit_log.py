"""Security events: what they hold, and how they are written to the log."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from flask_apikey.core.model.keystring import redacted
from flask_apikey.core.processes import ProcessLock
from flask_apikey.core.text import sanitized

LOGGER_NAME = "flask_apikey"

MAX_FAILURES_LOGGED = 10
"""So many failures from one address are logged one by one, in each period."""

SUMMARY_PERIOD = 60.0
"""Seconds after which what was not logged one by one is summarised."""

MAX_ADDRESSES = 10_000
_WARNINGS = {"key.expiring"}
_ALWAYS_WRITTEN = {"storage", "configuration"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Something that matters for security. It holds no secret, no digest and no query string.

    Attributes:
        event: What it is about: ``authentication``, ``exposure``, ``storage``,
            ``configuration``, or ``key.created``, ``key.updated``, ``key.rolled``,
            ``key.secrets_ended``, ``key.revealed``, ``key.revoked``, ``key.pruned``, ``key.expiring``,
            or ``rotation.started``, ``rotation.run``, ``rotation.finished``, ``rotation.cancelled``.
        outcome: ``success`` or ``failure``.
        reason: Why, in one word or line.
        key_id: The public id that it concerns.
        owner: The owner's id.
        address: Where the caller is.
        method: Of the HTTP request.
        endpoint: The URL rule that the request matched.
        request_id: What the request says in ``X-Request-ID``.
        count: How many events this one stands for.
    """

    event: str
    outcome: str = "success"
    reason: str | None = None
    key_id: str | None = None
    owner: str | None = None
    address: str | None = None
    method: str | None = None
    endpoint: str | None = None
    request_id: str | None = None
    count: int = 1


FIELDS = tuple(field.name for field in fields(AuditEvent))


class AuditLog:
    """Writes events to the logger ``flask_apikey``.

    Failures that repeat are summarised: an attacker cannot flood the log.

    Args:
        is_enabled: Whether anything is written but failures of the storage and warnings about the configuration.
        monotonic: Seconds, for the periods of summaries.
    """

    def __init__(self, *, is_enabled: bool = True, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._is_enabled = is_enabled
        self._logger = logging.getLogger(LOGGER_NAME)
        self._repeated = _RepeatedFailures(monotonic)

    @property
    def writes_successes(self) -> bool:
        """Whether it is worth making events of what succeeds."""
        return self._is_enabled and self._logger.isEnabledFor(logging.INFO)

    def record(self, event: AuditEvent) -> None:
        """Write an event, or count it for the next summary."""
        if not self._is_enabled and event.event not in _ALWAYS_WRITTEN:
            return
        for summary in self._repeated.due():
            self._write(summary)
        if event.outcome == "success" or self._repeated.admits(event):
            self._write(event)

    def _write(self, event: AuditEvent) -> None:
        values = {name: _safe(getattr(event, name)) for name in FIELDS}
        said = " ".join(f"{name}={value}" for name, value in values.items() if value is not None and value != 1)
        self._logger.log(_level(event), "%s", said, extra=values)


class _RepeatedFailures:
    """Counts the failures of each address within a period.

    Each reason of a refusal by itself: guesses must not hide that a genuine key
    is refused.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = ProcessLock()
        self._period_ends = monotonic() + SUMMARY_PERIOD
        # Of a failure nothing is kept but this: what a caller sends could fill the memory.
        self._counts: dict[tuple[str, str | None, str | None], int] = {}

    def admits(self, event: AuditEvent) -> bool:
        # What a storage says of its failure can be different each time.
        reason = event.reason if event.event == "authentication" else None
        source = (event.event, reason, event.address)
        with self._lock:
            if source not in self._counts and len(self._counts) >= MAX_ADDRESSES:
                source = (event.event, reason, None)
            count = self._counts[source] = self._counts.get(source, 0) + event.count
            return count <= MAX_FAILURES_LOGGED

    def due(self) -> list[AuditEvent]:
        now = self._monotonic()
        if now < self._period_ends:
            return []
        with self._lock:
            counts, self._counts = self._counts, {}
            self._period_ends = now + SUMMARY_PERIOD
        return [
            AuditEvent(
                event=event,
                outcome="failure",
                reason="repeated",
                address=address,
                count=count - MAX_FAILURES_LOGGED,
            )
            for (event, _, address), count in counts.items()
            if count > MAX_FAILURES_LOGGED
        ]


def _level(event: AuditEvent) -> int:
    if event.event == "storage":
        return logging.ERROR
    return logging.INFO if event.outcome == "success" and event.event not in _WARNINGS else logging.WARNING


def _safe(value: str | int | None) -> str | int | None:
    return redacted(sanitized(value)) if isinstance(value, str) else value

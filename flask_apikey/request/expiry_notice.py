"""The notice that is given of a key that ends soon."""

from dataclasses import replace
from datetime import datetime, timedelta

from flask import Flask, Response
from werkzeug.http import http_date

from flask_apikey.core.audit_log import AuditEvent, AuditLog
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.processes import ProcessLock
from flask_apikey.signals import api_key_expiring

MAX_REMEMBERED = 10_000
"""Of so many ends it is remembered that they were told of."""

_INTERVAL = timedelta(days=1)


class ExpiryNotice:
    """Tells callers with each answer, and the application once a day, that a key ends soon.

    Args:
        app: The application.
        period: How long before the end; zero for no notice at all.
        audit: Where security events go.
    """

    def __init__(self, app: Flask, period: timedelta, audit: AuditLog) -> None:
        self._app = app
        self._period = period
        self._audit = audit
        self._told_at: dict[tuple[str, datetime], datetime] = {}
        self._lock = ProcessLock()

    def is_due(self, decision: Decision) -> bool:
        """Whether what was presented of an accepted key ends within the period."""
        at, ends_at = decision.at, decision.ends_at
        return at is not None and ends_at is not None and ends_at - at <= self._period

    def give(self, decision: Decision, response: Response, context: AuditEvent) -> None:
        """Say it in the answer, and to the application unless it was told within the last day.

        Args:
            decision: On an accepted key.
            response: The answer. A ``Sunset`` that it has already stays.
            context: What an event has of the present request.
        """
        key, at, ends_at = decision.key, decision.at, decision.ends_at
        if key is None or at is None or ends_at is None:
            return
        if "Sunset" not in response.headers:
            response.headers["Sunset"] = http_date(ends_at)
        if self._is_news((key.id, ends_at), at):
            reason = f"ends {ends_at.isoformat()}"
            self._audit.record(replace(context, event="key.expiring", reason=reason, key_id=key.id, owner=key.owner))
            api_key_expiring.send(self._app, key=key, ends_at=ends_at)

    def _is_news(self, end: tuple[str, datetime], at: datetime) -> bool:
        with self._lock:
            told_at = self._told_at.get(end)
            # A clock that was ahead and is set right must not silence it until the time comes again.
            if told_at is not None and timedelta(0) <= at - told_at < _INTERVAL:
                return False
            # Removed first, so that the one that was told of longest ago stands in front.
            self._told_at.pop(end, None)
            if len(self._told_at) >= MAX_REMEMBERED:
                del self._told_at[next(iter(self._told_at))]
            self._told_at[end] = at
            return True

"""Notice of keys that expire soon: the ``Sunset`` header and the signal ``api_key_expiring``."""

from dataclasses import replace
from datetime import datetime, timedelta

from flask import Flask, Response
from werkzeug.http import http_date

from flask_apikey.core.audit_log import AuditEvent, AuditLog
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.processes import ProcessLock
from flask_apikey.signals import api_key_expiring

MAX_REMEMBERED = 10_000
"""Maximum number of expiries whose last signal is remembered."""

_SIGNAL_INTERVAL = timedelta(days=1)


class ExpiryNotice:
    """Announces the expiry of keys: in each response, and to the application once a day."""

    def __init__(self, app: Flask, period: timedelta, audit: AuditLog) -> None:
        self._app = app
        self._period = period
        self._audit = audit
        self._signalled_at: dict[tuple[str, datetime], datetime] = {}
        self._lock = ProcessLock()

    def is_due(self, decision: Decision) -> bool:
        """Return True if the presented secret of an accepted key expires within the period."""
        at, ends_at = decision.at, decision.ends_at
        return at is not None and ends_at is not None and ends_at - at <= self._period

    def announce(self, decision: Decision, response: Response, context: AuditEvent) -> None:
        """Set the ``Sunset`` header unless the view did, and signal the expiry once a day."""
        key, at, ends_at = decision.key, decision.at, decision.ends_at
        if key is None or at is None or ends_at is None:
            return
        if "Sunset" not in response.headers:
            response.headers["Sunset"] = http_date(ends_at)
        if self._is_signal_due((key.id, ends_at), at):
            reason = f"ends {ends_at.isoformat()}"
            self._audit.record(replace(context, event="key.expiring", reason=reason, key_id=key.id, owner=key.owner))
            api_key_expiring.send(self._app, key=key, ends_at=ends_at)

    def _is_signal_due(self, expiry: tuple[str, datetime], at: datetime) -> bool:
        with self._lock:
            signalled_at = self._signalled_at.get(expiry)
            # A clock that was ahead and was corrected must not suppress signals until it catches up.
            if signalled_at is not None and timedelta(0) <= at - signalled_at < _SIGNAL_INTERVAL:
                return False
            # Removed first, so that the dict stays ordered by the time of the signal.
            self._signalled_at.pop(expiry, None)
            if len(self._signalled_at) >= MAX_REMEMBERED:
                del self._signalled_at[next(iter(self._signalled_at))]
            self._signalled_at[expiry] = at
            return True

"""Stored usage without requests."""

from itertools import count

from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.usage.last_use import current_secret

BOOKS, BOOK = "/books", "/books/<int:book_id>"


class StoredUsage:
    """Stores requests and last uses, as a counting process does."""

    def __init__(self, storage):
        self._storage = storage
        self._numbers = count(1)

    def __call__(
        self, key_id, at, requests=1, *, endpoint=BOOKS, method="GET", status="2xx", reason="", owner="", span=1
    ):
        hour = int(at.timestamp()) // 3_600
        label = UsageLabel(key_id, hour, endpoint, method, "" if reason else status, reason, owner, span)
        self._add(at, rows=[UsageRow(label, requests)])

    def passed(self, key_id, at, requests, reason, *, endpoint=BOOKS, owner=""):
        """Store requests that report mode let pass."""
        hour = int(at.timestamp()) // 3_600
        label = UsageLabel(key_id, hour, endpoint, "GET", "2xx", reason, owner)
        self._add(at, rows=[UsageRow(label, requests)])

    def last(self, record, at, *, address="203.0.113.7", secret=None):
        self._add(at, last_uses=[LastUse(record.id, current_secret(record) if secret is None else secret, at, address)])

    def _add(self, at, rows=(), last_uses=()):
        self._storage.usage.add(UsageBatch("a-writer", next(self._numbers), rows, last_uses, at))

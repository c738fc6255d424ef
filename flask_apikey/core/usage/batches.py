"""Numbered batches of usage, and their retry."""

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime

from flask_apikey.core.addresses import Address
from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.times import Clock, to_microseconds
from flask_apikey.core.usage.endpoint_limit import CountLabel, EndpointLimit

Secret = tuple[str, datetime | None]
"""A key id and the time its current secret was issued; None for its previous secrets."""

Use = tuple[datetime, Address | None]
"""The time of a request and the caller's address."""

Buffered = tuple[Mapping[CountLabel, int], Mapping[Secret, Use]]
"""Counts and last uses taken from the buffer."""


class BatchSender:
    """Sends the counts of one process to the storage as numbered batches.

    A batch whose outcome is unknown is retried unchanged: the storage ignores a number
    that it already has. So nothing is counted twice or lost. Not thread-safe.
    """

    def __init__(self, storage: UsageStore, max_endpoints: int, clock: Clock) -> None:
        self._storage = storage
        self._endpoint_limit = EndpointLimit(storage, max_endpoints)
        self._clock = clock
        self._writer = secrets.token_hex(8)
        self._number = 0
        self._taken: Buffered | None = None
        self._pending: UsageBatch | None = None

    @property
    def pending_rows(self) -> int:
        """Number of rows taken from the buffer and not known to be stored."""
        if self._pending is not None:
            return len(self._pending.rows)
        return 0 if self._taken is None else len(self._taken[0])

    def send(self, take: Callable[[], Buffered]) -> None:
        """Retry the pending batch, then send what `take` removes from the buffer. A failed batch stays pending."""
        # Two batches at most: new requests keep filling the buffer.
        for _ in range(2):
            self._pending = self._pending or self._next_batch(take)
            if self._pending is None:
                break
            self._storage.add(self._pending)
            self._pending = None

    def _next_batch(self, take: Callable[[], Buffered]) -> UsageBatch | None:
        # Kept until the batch exists: reading the endpoints of a key may fail.
        counts, last_uses = self._taken = self._taken or take()
        rows = self._endpoint_limit.apply(counts)
        self._taken = None
        if not rows:
            return None
        self._number += 1
        return UsageBatch(
            self._writer,
            self._number,
            tuple(UsageRow(UsageLabel(*label), count) for label, count in rows.items()),
            tuple(_last_use(secret, use) for secret, use in last_uses.items()),
            self._clock(),
        )


def _last_use(secret: Secret, use: Use) -> LastUse:
    key_id, issued_at = secret
    at, address = use
    return LastUse(
        key_id,
        PREVIOUS_SECRET if issued_at is None else to_microseconds(issued_at),
        at,
        None if address is None else str(address),
    )

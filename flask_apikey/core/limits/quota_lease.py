"""One lease of a quota, and what a request takes of it."""

import math
import threading
import time
from datetime import datetime
from typing import NamedTuple

from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.quotas import QuotaCounter, QuotaState


class QuotaCharge(NamedTuple):
    """Amount that a request took of a quota.

    Attributes:
        counter: The counter.
        at: Time of the request.
        generation: Generation of the counter.
        amount: What was taken.
        accepted: False if too little is left. Nothing was taken then.
        limit: The limit, with what was added.
        remaining: What is left, as far as this process knows.
    """

    counter: QuotaCounter
    at: datetime
    generation: int
    amount: int
    accepted: bool
    limit: int
    remaining: int

    @property
    def ends_in(self) -> int | None:
        """Seconds until the period ends, at least 1; None for a quota without periods."""
        ends_at = self.counter.ends_at
        return None if ends_at is None else max(1, math.ceil((ends_at - self.at).total_seconds()))


class Lease:
    """Lease of one subject.

    Attributes:
        lock: Held while the lease changes, and while it is taken.
        counter: Its counter; None before it is taken.
        limit: Limit of the quota.
        state: State of the counter when it was last read; None if it was not.
        left: What is left of the lease.
        size: What was taken with it.
        taken_at: Monotonic time at which it was last taken.
        versions: Versions of the keys that have used it.
        is_forgotten: True once it is no longer found.
    """

    __slots__ = ("counter", "is_forgotten", "left", "limit", "lock", "size", "state", "taken_at", "versions")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counter: QuotaCounter | None = None
        self.limit = 0
        self.state: QuotaState | None = None
        self.left = 0
        self.size = 0
        self.taken_at = time.monotonic()
        self.versions: dict[str, int] = {}
        self.is_forgotten = False

    @property
    def generation(self) -> int:
        """Generation of the counter."""
        return 0 if self.state is None else self.state.generation

    @property
    def room(self) -> int:
        """Amount that the counter had left."""
        return self.limit if self.state is None else self.limit + self.state.added - self.state.used

    def begin(self, counter: QuotaCounter, limit: int) -> None:
        """Start with nothing, for a counter and a limit."""
        self.counter, self.limit, self.state, self.size = counter, limit, None, 0

    def learn(self, state: QuotaState) -> None:
        """Note the state of the counter, and drop what was taken before a reset."""
        if state.generation != self.generation:
            self.left = 0
        self.state = state

    def covers(self, limit: int, record: APIKey, now: datetime) -> bool:
        """Return True if a request belongs to the period, the limit and the generation of this lease."""
        counter = self.counter
        if self.versions.setdefault(record.id, record.version) < record.version:
            # Every reset and addition changes a key.
            self.versions[record.id] = record.version
            return False
        return (
            counter is not None
            and self.limit == limit
            and counter.starts_at <= now
            and (counter.ends_at is None or now < counter.ends_at)
        )

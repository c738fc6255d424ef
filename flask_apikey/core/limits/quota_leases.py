"""Leases of quotas: what a process takes ahead, so that most requests cost no write.

A lease belongs to one counter, one limit and one generation of the counter. A request
that finds another of them, or a key that was changed since, gives the lease back and
takes another. So no lease is used beyond the end of its period, a change of its limit or
a reset. A process that is killed loses what it has leased. Nothing is taken twice.
"""

import atexit
import time
import weakref
from collections.abc import Callable
from datetime import datetime
from functools import partial

from flask_apikey.core.errors import described
from flask_apikey.core.flush_thread import FlushThread
from flask_apikey.core.limits.quota_lease import Lease, QuotaCharge
from flask_apikey.core.limits.quotas import AppliedQuota
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.quotas import QuotaCounter, QuotaState
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.circuit import Circuit
from flask_apikey.core.storage.contract import QuotaStore

MAX_AGE = 1.0
"""Seconds after which a lease is given back."""

MAX_REQUESTS = 1_000
"""Maximum number of requests in a lease, in units of the cost of the request that takes it."""

SHARE = 64
"""A lease is at most this part of what is left. So the last requests take no lease, and none is refused too early."""

_BUSY = MAX_AGE / 4
"""A lease that is used up within these seconds is followed by one of twice the size."""

_FORGET_AFTER = 60.0
_PATIENCE = 1.0

OnFailure = Callable[[str], object]


class QuotaLeases:
    """Leases of one application, separately in each process.

    Args:
        store: The counters.
        timeout: Seconds after which the storage gives up.
        on_failure: Called with a reason when a lease could not be given back.
    """

    def __init__(self, store: QuotaStore, timeout: float, on_failure: OnFailure) -> None:
        self._store = store
        self._leases = PerProcess(partial(_ProcessLeases, store, timeout, on_failure))
        atexit.register(_close_at_exit, weakref.ref(self))

    def take(self, applied: AppliedQuota, record: APIKey, cost: int, now: datetime) -> QuotaCharge:
        """Take the cost of a request, at least 1, from the quota of its key.

        Raises:
            StorageError: No lease is left, and the storage failed.
        """
        return self._leases.get().take(applied, record, cost, now)

    def give_back(self, charge: QuotaCharge) -> None:
        """Give back what a request took."""
        self._leases.get().give_back(charge)

    def state(self, counter: QuotaCounter) -> QuotaState:
        """Return the state of a counter, after this process gave back its lease.

        Raises:
            StorageError: The storage failed.
        """
        self.release(counter.subject)
        return self._store.get(counter)

    def reset(self, counter: QuotaCounter) -> None:
        """Forget what was taken from a counter.

        Raises:
            StorageError: The storage failed.
        """
        self._store.reset(counter)

    def add(self, counter: QuotaCounter, amount: int, *, every_period: bool) -> None:
        """Add to the limit of the period, or of every one.

        Raises:
            StorageError: The storage failed.
        """
        self._store.add(counter, amount, every_period=every_period)

    def release(self, subject: str) -> None:
        """Give back the lease of a subject, if this process has one."""
        leases = self._leases.peek()
        if leases is not None:
            leases.release(subject)

    def close(self) -> None:
        """Give back all leases and end the background thread. The next request starts another."""
        leases = self._leases.pop()
        if leases is not None:
            leases.close()


def _close_at_exit(reference: "weakref.ref[QuotaLeases]") -> None:
    leases = reference()
    if leases is not None:
        leases.close()


class _ProcessLeases:
    """Leases of one process."""

    def __init__(self, store: QuotaStore, timeout: float, on_failure: OnFailure) -> None:
        self._store = store
        self._circuit = Circuit(timeout)
        self._on_failure = on_failure
        self._leases: dict[str, Lease] = {}
        self._thread = FlushThread(self.sweep, MAX_AGE, "flask-apikey-quotas")
        self._swept_at = time.monotonic()

    def take(self, applied: AppliedQuota, record: APIKey, cost: int, now: datetime) -> QuotaCharge:
        while True:
            lease = self._leases.get(applied.subject) or self._leases.setdefault(applied.subject, Lease())
            with lease.lock:
                if lease.is_forgotten:
                    continue
                if not lease.covers(applied.quota.amount, record, now):
                    self._settle(lease)
                    lease.begin(applied.counter_at(record, now), applied.quota.amount)
                counter = lease.counter or applied.counter_at(record, now)
                accepted = lease.left >= cost or self._extend(lease, counter, cost)
                if accepted:
                    lease.left -= cost
                added = 0 if lease.state is None else lease.state.added
                remaining = max(0, lease.room + lease.left)
                return QuotaCharge(counter, now, lease.generation, cost, accepted, lease.limit + added, remaining)

    def give_back(self, charge: QuotaCharge) -> None:
        lease = self._leases.get(charge.counter.subject)
        if lease is not None:
            with lease.lock:
                same = (lease.counter, lease.generation) == (charge.counter, charge.generation)
                if same and not lease.is_forgotten:
                    lease.left += charge.amount
                    return
        self._return(charge.counter, charge.amount, charge.generation)

    def sweep(self) -> None:
        """Give back old leases, and forget those that nobody uses."""
        now = self._swept_at = time.monotonic()
        for subject, lease in list(self._leases.items()):
            age = now - lease.taken_at
            # A thread that holds the lock is taking another lease.
            if age >= MAX_AGE and lease.lock.acquire(blocking=False):
                try:
                    self._settle(lease)
                    if age >= _FORGET_AFTER:
                        lease.is_forgotten = True
                        self._leases.pop(subject, None)
                finally:
                    lease.lock.release()

    def release(self, subject: str) -> None:
        lease = self._leases.get(subject)
        # A thread may hold the lock while the storage hangs.
        if lease is not None and lease.lock.acquire(timeout=_PATIENCE):
            try:
                self._settle(lease)
            finally:
                lease.lock.release()

    def close(self) -> None:
        self._thread.stop()
        for subject in list(self._leases):
            self.release(subject)

    def _extend(self, lease: Lease, counter: QuotaCounter, cost: int) -> bool:
        """Take more from the counter, at least what the request lacks."""
        if lease.room < cost - lease.left:
            # Others may have given something back. Reading that locks no row.
            lease.learn(self._circuit.call(self._store.get, counter))
            if lease.room < cost - lease.left:
                return False
        now = time.monotonic()
        if now - self._swept_at > 3 * MAX_AGE:
            # Some servers run no thread between requests.
            self.sweep()
        is_busy = now - lease.taken_at < _BUSY
        wanted = min(2 * lease.size if is_busy else lease.size, MAX_REQUESTS * cost, lease.room // SHARE)
        least = cost - lease.left
        take = partial(self._store.take, counter, least=least, most=max(least, wanted), limit=lease.limit)
        state = self._circuit.call(take)
        lease.learn(state)
        lease.taken_at = now
        lease.left += state.granted
        lease.size = lease.left
        if not self._thread.is_started:
            self._thread.start()
        # A part that was taken before a reset may be lacking now.
        return lease.left >= cost or (state.granted >= least and self._extend(lease, counter, cost))

    def _settle(self, lease: Lease) -> None:
        """Give back what is left of a lease, whose lock is held."""
        left, lease.left = lease.left, 0
        if left and lease.counter is not None and lease.state is not None:
            lease.size = max(0, lease.size - left)
            lease.state = lease.state._replace(used=lease.state.used - left)
            self._return(lease.counter, left, lease.generation)

    def _return(self, counter: QuotaCounter, amount: int, generation: int) -> None:
        try:
            self._circuit.call(partial(self._store.give_back, counter, amount, generation=generation))
        except Exception as exc:  # noqa: BLE001  # backends raise anything
            # Not repeated: an answer that was lost would be given back twice.
            self._on_failure(f"{amount} of a quota, which no request has used, were not given back: {described(exc)}")

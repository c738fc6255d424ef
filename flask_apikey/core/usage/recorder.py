"""Counts requests in memory, and brings the counts to the storage.

Each process counts for itself and names itself at random. What it counted goes to
the storage as a numbered batch, one at a time. A batch whose fate is unknown is sent
again as it was: the storage leaves out a number that it has. So nothing is counted
twice, and nothing is lost while the process lives. While one thread sends, no other
waits to do the same, unless it must know that what it counted is stored.
"""

import atexit
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial

from flask_apikey.core.addresses import Address
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import KeepsUsage
from flask_apikey.core.times import Clock, to_microseconds, utc_now
from flask_apikey.core.usage.endpoint_limit import CountLabel, EndpointLimit
from flask_apikey.core.usage.labels import OTHER
from flask_apikey.core.usage.single_flight import SingleFlight

LARGE = 5_000
"""So many rows do not wait for the interval to end."""

MAX_ROWS = 100_000
"""With so many rows in memory, requests are counted without their endpoint; with twice as many, not at all."""

_SECONDS_OF_AN_HOUR = 3_600
_STATUS_CLASSES = tuple(f"{hundreds}xx" for hundreds in range(10))

Tell = Callable[[str], object]

_Secret = tuple[str, datetime | None]
_Use = tuple[datetime, Address | None]


class UsageRecorder:
    """Counts the requests of one application, in whatever processes it runs.

    Args:
        storage: Where counts are kept.
        flush_interval: Seconds between two batches.
        is_synchronous: Whether an accepted request is in the storage before it is answered.
        max_endpoints: So many endpoints of a key are told apart.
        clock: The present moment, in UTC.
        tell: Called with what goes wrong, in one line.
    """

    def __init__(
        self,
        storage: KeepsUsage,
        *,
        flush_interval: float,
        is_synchronous: bool,
        max_endpoints: int,
        tell: Tell,
        clock: Clock = utc_now,
    ) -> None:
        self._clock = clock
        self._is_synchronous = is_synchronous
        self._make = partial(_ProcessRecorder, storage, flush_interval, max_endpoints, clock, tell)
        self._recorders: dict[int, _ProcessRecorder] = {}
        atexit.register(_close_at_exit, weakref.ref(self))

    def accepted(
        self,
        key: APIKey,
        at: datetime,
        *,
        position: int,
        endpoint: str,
        method: str,
        status: int,
        address: Address | None,
    ) -> bool:
        """Count a request that was answered.

        Args:
            key: The accepted key.
            at: When it was decided on, in UTC.
            position: Which of its secrets was presented, newest first.
            endpoint: The label of the endpoint.
            method: The label of the method.
            status: The HTTP status.
            address: The caller's.

        Returns:
            Whether a flush is overdue, as where the server lets no thread run between two requests.
        """
        recorder = self._recorders.get(os.getpid()) or self._begin()
        key_id = key.id
        label = (key_id, _hour(at), endpoint, method, _STATUS_CLASSES[status // 100 % 10], "")
        is_overdue = recorder.count(
            label, (key_id, None if position else key.rolled_at or key.created_at), (at, address)
        )
        if self._is_synchronous:
            recorder.flush()
            return False
        return is_overdue

    def refused(self, key_id: str, endpoint: str, method: str, reason: str) -> bool:
        """Count an attempt with a key that exists.

        Never synchronously: the time that it takes would tell that the key exists.

        Returns:
            Whether a flush is overdue.
        """
        recorder = self._recorders.get(os.getpid()) or self._begin()
        return recorder.count((key_id, _hour(self._clock()), endpoint, method, "", reason))

    def flush(self) -> bool:
        """Bring to the storage what this process counted. Whether nothing is left."""
        recorder = self._recorders.get(os.getpid())
        return recorder is None or recorder.flush()

    def flush_if_overdue(self) -> None:
        """Flush, unless that has been done meanwhile or another thread is at it."""
        recorder = self._recorders.get(os.getpid())
        if recorder is not None:
            recorder.flush_if_overdue()

    def close(self) -> None:
        """Flush for the last time, unless more requests come."""
        recorder = self._recorders.pop(os.getpid(), None)
        if recorder is not None:
            recorder.close()

    def _begin(self) -> "_ProcessRecorder":
        process = os.getpid()
        # What the parent counted before a fork is the parent's to flush.
        for other in self._recorders.keys() - {process}:
            self._recorders.pop(other, None)
        # setdefault is atomic: threads that come here together get the same one.
        return self._recorders.setdefault(process, self._make())


def _close_at_exit(reference: "weakref.ref[UsageRecorder]") -> None:
    recorder = reference()
    if recorder is not None:
        recorder.close()


class _ProcessRecorder:
    """What one process counts."""

    def __init__(self, storage: KeepsUsage, interval: float, max_endpoints: int, clock: Clock, tell: Tell) -> None:
        self._storage = storage
        self._interval = interval
        self._clock = clock
        self._tell = tell
        self._endpoints = EndpointLimit(storage, max_endpoints)
        self._lock = threading.Lock()
        self._counts: dict[CountLabel, int] = {}
        self._uses: dict[_Secret, _Use] = {}
        self._lost = 0
        self._writer = secrets.token_hex(8)
        self._number = 0
        self._sending = SingleFlight()
        self._unsettled: UsageBatch | None = None
        self._is_failing = False
        self._is_closed = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._overdue_at = self._next_overdue()

    def count(self, label: CountLabel, secret: _Secret | None = None, use: _Use | None = None) -> bool:
        with self._lock:
            if secret is not None and use is not None:
                # Whether or not there is room to count it: a secret in use must never look idle.
                self._note(secret, use)
            counts = self._counts
            known = counts.get(label, 0)
            if not known and len(counts) >= MAX_ROWS:
                label = (*label[:2], OTHER, OTHER, *label[4:])
                known = counts.get(label, 0)
                if not known and len(counts) >= 2 * MAX_ROWS:
                    self._lost += 1
                    return False
            counts[label] = known + 1
        if self._thread is None:
            self._start()
        if len(counts) >= LARGE and not self._is_failing:
            self._wake.set()
        return time.monotonic() > self._overdue_at and self._is_overdue()

    def flush(self) -> bool:
        return self._sending.join(self._send)

    def flush_if_overdue(self) -> None:
        if self._is_overdue():
            self._sending.make_unless_running(self._send)

    def close(self) -> None:
        self._is_closed = True
        self._wake.set()
        if not self.flush():
            self._tell("usage that could not be stored is lost, as the process ends")

    def flush_regularly(self) -> bool:
        """Flush after an interval. Whether to go on."""
        self._wake.clear()
        if not self._is_closed:
            self.flush()
        return not self._is_closed

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                arguments = (weakref.ref(self), self._wake, self._interval)
                thread = threading.Thread(target=_keep_flushing, args=arguments, name="flask-apikey-usage", daemon=True)
                # The machine may have no more threads to give. Requests flush what is overdue, and the next one tries.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread

    def _note(self, secret: _Secret, use: _Use) -> None:
        noted = self._uses.get(secret)
        # Requests end in another order than that in which they are decided on.
        if noted is None or noted[0] <= use[0]:
            self._uses[secret] = use

    def _is_overdue(self) -> bool:
        return not self._sending.is_running and time.monotonic() > self._overdue_at

    def _next_overdue(self) -> float:
        return time.monotonic() + 2 * self._interval + 1

    def _send(self) -> bool:
        try:
            # What is unsettled and what came since, and not what keeps coming meanwhile.
            for _ in range(2):
                self._unsettled = self._unsettled or self._next_batch()
                if self._unsettled is None:
                    break
                self._storage.add_usage(self._unsettled)
                self._unsettled = None
        except Exception as exc:  # noqa: BLE001  # whatever a backend raises, counting goes on
            self._is_failing = True
            self._tell(self._trouble(exc))
            return False
        else:
            self._is_failing = False
            return True
        finally:
            # From the end: an attempt that took long must not make the next one overdue at once.
            self._overdue_at = self._next_overdue()

    def _next_batch(self) -> UsageBatch | None:
        with self._lock:
            counts, self._counts = self._counts, {}
            uses, self._uses = self._uses, {}
        if not counts:
            return None
        try:
            rows = self._endpoints.limited(counts)
        except BaseException:
            self._put_back(counts, uses)
            raise
        self._number += 1
        return UsageBatch(
            self._writer,
            self._number,
            tuple(UsageRow(UsageLabel(*label), count) for label, count in rows.items()),
            tuple(_last_use(secret, use) for secret, use in uses.items()),
            self._clock(),
        )

    def _put_back(self, counts: Mapping[CountLabel, int], uses: Mapping[_Secret, _Use]) -> None:
        with self._lock:
            for label, count in counts.items():
                self._counts[label] = self._counts.get(label, 0) + count
            for secret, use in uses.items():
                self._note(secret, use)

    def _trouble(self, exc: Exception) -> str:
        with self._lock:
            waiting, lost = len(self._counts), self._lost
        waiting += 0 if self._unsettled is None else len(self._unsettled.rows)
        said = f"{waiting} rows of usage wait in memory until the storage takes them: {exc}"
        return f"{said} ({lost} requests were not counted: memory is full)" if lost else said


def _keep_flushing(reference: "weakref.ref[_ProcessRecorder]", wake: threading.Event, interval: float) -> None:
    while True:
        wake.wait(interval)
        recorder = reference()
        if recorder is None or not recorder.flush_regularly():
            return
        del recorder


def _hour(moment: datetime) -> int:
    hour = int(moment.timestamp()) // _SECONDS_OF_AN_HOUR
    # A clock that is set wrong must not make hours that no storage takes.
    return hour if hour > 0 else 0  # noqa: FURB136  # max() takes three times as long


def _last_use(secret: _Secret, use: _Use) -> LastUse:
    key_id, issued_at = secret
    at, address = use
    return LastUse(
        key_id,
        PREVIOUS_SECRET if issued_at is None else to_microseconds(issued_at),
        at,
        None if address is None else str(address),
    )

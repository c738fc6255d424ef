"""Request counts in memory, flushed to the storage in the background.

Each process counts for itself. One thread flushes at a time, and other threads wait for it
only where they must know that their counts are stored.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from datetime import datetime
from functools import partial

from flask_apikey.core.addresses import Address
from flask_apikey.core.errors import described
from flask_apikey.core.flush_thread import FlushThread
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.times import EPOCH, Clock, utc_now
from flask_apikey.core.usage.batches import BatchSender, Buffered, Secret, Use
from flask_apikey.core.usage.endpoint_limit import CountLabel
from flask_apikey.core.usage.labels import OTHER
from flask_apikey.core.usage.single_flight import SingleFlight

EARLY_FLUSH_ROWS = 5_000
"""Number of buffered rows that starts a flush before the interval ends."""

MAX_ROWS = 100_000
"""Number of buffered rows from which on new labels lose endpoint and method. Twice as many: they are not counted."""

_SECONDS_PER_HOUR = 3_600
_STATUS_CLASSES = tuple(f"{hundreds}xx" for hundreds in range(10))

OnFailure = Callable[[str], object]


class UsageRecorder:
    """Counts the requests of one application, separately in each process.

    `is_synchronous` stores each accepted request before it is answered. `on_failure`
    is called with a one-line message when counts cannot be stored.
    """

    def __init__(
        self,
        storage: UsageStore,
        *,
        flush_interval: float,
        is_synchronous: bool,
        max_endpoints: int,
        on_failure: OnFailure,
        clock: Clock = utc_now,
    ) -> None:
        self._clock = clock
        self._is_synchronous = is_synchronous
        self._recorders = PerProcess(
            partial(_ProcessRecorder, storage, flush_interval, max_endpoints, clock, on_failure)
        )
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
        """Count an answered request.

        Returns True if a flush is overdue, as on servers that run no thread between requests.
        """
        recorder = self._recorders.get()
        key_id = key.id
        label = (key_id, _hour(at), endpoint, method, _STATUS_CLASSES[status // 100 % 10], "", key.owner or "")
        is_overdue = recorder.count(
            label, (key_id, None if position else key.rolled_at or key.created_at), (at, address)
        )
        if self._is_synchronous:
            recorder.flush_in_request()
            return False
        return is_overdue

    def refused(self, key_id: str, owner: str | None, endpoint: str, method: str, reason: str) -> bool:
        """Count a refused attempt with an existing key. Returns True if a flush is overdue.

        Never synchronous: the time of a flush would reveal that the key exists.
        """
        recorder = self._recorders.get()
        return recorder.count((key_id, _hour(self._clock()), endpoint, method, "", reason, owner or ""))

    def would_refuse(
        self, key_id: str, owner: str | None, endpoint: str, method: str, *, status: int, reason: str
    ) -> bool:
        """Count a request that passed in report mode. Returns True if a flush is overdue.

        Never synchronous, as in `refused`. Without a proven key `key_id` is empty.
        """
        recorder = self._recorders.get()
        status_class = _STATUS_CLASSES[status // 100 % 10]
        return recorder.count((key_id, _hour(self._clock()), endpoint, method, status_class, reason, owner or ""))

    def flush(self) -> bool:
        """Store the counts of this process. Returns True if all are stored."""
        recorder = self._recorders.peek()
        return recorder is None or recorder.flush()

    def flush_if_overdue(self) -> None:
        """Flush if that is still overdue and no other thread is flushing."""
        recorder = self._recorders.peek()
        if recorder is not None:
            recorder.flush_if_overdue()

    def close(self) -> None:
        """Flush and end the background thread. The next request starts another."""
        recorder = self._recorders.pop()
        if recorder is not None:
            recorder.close()


def _close_at_exit(reference: "weakref.ref[UsageRecorder]") -> None:
    recorder = reference()
    if recorder is not None:
        recorder.close()


class _ProcessRecorder:
    """Counts of one process."""

    def __init__(
        self, storage: UsageStore, interval: float, max_endpoints: int, clock: Clock, on_failure: OnFailure
    ) -> None:
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._counts: dict[CountLabel, int] = {}
        self._last_uses: dict[Secret, Use] = {}
        self._uncounted = 0
        self._is_blocked = storage.is_blocked
        self._batches = BatchSender(storage, max_endpoints, clock)
        self._single_flight = SingleFlight()
        self._thread = FlushThread(self.flush, interval)
        self._is_failing = False
        self._overdue_after = 2 * interval + 1
        self._overdue_at = time.monotonic() + self._overdue_after

    def count(self, label: CountLabel, secret: Secret | None = None, use: Use | None = None) -> bool:
        with self._lock:
            if secret is not None and use is not None:
                # Even if the buffer is full: a secret in use must never look unused.
                last_use = self._last_uses.get(secret)
                # Requests may end in another order than they were accepted in.
                if last_use is None or last_use[0] <= use[0]:
                    self._last_uses[secret] = use
            counts = self._counts
            previous = counts.get(label, 0)
            if not previous and len(counts) >= MAX_ROWS:
                label = (*label[:2], OTHER, OTHER, *label[4:])
                previous = counts.get(label, 0)
                if not previous and len(counts) >= 2 * MAX_ROWS:
                    self._uncounted += 1
                    return False
            counts[label] = previous + 1
        if not self._thread.is_started:
            self._thread.start()
        if len(counts) >= EARLY_FLUSH_ROWS and not self._is_failing:
            self._thread.wake()
        return time.monotonic() > self._overdue_at and self._is_overdue()

    def flush(self) -> bool:
        return self._single_flight.run(self._send)

    def flush_in_request(self) -> None:
        """Flush, unless a transaction of this request keeps the storage from writing."""
        if self._is_blocked():
            # Another thread may be flushing, and would wait for this one.
            self._on_failure(
                "usage was not stored before the answer, because the view left a transaction open on the same SQLite "
                "file: commit it, or keep the keys in another file with APIKEY_STORAGE_URI"
            )
        else:
            self.flush()

    def flush_if_overdue(self) -> None:
        if self._is_overdue():
            self._single_flight.run_unless_running(self._send)

    def close(self) -> None:
        self._thread.stop()
        if not self.flush():
            self._on_failure("usage that could not be stored is lost, as the process ends")

    def _is_overdue(self) -> bool:
        return not self._single_flight.is_running and time.monotonic() > self._overdue_at

    def _take(self) -> Buffered:
        with self._lock:
            counts, self._counts = self._counts, {}
            last_uses, self._last_uses = self._last_uses, {}
        return counts, last_uses

    def _send(self) -> bool:
        try:
            self._batches.send(self._take)
        except Exception as exc:  # noqa: BLE001  # requests are counted whatever a backend raises
            self._is_failing = True
            self._on_failure(self._failure_message(exc))
            return False
        else:
            self._is_failing = False
            return True
        finally:
            # Measured from the end, so that a slow flush does not make the next one overdue.
            self._overdue_at = time.monotonic() + self._overdue_after

    def _failure_message(self, exc: Exception) -> str:
        with self._lock:
            waiting, uncounted = len(self._counts) + self._batches.pending_rows, self._uncounted
        message = f"{waiting} rows of usage wait in memory until the storage takes them: {described(exc)}"
        return f"{message} ({uncounted} requests were not counted: memory is full)" if uncounted else message


def _hour(moment: datetime) -> int:
    # Twice as fast as timestamp() or division by a timedelta.
    elapsed = moment - EPOCH
    hour = elapsed.days * 24 + elapsed.seconds // _SECONDS_PER_HOUR
    # No storage takes the negative hours of a wrong clock.
    return hour if hour > 0 else 0  # noqa: FURB136  # max() takes three times as long

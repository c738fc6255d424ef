"""Rows that a process trusts without asking the storage, as long as nothing has changed.

The process asks the storage at intervals for the keys that were changed, and forgets their rows.

No row is trusted longer than `max_staleness` after a change of it was committed:

- A row is used only within `max_staleness` after the start of the last successful check.
- So the change was committed after that start, or the check told of it and the row was forgotten.
- A row that was read before the start of the last check, and arrives after it, is not kept:
  that check could have told of a change behind it.
- A check asks for all changes since the check before. It goes back `CLOCK_DIFFERENCE` and two
  timeouts further, for clocks that differ and for changes that are committed late.

Time is that of the storage where moments of changes are compared, and monotonic where durations
are measured. The clock of this process has no influence. If the clock of the storage is set
back, or if too many keys were changed, all rows are forgotten.

What a check cannot tell of is seen when the row is read again, at most `REREAD_AFTER` later: an edit by
hand, or a change that a clock wrong by more than the overlap hides.
"""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic
from typing import NamedTuple
from weakref import WeakSet

from flask_apikey.core.errors import RowDamaged, StorageError, StorageMissing, described
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.processes import PerProcess, ProcessLock
from flask_apikey.core.storage.circuit import LookupCircuit

REREAD_AFTER = 60.0
"""Seconds after which a row is read again, whatever the checks tell."""

CLOCK_DIFFERENCE = timedelta(seconds=10)
"""Accepted difference between the clocks that moments of changes are taken from."""

MAX_ROWS = 10_000
"""Maximum number of rows kept."""

MAX_CHANGES = 1_000
"""Maximum number of changed keys that a check tells of. With as many, all rows are forgotten."""

_caches: WeakSet["RowCache"] = WeakSet()
_registering = ProcessLock()


def forget_row(key_id: str) -> None:
    """Forget the row of a key that this process has changed, in the caches of all applications."""
    with _registering:
        caches = list(_caches)
    for cache in caches:
        cache.forget(key_id)


class _Row(NamedTuple):
    """A row, and when it was read."""

    stored: StoredKey
    read_at: float
    read_again_at: float


class _Rows:
    """The rows of one process, and its checks."""

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}
        # Never held while the storage is asked.
        self.lock = threading.Lock()
        self.checking = threading.Lock()
        self.checked_until: datetime | None = None
        self.checked_at = self.kept_from = self.check_at = self.trusted_until = float("-inf")
        self.is_outage_told = False


class RowCache:
    """Rows of proven keys, as the storage has them or had them within a bound.

    Failed attempts, unknown ids and adopted keys are never cached. A child process starts empty.

    Args:
        storage: The storage, which must keep the moments of changes.
        max_staleness: Seconds for which a row may be trusted after it was changed.
        outage_staleness: Seconds for which it may be trusted while the storage does not answer.
        overlap: Time by which each check goes back behind the one before.
        on_outage: Called with a reason, once for each outage in which rows are trusted.
    """

    def __init__(
        self,
        storage: LookupCircuit,
        max_staleness: float,
        outage_staleness: float,
        overlap: timedelta,
        on_outage: Callable[[str], object],
    ) -> None:
        self._storage = storage
        self._max_staleness = max_staleness
        self._outage_staleness = outage_staleness
        self._overlap = overlap
        self._on_outage = on_outage
        self._of_process = PerProcess(_Rows)
        with _registering:
            _caches.add(self)

    def get(self, known: StoredKey) -> StoredKey | None:
        """Return the row of a key as it is stored; `known` itself if it is unchanged.

        Args:
            known: The row of the key that was seen last.

        Raises:
            StorageError: The storage failed, and no row may be trusted.
        """
        of_process = self._of_process.get()
        # Before the row: a check in another thread forgets rows before it extends the time.
        check_at = of_process.check_at
        now = monotonic()
        row = of_process.rows.get(known.record.id)
        if row is not None and now < check_at and now < row.read_again_at:
            return row.stored
        return self._checked(of_process, row, known)

    def forget(self, key_id: str) -> None:
        """Forget the row of a key, and those that are being read."""
        of_process = self._of_process.get()
        with of_process.lock:
            of_process.rows.pop(key_id, None)
            of_process.kept_from = monotonic()

    def _checked(self, of_process: _Rows, row: _Row | None, known: StoredKey) -> StoredKey | None:
        if row is None or monotonic() >= row.read_again_at:
            return self._read(of_process, known)
        failure = None
        # From half of the bound, so that others need not wait for the answer.
        if of_process.checking.acquire(blocking=False):
            try:
                self._check(of_process)
            except StorageError as exc:
                failure = exc
            finally:
                of_process.checking.release()
        trusted_until = of_process.trusted_until  # before the row, as above
        kept = of_process.rows.get(known.record.id)
        if kept is not None and monotonic() < trusted_until:
            return kept.stored
        if failure is not None:
            # Not asked again: a storage that hangs would take twice the timeout.
            return self._trusted_in_outage(of_process, known.record.id, failure)
        return self._read(of_process, known)

    def _check(self, of_process: _Rows) -> None:
        started_at = monotonic()
        before = of_process.checked_until
        since = None if before is None else before - self._overlap
        changes = self._storage.changed_since(since, limit=MAX_CHANGES)
        with of_process.lock:
            if since is None or changes.now < since or len(changes.key_ids) >= MAX_CHANGES:
                of_process.rows.clear()
            for key_id in changes.key_ids:
                of_process.rows.pop(key_id, None)
            of_process.checked_until = changes.now
            of_process.checked_at = started_at
            of_process.kept_from = max(of_process.kept_from, started_at)
            # Last, because other threads trust their rows from here on.
            of_process.trusted_until = started_at + self._max_staleness
            of_process.check_at = started_at + self._max_staleness / 2
            of_process.is_outage_told = False

    def _read(self, of_process: _Rows, known: StoredKey) -> StoredKey | None:
        key_id = known.record.id
        started_at = monotonic()
        try:
            stored = self._storage.get(key_id)
        except StorageError as exc:
            return self._trusted_in_outage(of_process, key_id, exc)
        # The same object, which is quick to compare and needs no memory of its own.
        stored = known if stored == known else stored
        with of_process.lock:
            kept = of_process.rows.get(key_id)
            if stored is None or stored.record.adopted is not None:
                of_process.rows.pop(key_id, None)
            elif started_at > of_process.kept_from and (kept is None or kept.read_at < started_at):
                # To the end, so that the row that was read longest ago is the first.
                of_process.rows.pop(key_id, None)
                if len(of_process.rows) >= MAX_ROWS:
                    del of_process.rows[next(iter(of_process.rows))]
                of_process.rows[key_id] = _Row(stored, started_at, started_at + REREAD_AFTER)
        return stored

    def _trusted_in_outage(self, of_process: _Rows, key_id: str, failure: StorageError) -> StoredKey:
        is_outage = not isinstance(failure, RowDamaged | StorageMissing)
        trusted_until = of_process.checked_at + self._outage_staleness  # before the row, as above
        row = of_process.rows.get(key_id)
        if row is None or not is_outage or monotonic() >= trusted_until:
            raise failure
        with of_process.lock:
            is_told, of_process.is_outage_told = of_process.is_outage_told, True
        if not is_told:
            self._on_outage(f"known keys are trusted in an outage: {described(failure)}")
        return row.stored

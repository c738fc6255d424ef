"""A circuit breaker, so that a storage that hangs does not occupy every thread of a server."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from time import monotonic
from typing import TypeVar

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import Backend, Changes

T = TypeVar("T")


class Circuit:
    """Calls a storage. After a timeout one caller at a time tries it, and all others fail at once.

    Args:
        timeout: Seconds after which the storage gives up. A failure that takes half as long counts as a timeout.
        pause: Seconds after a timeout in which nobody tries the storage.
    """

    def __init__(self, timeout: float, pause: float = 0.0) -> None:
        self._slow = timeout / 2
        self._pause = pause
        self._tried_again_at = 0.0
        self._is_open = False
        # A child process may be forked while a thread of its parent holds the lock.
        self._probing = PerProcess(threading.Lock)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function of the storage.

        Raises:
            StorageError: The storage did not answer others in time.
        """
        if not self._is_open:
            return self._try(function, arguments)
        probing = self._probing.get()
        if not probing.acquire(blocking=False):
            raise StorageError("the storage did not answer in time; it is asked by one request at a time until it does")
        try:
            # Another caller may have tried it just before.
            if monotonic() < self._tried_again_at:
                raise StorageError(f"the storage did not answer in time; it is tried again after {self._pause:g} s")
            return self._try(function, arguments)
        finally:
            probing.release()

    def _try(self, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
        started_at = monotonic()
        try:
            found = function(*arguments)
        except Exception:
            failed_at = monotonic()
            self._is_open = failed_at - started_at >= self._slow
            if self._is_open:
                self._tried_again_at = failed_at + self._pause
            raise
        self._is_open = False
        return found


class LookupCircuit:
    """Looks up keys through a `Circuit`.

    Args:
        backend: The storage.
        timeout: Seconds after which the backend gives up.
    """

    def __init__(self, backend: Backend, timeout: float) -> None:
        self._backend = backend
        self._circuit = Circuit(timeout)

    def get(self, key_id: str) -> StoredKey | None:
        """Return the key or tombstone with this id.

        Raises:
            StorageError: The storage failed, or did not answer others in time.
        """
        return self._circuit.call(self._backend.get, key_id)

    def get_many(self, key_ids: Sequence[str]) -> Mapping[str, StoredKey]:
        """Return the keys and tombstones with these ids, by id.

        Raises:
            StorageError: The storage failed, or did not answer others in time.
        """
        return self._circuit.call(self._backend.get_many, key_ids)

    def changed_since(self, moment: datetime | None, *, limit: int) -> Changes:
        """List keys that were changed at this moment or later. The backend must keep the moments of changes.

        Raises:
            StorageError: The storage failed, or did not answer others in time.
        """
        changes = self._backend.changes
        if changes is None:
            raise StorageError("the storage keeps no moments of changes")
        return self._circuit.call(partial(changes.changed_since, moment, limit=limit))

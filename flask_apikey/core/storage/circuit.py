"""A circuit breaker for look-ups, so that a storage that hangs does not occupy every thread of a server."""

import threading
from time import monotonic

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import Backend


class LookupCircuit:
    """Looks up keys. After a timeout one caller at a time tries the storage, and all others fail at once.

    Args:
        backend: The storage.
        timeout: Seconds after which the backend gives up. A failure that takes half as long counts as a timeout.
    """

    def __init__(self, backend: Backend, timeout: float) -> None:
        self._backend = backend
        self._slow = timeout / 2
        self._is_open = False
        # A child process may be forked while a thread of its parent holds the lock.
        self._probing = PerProcess(threading.Lock)

    def get(self, key_id: str) -> StoredKey | None:
        """Return the key or tombstone with this id.

        Raises:
            StorageError: The storage failed, or did not answer others in time.
        """
        if not self._is_open:
            return self._try(key_id)
        probing = self._probing.get()
        if not probing.acquire(blocking=False):
            raise StorageError("the storage did not answer in time; it is asked by one request at a time until it does")
        try:
            return self._try(key_id)
        finally:
            probing.release()

    def _try(self, key_id: str) -> StoredKey | None:
        started_at = monotonic()
        try:
            found = self._backend.get(key_id)
        except Exception:
            self._is_open = monotonic() - started_at >= self._slow
            raise
        self._is_open = False
        return found

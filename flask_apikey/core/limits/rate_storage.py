"""The storage that counts rates, by its URI."""

import atexit
import importlib
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from flask_apikey.core.errors import ConfigurationError, StorageError, described, raise_alone
from flask_apikey.core.limits.memory import MemoryWindows
from flask_apikey.core.limits.redis import RedisWindows
from flask_apikey.core.limits.windows import RateWindows, Taken
from flask_apikey.core.model.rates import Rate
from flask_apikey.core.processes import PerProcess, ProcessLock
from flask_apikey.core.storage.circuit import Circuit

MEMORY = "memory"
MAX_TIMEOUT = 1.0
"""Maximum wait for the storage in seconds. It holds up accepted requests, unlike the storage of keys."""

PAUSE = 5.0
"""Seconds after a timeout in which a process does not try the storage, so that few requests wait for it."""

REPORT_INTERVAL = 60.0
"""Seconds between two reports of one outage."""

_PACKAGES = {
    "redis": "redis",
    "rediss": "redis",
    "valkey": "valkey",
    "valkeys": "valkey",
    "memcached": "pymemcache",
    "mongodb": "pymongo",
}
"""Packages by the first part of a scheme. All of them have timeouts."""


class RateStorage:
    """Counts requests, and reports when that fails.

    Args:
        uri: URI of the storage.
        timeout: Maximum wait in seconds.
        now: Clock in seconds for windows in memory.
        on_failure: Called with a reason, at intervals, while the storage fails.

    Raises:
        ConfigurationError: The URI cannot be used, or a package is missing.
    """

    def __init__(
        self,
        uri: str,
        timeout: float,
        on_failure: Callable[[str], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = uri
        self._timeout = min(timeout, MAX_TIMEOUT)
        self._on_failure = on_failure
        self._circuit = Circuit(self._timeout, PAUSE)
        self._reporting = ProcessLock()
        self._reported_at: float | None = None
        self.is_in_memory = _scheme(uri) == MEMORY
        memory = MemoryWindows(now) if self.is_in_memory else None
        self._windows = PerProcess(lambda: memory or _opened(uri, self._timeout))
        if not self.is_in_memory:
            check_uri(uri)
            # The MongoDB driver raises an exception when it is collected after modules.
            atexit.register(_close_at_exit, weakref.ref(self))

    def take(self, bucket: str, rates: Sequence[Rate], cost: int) -> Taken | None:
        """Count a request in all windows, or in none if one of them is full. Return None if the storage fails."""
        if self.is_in_memory:
            return self._windows.get().take(bucket, rates, cost)
        try:
            return self._circuit.call(self._take, bucket, rates, cost)
        except ConfigurationError:
            raise
        except Exception as exc:  # noqa: BLE001  # drivers raise anything
            self._report(described(exc))
            return None

    def clear(self, bucket: str, rates: Sequence[Rate]) -> None:
        """Forget what was counted in the windows.

        Raises:
            StorageError: The storage failed.
        """
        try:
            self._windows.get().clear(bucket, rates)
        except ConfigurationError:
            raise
        except Exception as exc:  # noqa: BLE001  # drivers raise anything
            raise_alone(StorageError(f"the storage of rates failed: {described(exc)}"))

    def close(self) -> None:
        """Close the connections. The next request opens others. What is counted in memory stays."""
        windows = None if self.is_in_memory else self._windows.pop()
        if windows is not None:
            windows.close()

    def _take(self, bucket: str, rates: Sequence[Rate], cost: int) -> Taken:
        return self._windows.get().take(bucket, rates, cost)

    def _report(self, reason: str) -> None:
        now = time.monotonic()
        with self._reporting:
            if self._reported_at is not None and now - self._reported_at < REPORT_INTERVAL:
                return
            self._reported_at = now
        self._on_failure(reason)


def _close_at_exit(reference: "weakref.ref[RateStorage]") -> None:
    storage = reference()
    if storage is not None:
        storage.close()


def check_uri(uri: str) -> None:
    """Check the scheme of a URI, and that its package is installed.

    Raises:
        ConfigurationError: The message does not show the URI, which may hold a password.
    """
    scheme = _scheme(uri)
    package = _PACKAGES.get(scheme.partition("+")[0])
    if package is None:
        raise ConfigurationError(
            f"APIKEY_RATE_STORAGE_URI: {scheme!r:.40} is not a storage for rates; use memory, "
            f"{', '.join(_PACKAGES)}, such as redis://localhost:6379/0"
        )
    try:
        importlib.import_module(package)
    except ImportError:
        raise ConfigurationError(
            f"APIKEY_RATE_STORAGE_URI: {scheme} needs the package {package}: pip install {package}"
        ) from None


def _opened(uri: str, timeout: float) -> RateWindows:
    # Rates in memory, the default, need none of this, and it takes long to import.
    from limits.errors import ConfigurationError as LibraryConfigurationError  # noqa: PLC0415  # see above
    from limits.storage import RedisStorage, Storage, storage_from_string  # noqa: PLC0415  # see above

    from flask_apikey.core.limits.library import LibraryWindows  # noqa: PLC0415  # imports limits

    try:
        storage: Any = storage_from_string(uri, **_options(_scheme(uri).partition("+")[0], timeout))
    except LibraryConfigurationError:
        # Its text may quote the URI.
        raise_alone(ConfigurationError("APIKEY_RATE_STORAGE_URI: the library limits cannot use this URI"))
    if isinstance(storage, RedisStorage):
        return RedisWindows(storage.get_connection())
    if isinstance(storage, Storage):
        return LibraryWindows(storage)
    raise ConfigurationError("APIKEY_RATE_STORAGE_URI: the scheme is for asynchronous code; use the one without async+")


def _options(kind: str, timeout: float) -> dict[str, Any]:
    """Return the options that keep a storage from hanging."""
    if kind == "memcached":
        return {"connect_timeout": timeout, "timeout": timeout}
    if kind == "mongodb":
        milliseconds = int(timeout * 1000)
        # timeoutMS includes the driver's own retry.
        return dict.fromkeys(("timeoutMS", "serverSelectionTimeoutMS", "connectTimeoutMS"), milliseconds)
    package = _PACKAGES[kind]
    retry = importlib.import_module(f"{package}.retry").Retry(
        importlib.import_module(f"{package}.backoff").NoBackoff(), 0
    )
    # A request that is sent twice may be counted twice, and waits in between.
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": retry}


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].lower()

"""Windows in any storage of the library ``limits``."""

import time
from collections.abc import Sequence

from limits import RateLimitItemPerSecond
from limits.storage import MovingWindowSupport, Storage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, RateLimiter

from flask_apikey.core.limits.windows import RateWindows, Taken, WindowState
from flask_apikey.core.model.rates import Rate


class LibraryWindows(RateWindows):
    """Moving windows, or fixed ones where the storage has no others.

    Several rates are checked before any is counted. A request that other processes overtake
    in between is refused, although the windows before the full one have counted it.

    Args:
        storage: Storage of the library.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._strategy: RateLimiter = (
            MovingWindowRateLimiter(storage)
            if isinstance(storage, MovingWindowSupport)
            else FixedWindowRateLimiter(storage)
        )

    def take(self, bucket: str, rates: Sequence[Rate], cost: int) -> Taken:
        """Count a request in all windows, or in none if one of them is full."""
        items = [_item(rate) for rate in rates]
        accepted = not cost or all(self._strategy.test(item, bucket, cost=cost) for item in items)
        if accepted and cost:
            accepted = all(self._strategy.hit(item, bucket, cost=cost) for item in items)
        windows = []
        now = time.time()
        retry_in = 0.0
        for rate, item in zip(rates, items, strict=True):
            reset_time, remaining = self._strategy.get_window_stats(item, bucket)
            resets_in = max(0.0, reset_time - now) if remaining < rate.amount else 0.0
            windows.append(WindowState(rate, max(0, remaining), resets_in))
            if not accepted and remaining < cost:
                retry_in = max(retry_in, resets_in)
        return Taken(accepted, tuple(windows), retry_in)

    def clear(self, bucket: str, rates: Sequence[Rate]) -> None:
        """Forget what was counted in the windows."""
        for rate in rates:
            self._strategy.clear(_item(rate), bucket)

    def close(self) -> None:
        """Close the connections."""
        # Memcached has a client for each thread, which closes its connections when the thread ends.
        client = getattr(self._storage, "storage", None)
        if client is not None:
            client.close()


def _item(rate: Rate) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(rate.amount, rate.seconds, "flask-apikey")

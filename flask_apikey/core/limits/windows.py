"""The contract of storages that count requests in windows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from flask_apikey.core.model.rates import Rate


class WindowState(NamedTuple):
    """State of one window.

    Attributes:
        rate: The rate.
        remaining: What is left of it.
        resets_in: Seconds until the next part of it is available again; 0 if all is.
    """

    rate: Rate
    remaining: int
    resets_in: float


class Taken(NamedTuple):
    """Result of an attempt to count a request.

    Attributes:
        accepted: True if the request was counted in every window. Otherwise it was counted in none.
        windows: State of each window afterwards, in the order of the rates.
        retry_in: Seconds until a request of the same cost can pass, if it was refused.
    """

    accepted: bool
    windows: tuple[WindowState, ...]
    retry_in: float = 0.0


class RateWindows(ABC):
    """Windows of all keys and owners. A bucket has one window for each rate."""

    @abstractmethod
    def take(self, bucket: str, rates: Sequence[Rate], cost: int) -> Taken:
        """Count a request in all windows, or in none if one of them is full.

        Args:
            bucket: Printable ASCII without spaces.
            rates: The rates.
            cost: Cost of the request; 0 only reads the windows. It is not higher than any rate.
        """

    @abstractmethod
    def clear(self, bucket: str, rates: Sequence[Rate]) -> None:
        """Forget what was counted in the windows."""

    def close(self) -> None:  # noqa: B027  # windows in memory have nothing to close
        """Close the connections."""

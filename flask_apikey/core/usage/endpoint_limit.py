"""How many endpoints of a key are told apart."""

from collections.abc import Mapping

from flask_apikey.core.storage.contract import KeepsUsage
from flask_apikey.core.usage.labels import OTHER

MAX_KEYS_WITH_ENDPOINTS = 10_000
"""Of so many keys it is remembered which endpoints they have."""

CountLabel = tuple[str, int, str, str, str, str]
"""The beginning of a `UsageLabel`, which would take longer to make."""


class EndpointLimit:
    """Which endpoints each key has, where an application has more than a key may have.

    Args:
        storage: Where counts are kept.
        max_endpoints: So many endpoints of a key are told apart.
    """

    def __init__(self, storage: KeepsUsage, max_endpoints: int) -> None:
        self._storage = storage
        self._max = max_endpoints
        self._seen: set[str] = set()
        self._of: dict[str, set[str]] = {}

    def limited(self, counts: Mapping[CountLabel, int]) -> Mapping[CountLabel, int]:
        """The counts, those of endpoints beyond the limit of a key under one label.

        Raises:
            StorageError: What a key has already could not be read.
        """
        if len(self._seen) <= self._max:
            self._seen.update(label[2] for label in counts)
            if len(self._seen) <= self._max:
                return counts
        limited: dict[CountLabel, int] = {}
        for label, count in counts.items():
            if not self._admits(label[0], label[2]):
                label = (*label[:2], OTHER, *label[3:])  # noqa: PLW2901  # from here on it is that label
            limited[label] = limited.get(label, 0) + count
        return limited

    def _admits(self, key_id: str, endpoint: str) -> bool:
        of_key = self._of.get(key_id)
        if of_key is None:
            if len(self._of) >= MAX_KEYS_WITH_ENDPOINTS:
                self._of.clear()
            stored = self._storage.usage_endpoints(key_id, limit=self._max + 1)
            of_key = self._of[key_id] = set(stored) - {OTHER}
        if endpoint in of_key:
            return True
        if endpoint == OTHER or len(of_key) >= self._max:
            return False
        of_key.add(endpoint)
        return True

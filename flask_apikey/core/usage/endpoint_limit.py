"""Limit on the distinct endpoints counted for each key."""

from collections.abc import Mapping

from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.usage.labels import OTHER

MAX_CACHED_KEYS = 10_000
"""Maximum number of keys whose endpoints are cached."""

CountLabel = tuple[str, int, str, str, str, str, str]
"""The first fields of a `UsageLabel`, as a plain tuple because that is faster to build."""


class EndpointLimit:
    """Counts a key's endpoints beyond the limit under one label.

    Endpoints are looked up only once an application has more of them than a key may have.
    """

    def __init__(self, storage: UsageStore, max_endpoints: int) -> None:
        self._storage = storage
        self._max = max_endpoints
        self._all_endpoints: set[str] = set()
        self._endpoints_by_key: dict[str, set[str]] = {}

    def apply(self, counts: Mapping[CountLabel, int]) -> Mapping[CountLabel, int]:
        """Relabel endpoints beyond the limit as `OTHER`, and add up their counts."""
        if len(self._all_endpoints) <= self._max:
            self._all_endpoints.update(label[2] for label in counts)
            if len(self._all_endpoints) <= self._max:
                return counts
        limited: dict[CountLabel, int] = {}
        for label, count in counts.items():
            kept = label if self._admits(label[0], label[2]) else (*label[:2], OTHER, *label[3:])
            limited[kept] = limited.get(kept, 0) + count
        return limited

    def _admits(self, key_id: str, endpoint: str) -> bool:
        endpoints = self._endpoints_by_key.get(key_id)
        if endpoints is None:
            if len(self._endpoints_by_key) >= MAX_CACHED_KEYS:
                self._endpoints_by_key.clear()
            stored = self._storage.endpoints(key_id, limit=self._max + 1)
            endpoints = self._endpoints_by_key[key_id] = set(stored) - {OTHER}
        if endpoint in endpoints:
            return True
        if endpoint == OTHER or len(endpoints) >= self._max:
            return False
        endpoints.add(endpoint)
        return True

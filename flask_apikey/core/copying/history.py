"""Chains of events, read beside the rows of a storage."""

from collections.abc import Sequence

from flask_apikey.core.model.history import ChainCheck, LifecycleEvent
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.storage.chains import all_chains
from flask_apikey.core.storage.contract import HistoryStore


class SourceChains:
    """Events of keys that are asked for in the order of their ids."""

    def __init__(self, history: HistoryStore) -> None:
        self._events = all_chains(history)
        self._next = next(self._events, None)

    def chain_of(self, key_id: str) -> Sequence[LifecycleEvent]:
        """Return the events of a key, and skip those of all keys before it."""
        chain = []
        while self._next is not None and self._next.key_id <= key_id:
            if self._next.key_id == key_id:
                chain.append(self._next)
            self._next = next(self._events, None)
        return chain

    def problem_of(self, stored: StoredKey, chain: Sequence[LifecycleEvent]) -> str | None:
        """Return the reason why a chain is not the history of a row, or None."""
        check = ChainCheck()
        for event in chain:
            check.add(event)
        check.end_at(stored.record.version, stored.history_hash)
        return None if check.problem is None else check.problem[1]

"""Chains of events, read beside the rows of a storage."""

from collections.abc import Iterator, Sequence

from flask_apikey.core.model.history import LifecycleEvent, chain_problem
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.storage.contract import HistoryStore

_PAGE = 1_000


def all_chains(history: HistoryStore) -> Iterator[LifecycleEvent]:
    """Iterate over the events of all keys by key and number."""
    after = None
    while page := history.chains(after=after, limit=_PAGE):
        yield from page
        after = page[-1].key_id, page[-1].number


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
        problem = chain_problem(chain)
        if problem is not None:
            return problem[1]
        last = chain[-1] if chain else None
        if last is None or (last.number, last.hash) != (stored.record.version, stored.history_hash):
            return f"its history does not end with event {stored.record.version}, as its row says"
        return None

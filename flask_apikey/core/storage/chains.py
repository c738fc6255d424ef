"""Chains of events, read in pages."""

from collections.abc import Iterator
from itertools import takewhile

from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.storage.contract import HistoryStore

_PAGE = 1_000
_BEFORE_ALL_NUMBERS = -(2**62)


def all_chains(history: HistoryStore) -> Iterator[LifecycleEvent]:
    """Iterate over the events of all keys by key and number."""
    return _events_after(history, None)


def chain_of(history: HistoryStore, key_id: str) -> Iterator[LifecycleEvent]:
    """Iterate over the events of one key by number."""
    events = _events_after(history, (key_id, _BEFORE_ALL_NUMBERS))
    return takewhile(lambda event: event.key_id == key_id, events)


def _events_after(history: HistoryStore, after: tuple[str, int] | None) -> Iterator[LifecycleEvent]:
    while page := history.chains(after=after, limit=_PAGE):
        yield from page
        after = page[-1].key_id, page[-1].number

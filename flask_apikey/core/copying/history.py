"""Chains of events, read beside the rows of a storage."""

from collections.abc import Callable, Iterable, Iterator

from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.model.keystring import is_id


class ChainReader:
    """Events of one key after the other, in the order of ids.

    Args:
        events: Events of all keys by key and number.
        on_skipped: Called with the id of each key that was not taken.
    """

    def __init__(self, events: Iterable[LifecycleEvent], on_skipped: Callable[[str], object]) -> None:
        self._events = (event for event in events if is_id(event.key_id))
        self._on_skipped = on_skipped
        self._next = next(self._events, None)
        self._last_id = ""

    def take(self, key_id: str) -> Iterator[LifecycleEvent]:
        """Iterate over the events of a key. Skip those of all keys before it."""
        self._skip(key_id)
        self._last_id = key_id
        while self._next is not None and self._next.key_id == key_id:
            event = self._next
            self._next = next(self._events, None)
            yield event

    def skip_all(self) -> None:
        """Skip the remaining events."""
        self._skip(None)

    def _skip(self, before: str | None) -> None:
        while self._next is not None and (before is None or self._next.key_id < before):
            if self._next.key_id != self._last_id:
                self._last_id = self._next.key_id
                self._on_skipped(self._last_id)
            self._next = next(self._events, None)

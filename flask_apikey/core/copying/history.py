"""Lifecycle events that a copy brings to its target."""

from collections.abc import Iterator, Sequence
from functools import partial

from flask_apikey.core.copying.summary import stored_in
from flask_apikey.core.errors import TargetInUse
from flask_apikey.core.model.history import COPIED, PRUNED, ChainedEvent, all_events
from flask_apikey.core.storage.contract import Backend

_PAGE = 1_000


class SourceHistory:
    """History of the source, read on as it grows. The target must have a beginning of it."""

    def __init__(self, source: Backend, target: Backend) -> None:
        self._source = source.history
        self._last_number = 0
        self._removed: dict[str, int] = {}
        if target.history is not None:
            self._skip(stored_in(target, partial(all_events, target.history)))

    def new_events(self) -> Iterator[Sequence[ChainedEvent]]:
        """Read the events that the target lacks and that were not read before, page by page."""
        if self._source is None:
            return
        while page := self._source.events(after=self._last_number, limit=_PAGE):
            yield page
            for event in page:
                self._remember(event)

    def version_at_removal(self, key_id: str) -> int | None:
        """Return the version that a key got by its removal, or None if no event read so far removes it."""
        return self._removed.get(key_id)

    def _skip(self, events: Iterator[ChainedEvent]) -> None:
        expected = None if self._source is None else all_events(self._source)
        for event in events:
            # A source without history leaves only the events that copies wrote.
            is_copied = event.event.event == COPIED if expected is None else event == next(expected, None)
            if not is_copied:
                raise TargetInUse(f"event {event.number} of its history is not in the history of the source")
            self._remember(event)

    def _remember(self, event: ChainedEvent) -> None:
        self._last_number = event.number
        if event.event.event == PRUNED:
            self._removed[event.event.key_id] = event.event.key_version
        else:
            self._removed.pop(event.event.key_id, None)

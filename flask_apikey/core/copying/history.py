"""The history of one storage is followed by a copy to another."""

from collections.abc import Iterable, Iterator, Sequence

from flask_apikey.core.model.history import PRUNED, ChainedEvent, all_events
from flask_apikey.core.storage.contract import KeepsHistory

_PAGE = 1_000


class SourceHistory:
    """The events of the storage that is copied, read as they come.

    Args:
        source: The storage.
    """

    def __init__(self, source: KeepsHistory) -> None:
        self._source = source
        self._read = 0
        self._removed: dict[str, int] = {}

    def skip(self, beginning: Iterable[ChainedEvent]) -> bool:
        """Take events for read, as far as the history begins with them. Tells whether it does with all."""
        ours = all_events(self._source)
        for event in beginning:
            if event != next(ours, None):
                return False
            self._note(event)
        return True

    def new(self) -> Iterator[Sequence[ChainedEvent]]:
        """The events behind those that were read, a page at a time."""
        while page := self._source.events(after=self._read, limit=_PAGE):
            yield page
            for event in page:
                self._note(event)

    def version_removed(self, key_id: str) -> int | None:
        """The version that a key got by its removal, by what was read; None where it was not removed."""
        return self._removed.get(key_id)

    def _note(self, event: ChainedEvent) -> None:
        self._read = event.number
        if event.event.event == PRUNED:
            self._removed[event.event.key_id] = event.event.key_version
        else:
            self._removed.pop(event.event.key_id, None)

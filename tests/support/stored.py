"""Everything that a storage holds."""

from flask_apikey.core.storage.contract import EventFilter, KeyFilter


def all_events(history):
    """Events in order of time."""
    return list(history.events(EventFilter(), after=None, limit=100_000))


def all_keys(backend):
    """Keys by id, without tombstones."""
    return list(backend.scan(KeyFilter()))

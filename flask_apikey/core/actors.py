"""The actor of a change: the name of who makes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from flask_apikey.core.model.validation import checked_actor
from flask_apikey.core.text import redacted, sanitized

FAILED_LOADER = "unknown (actor loader failed)"
"""Actor of a change when the application's actor loader fails."""

_actor: ContextVar[str | None] = ContextVar("flask_apikey_actor", default=None)


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Name the actor of all changes in the block, in this thread or task. Blocks nest.

    Raises:
        InvalidValue: The name is empty, too long or not printable.
    """
    token = _actor.set(printable(checked_actor(name)))
    try:
        yield
    finally:
        _actor.reset(token)


def named_actor() -> str | None:
    """Return the name from the innermost `acting_as` block, or None outside of one."""
    return _actor.get()


def printable(name: str) -> str:
    """Return a name of any length and content as it is recorded, without secrets of keys."""
    # Cut again: a redacted text can be longer.
    return sanitized(redacted(sanitized(name)))


def key_actor(key_id: str) -> str:
    """Return the name of a key that acts for itself."""
    return f"key:{key_id}"

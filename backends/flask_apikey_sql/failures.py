"""What the driver said, as the contract's errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from flask_apikey.core.errors import StorageError

_UNDEFINED_TABLE = "42P01"
_NO_SUCH_TABLE = 1146
# Where transactions wait for each other, the database ends one and asks to repeat it.
_DEADLOCKS = (1213, 1205)
_DEADLOCK_STATES = ("40001", "40P01")


@contextmanager
def storage_errors(*drivers_own: type[BaseException]) -> Iterator[None]:
    """Turn what SQLAlchemy raises, and `drivers_own`, into `StorageError`."""
    try:
        yield
    except drivers_own as exc:
        raise storage_error(exc) from exc


def storage_error(exc: BaseException) -> StorageError:
    """The contract's error for one of the driver's; its parameters stay out of the message."""
    original = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    if _is_missing_table(original):
        return StorageError("the tables do not exist yet: run 'flask apikey init', or your migrations")
    if str(original) == "database is locked":
        return StorageError(
            "the SQLite database is locked: another connection has been writing all the time, "
            "perhaps a transaction of the application that is still open"
        )
    said = " ".join(str(original).split()) or type(original).__name__
    return StorageError(f"the database failed: {said}")


def must_be_repeated(exc: DBAPIError) -> bool:
    """Whether the transaction gave way to another, and would succeed now."""
    original = exc.orig
    if original is None:
        return False
    return getattr(original, "sqlstate", None) in _DEADLOCK_STATES or original.args[:1] in [(n,) for n in _DEADLOCKS]


def _is_missing_table(original: BaseException) -> bool:
    return (
        getattr(original, "sqlstate", None) == _UNDEFINED_TABLE
        or original.args[:1] == (_NO_SUCH_TABLE,)
        or str(original).startswith("no such table")
    )

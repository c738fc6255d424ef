"""What the driver said, as the contract's errors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, StatementError

from flask_apikey.core.errors import StorageError

_UNDEFINED_TABLE = "42P01"
_NO_SUCH_TABLE = 1146
# Where transactions wait for each other, or see what others changed since, the database ends one and asks to repeat it.
# MariaDB 11.8 does the latter by default. A wait that was too long (1205) is not repeated: it was 50 s already.
_GAVE_WAY = (1213, 1020)
_GAVE_WAY_STATES = ("40001", "40P01")


@contextmanager
def storage_errors(*drivers_own: type[BaseException]) -> Iterator[None]:
    """Turn what SQLAlchemy raises, and `drivers_own`, into `StorageError`. No traceback tells of rows."""
    try:
        yield
    except drivers_own as exc:
        # In a traceback, what the driver says would be followed by parameters, and by the row that it refuses.
        raise storage_error(exc) from None


def storage_error(exc: BaseException) -> StorageError:
    """The contract's error for one of the driver's; its parameters stay out of the message."""
    original = _original(exc)
    if _is_missing_table(original):
        return StorageError("the tables do not exist yet: run 'flask apikey init', or your migrations")
    if str(original) == "database is locked":
        return StorageError(
            "the SQLite database is locked: another connection has been writing all the time, "
            "perhaps a transaction of the application that is still open"
        )
    if _cannot_write_the_log(original):
        return StorageError(
            # Of a longer message the audit log would cut the end.
            f"{said(exc)}: SQLite's write-ahead log needs a folder that can be written even to read. "
            "A file that nobody writes can be opened as sqlite:///file:/path?immutable=1&uri=true"
        )
    return StorageError(f"the database failed: {said(exc)}")


def said(exc: BaseException) -> str:
    """What the driver says in one line, without parameters."""
    original = _original(exc)
    # PostgreSQL goes on with details, which quote the row that it refuses.
    primary = getattr(getattr(original, "diag", None), "message_primary", None) or _field(original, "M")
    return " ".join(str(primary or original).split()) or type(original).__name__


def must_be_repeated(exc: DBAPIError) -> bool:
    """Whether the transaction gave way to another, and would succeed now."""
    original = _original(exc)
    return _state(original) in _GAVE_WAY_STATES or original.args[:1] in [(number,) for number in _GAVE_WAY]


def _original(exc: BaseException) -> BaseException:
    return exc.orig if isinstance(exc, StatementError) and exc.orig is not None else exc


def _state(original: BaseException) -> object:
    # psycopg 2 has another name for it.
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or _field(original, "C")


def _cannot_write_the_log(original: BaseException) -> bool:
    # Python 3.10 does not tell it from a change that was refused.
    code = getattr(original, "sqlite_errorname", "SQLITE_READONLY_DIRECTORY")
    return str(original) == "attempt to write a readonly database" and code != "SQLITE_READONLY"


def _field(original: BaseException, code: str) -> object:
    # pg8000 gives the fields of PostgreSQL's answer by their codes.
    fields = original.args[0] if original.args else None
    return fields.get(code) if isinstance(fields, Mapping) else None


def _is_missing_table(original: BaseException) -> bool:
    return (
        _state(original) == _UNDEFINED_TABLE
        or original.args[:1] == (_NO_SUCH_TABLE,)
        or str(original).startswith("no such table")
    )

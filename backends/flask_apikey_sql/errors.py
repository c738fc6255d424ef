"""Conversion of driver errors to `StorageError`."""

from collections.abc import Mapping

from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError, StatementError

from flask_apikey.core.errors import StorageError
from flask_apikey.core.storage.driver_errors import DriverErrors

_UNDEFINED_TABLE = "42P01"
_NO_SUCH_TABLE = 1146
_INSUFFICIENT_PRIVILEGE = "42501"
_ACCESS_DENIED = ((1044,), (1142,), (1143,), (1227,))
_READ_ONLY_TRANSACTION = "25006"
_READ_ONLY_SERVER = ((1290,), (1792,), (1836,))
_READ_ONLY = ("read-only", "READ ONLY", "read only")
_NO_ENGINE_SUBSTITUTION = "NO_ENGINE_SUBSTITUTION"
_UNKNOWN_STORAGE_ENGINE = (1286,)
_INVALID_SCHEMA = "3F000"
_UNKNOWN_DATABASE = (1049,)
_EXISTS_ALREADY = ((1050,), (1060,), (1061,))
# Deadlocks and snapshot conflicts, which MariaDB 11.8 reports by default. Lock timeouts (1205) are not retried:
# they have taken 50 s already.
_SERIALIZATION_CODES = ((1213,), (1020,))
_SERIALIZATION_STATES = ("40001", "40P01")


def storage_errors() -> DriverErrors:
    """Return a context manager, or decorator, that converts exceptions of the driver to `StorageError`."""
    return DriverErrors(storage_error)


def storage_error(exc: Exception) -> StorageError:
    """Convert an exception of a driver. The message has no parameters."""
    if isinstance(exc, StorageError):
        return exc
    original = _original(exc)
    if _is_missing_table(original):
        return StorageError("the tables do not exist yet: run 'flask apikey init', or your migrations")
    if str(original) == "database is locked":
        return StorageError(
            "the SQLite database is locked: another connection has been writing all the time, perhaps an open "
            "transaction or query of the application. End it first, or keep the keys in another file with "
            "APIKEY_STORAGE_URI"
        )
    if _cannot_write_the_log(original):
        return StorageError(
            # The audit log truncates longer messages.
            f"{driver_message(exc)}: SQLite's write-ahead log needs a folder that can be written even to read. "
            "A file that nobody writes can be opened as sqlite:///file:/path?immutable=1&uri=true"
        )
    message = f"the database failed: {driver_message(exc)}"
    advice = _advice(original)
    return StorageError(f"{message}. {advice}" if advice else message)


def is_forbidden(exc: Exception) -> bool:
    """Return True if the account lacks a privilege."""
    original = _original(exc)
    return _state(original) == _INSUFFICIENT_PRIVILEGE or original.args[:1] in _ACCESS_DENIED


def exists_already(exc: Exception) -> bool:
    """Return True if MySQL has the table, column or index that was to be created."""
    return _original(exc).args[:1] in _EXISTS_ALREADY


def is_refused_as_data(exc: Exception) -> bool:
    """Return True if a value cannot be stored, so that nothing was and a retry is in vain."""
    original = _original(exc)
    # Drivers encode values themselves, and raise what Python raises.
    return isinstance(exc, DataError) or isinstance(original, TypeError | ValueError | OverflowError)


def driver_message(exc: BaseException) -> str:
    """Return the message of the driver in one line, without parameters."""
    original = _original(exc)
    # The details that PostgreSQL adds quote the rejected row.
    primary = getattr(getattr(original, "diag", None), "message_primary", None) or _field(original, "M")
    if not primary and not _is_of_database(exc, original):
        if isinstance(original, UnicodeError):
            return "its encoding lacks a character of a value"
        # Errors of Python quote the value.
        return f"its driver raised {type(original).__name__}"
    return " ".join(str(primary or original).split()) or type(original).__name__


def is_serialization_failure(exc: DBAPIError) -> bool:
    """Return True if a retry of the transaction may succeed."""
    original = _original(exc)
    return _state(original) in _SERIALIZATION_STATES or original.args[:1] in _SERIALIZATION_CODES


def _is_of_database(exc: BaseException, original: BaseException) -> bool:
    if isinstance(exc, DBAPIError) or isinstance(original, SQLAlchemyError | OSError):
        return True
    # PEP 249 gives each driver a class of this name.
    return any(each.__name__ == "Error" for each in type(original).__mro__)


def _original(exc: BaseException) -> BaseException:
    return exc.orig if isinstance(exc, StatementError) and exc.orig is not None else exc


def _state(original: BaseException) -> object:
    # psycopg 2 names it pgcode.
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or _field(original, "C")


def _cannot_write_the_log(original: BaseException) -> bool:
    # Python 3.10 has no sqlite_errorname.
    code = getattr(original, "sqlite_errorname", "SQLITE_READONLY_DIRECTORY")
    return str(original) == "attempt to write a readonly database" and code != "SQLITE_READONLY"


def _advice(original: BaseException) -> str:
    """Tell what to do about privileges and defaults of a server."""
    state, code = _state(original), original.args[:1]
    if state == _INSUFFICIENT_PRIVILEGE:
        return (
            "'flask apikey init' needs USAGE and CREATE on the schema, and to own tables that exist; the application "
            "needs USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on the tables flask_apikey_*: GRANT them"
        )
    if code in _ACCESS_DENIED:
        return (
            "'flask apikey init' needs CREATE, ALTER and INDEX on the tables flask_apikey_*, and the application needs "
            "SELECT, INSERT, UPDATE and DELETE: GRANT them"
        )
    # 1290 names any option that forbids a statement.
    is_read_only = code in _READ_ONLY_SERVER and any(words in str(original) for words in _READ_ONLY)
    if state == _READ_ONLY_TRANSACTION or is_read_only:
        return "Connect to the primary server, with an account whose transactions are not read-only by default"
    if code == _UNKNOWN_STORAGE_ENGINE or _NO_ENGINE_SUBSTITUTION in str(original):
        return "The tables need InnoDB: switch it on, and enforce_storage_engine off"
    if state == _INVALID_SCHEMA or code == _UNKNOWN_DATABASE:
        return "CREATE it, or correct the database, the schema of the metadata or the search_path"
    return ""


def _field(original: BaseException, code: str) -> object:
    # pg8000 has a mapping from PostgreSQL's field codes.
    fields = original.args[0] if original.args else None
    return fields.get(code) if isinstance(fields, Mapping) else None


def _is_missing_table(original: BaseException) -> bool:
    return (
        _state(original) == _UNDEFINED_TABLE
        or original.args[:1] == (_NO_SUCH_TABLE,)
        or str(original).startswith("no such table")
    )

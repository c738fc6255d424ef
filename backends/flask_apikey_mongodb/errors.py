"""Conversion of driver errors to `StorageError`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from bson.errors import BSONError
from pymongo.errors import OperationFailure, PyMongoError

from flask_apikey.core.errors import StorageError

DRIVER_ERRORS = (PyMongoError, BSONError, OSError)

# PyMongo appends the server's answer or the topology.
_appendix = re.compile(r", (?:full error|Topology Description): ").search


@contextmanager
def storage_errors() -> Iterator[None]:
    """Convert errors of PyMongo to `StorageError`. Its traceback shows no document."""
    try:
        yield
    except DRIVER_ERRORS as exc:
        # The driver's own traceback would show the rejected document.
        raise storage_error(exc) from None


def storage_error(exc: BaseException) -> StorageError:
    """Convert a driver error. The message has no documents and no commands."""
    if isinstance(exc, OperationFailure):
        # The text may quote the command with the document.
        name = (exc.details or {}).get("codeName")
        return StorageError(f"the database refused: {name or type(exc).__name__} (code {exc.code})")
    if isinstance(exc, BSONError):
        return StorageError(f"the database failed: {type(exc).__name__}")
    text = str(exc)
    appendix = _appendix(text)
    text = " ".join((text[: appendix.start()] if appendix else text).split())
    return StorageError(f"the database failed: {text or type(exc).__name__}")

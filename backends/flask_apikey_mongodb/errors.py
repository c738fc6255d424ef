"""Conversion of driver errors to `StorageError`."""

import re

from pymongo.errors import OperationFailure, PyMongoError

from flask_apikey.core.errors import StorageError
from flask_apikey.core.storage.driver_errors import DriverErrors

# PyMongo appends the server's answer or the topology.
_appendix = re.compile(r", (?:full error|Topology Description): ").search


def storage_errors() -> DriverErrors:
    """Return a context manager, or decorator, that converts exceptions of the driver to `StorageError`."""
    return DriverErrors(storage_error)


def storage_error(exc: Exception) -> StorageError:
    """Convert an exception of PyMongo. The message has no documents and no commands."""
    if isinstance(exc, StorageError):
        return exc
    if isinstance(exc, OperationFailure):
        # The text may quote the command with the document.
        name = (exc.details or {}).get("codeName")
        return StorageError(f"the database refused: {name or type(exc).__name__} (code {exc.code})")
    if not isinstance(exc, PyMongoError | OSError):
        # Errors of BSON and of Python quote the value.
        return StorageError(f"the database failed: its driver raised {type(exc).__name__}")
    text = str(exc)
    appendix = _appendix(text)
    text = " ".join((text[: appendix.start()] if appendix else text).split())
    return StorageError(f"the database failed: {text or type(exc).__name__}")

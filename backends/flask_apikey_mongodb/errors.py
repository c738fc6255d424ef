"""What the driver said, as the contract's errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from bson.errors import BSONError
from pymongo.errors import OperationFailure, PyMongoError

from flask_apikey.core.errors import StorageError

DRIVER_ERRORS = (PyMongoError, BSONError, OSError)

# The driver appends the server's whole answer, or all it knows of the deployment.
_appendix = re.compile(r", (?:full error|Topology Description): ").search


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what PyMongo raises into `StorageError`. No traceback tells of documents."""
    try:
        yield
    except DRIVER_ERRORS as exc:
        # In a traceback, what the driver says would quote the document that the server refuses.
        raise storage_error(exc) from None


def storage_error(exc: BaseException) -> StorageError:
    """The contract's error for one of the driver's; documents and commands stay out of the message."""
    if isinstance(exc, OperationFailure):
        # Its text may quote the command, and with it the document.
        name = (exc.details or {}).get("codeName")
        return StorageError(f"the database refused: {name or type(exc).__name__} (code {exc.code})")
    if isinstance(exc, BSONError):
        return StorageError(f"the database failed: {type(exc).__name__}")
    said = str(exc)
    appendix = _appendix(said)
    said = " ".join((said[: appendix.start()] if appendix else said).split())
    return StorageError(f"the database failed: {said or type(exc).__name__}")

"""Conversion of driver errors to `StorageError`."""

import re
from contextlib import ContextDecorator
from types import TracebackType

from pymongo.errors import OperationFailure, PyMongoError

from flask_apikey.core.errors import APIKeyError, StorageError, raise_alone

# PyMongo appends the server's answer or the topology.
_appendix = re.compile(r", (?:full error|Topology Description): ").search


class storage_errors(ContextDecorator):  # noqa: N801  # reads like a function, as contextlib.suppress
    """Context manager that converts every exception but those of this library to `StorageError`.

    The frames of PyMongo hold the rejected document. The traceback does not have them.
    """

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Convert an exception."""
        if isinstance(exc, Exception) and (isinstance(exc, StorageError) or not isinstance(exc, APIKeyError)):
            error = storage_error(exc)
            del exc, traceback
            raise_alone(error)


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

"""Conversion of the exceptions of a driver."""

from collections.abc import Callable
from contextlib import ContextDecorator
from types import TracebackType

from flask_apikey.core.errors import APIKeyError, StorageError, raise_alone


class DriverErrors(ContextDecorator):
    """Context manager that converts every exception but those of this library to `StorageError`.

    The frames of a driver hold parameters and the rejected row. The traceback does not have them.

    Args:
        convert: Returns the error to raise for an exception of the driver.
    """

    def __init__(self, convert: Callable[[Exception], StorageError]) -> None:
        self._convert = convert

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Convert an exception."""
        if isinstance(exc, Exception) and (isinstance(exc, StorageError) or not isinstance(exc, APIKeyError)):
            error = self._convert(exc)
            del exc, traceback
            raise_alone(error)

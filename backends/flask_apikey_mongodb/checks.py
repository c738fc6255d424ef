"""Values that go into queries, checked so that none can be an operator."""

from flask_apikey.core.errors import InvalidValue


def checked_text(value: object, what: str) -> str:
    """A str.

    Raises:
        InvalidValue: It is something else.
    """
    if not isinstance(value, str):
        raise InvalidValue(f"{what} must be a str, not {type(value).__name__}")
    return value


def checked_number(value: object, what: str) -> int:
    """An int.

    Raises:
        InvalidValue: It is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValue(f"{what} must be an int, not {type(value).__name__}")
    return value

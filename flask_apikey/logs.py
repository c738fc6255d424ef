"""Optional parts of a logging configuration: a JSON formatter, and a filter that redacts keys."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from flask_apikey.core.audit_log import FIELDS
from flask_apikey.core.text import redacted

__all__ = ["JSONFormatter", "RedactKeys"]


class JSONFormatter(logging.Formatter):
    """Formatter that writes each record as a JSON object on one line.

    The object has time (ISO 8601, UTC), level, logger, message, and the fields of a
    security event.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: vars(record)[name] for name in FIELDS if vars(record).get(name) is not None})
        if record.exc_text or record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info or (None, None, None))
        return json.dumps(line)


class RedactKeys(logging.Filter):
    """Filter that redacts the secret of every API key, and every Fernet token, in a record.

    The values of headers that ``APIKEY_ACCEPT`` names are redacted too, of every application in the process.

    The traceback becomes text, so that no formatter adds local variables to it.

    Add it to handlers, not loggers: the filter of a logger does not see the records
    of child loggers. With structlog, use it as a processor too, just before the renderer.
    """

    def __call__(self, _logger: object, _method: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """Redact an event of structlog."""
        return _redacted_event(event)

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record in place.

        Returns:
            True: no record is dropped.
        """
        if isinstance(record.msg, Mapping):
            # structlog renders it later.
            record.msg = _redacted_event(record.msg)
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  # wrong arguments can raise anything; logging catches it in handlers only
            message = record.msg = f"{record.msg} (with wrong arguments: {record.args!r})"
            record.args = ()
        safe = redacted(message)
        if safe != message or redacted(repr(record.args)) != repr(record.args):
            record.msg, record.args = safe, ()
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        # Formatters that write tracebacks of their own, some with local variables, write this text instead.
        record.exc_info = None
        for name, value in vars(record).items():
            setattr(record, name, _redacted(value))
        return True


def _redacted_event(event: Mapping[str, Any]) -> dict[str, Any]:
    event = dict(event)
    exc_info = event.pop("exc_info", None)
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    elif exc_info and not isinstance(exc_info, tuple):
        exc_info = sys.exc_info()
    if exc_info and exc_info[0] is not None:
        event["exception"] = logging.Formatter().formatException(exc_info)
    return dict(map(_redacted_pair, event.items()))


def _redacted_pair(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Redact a name and its value. The value of a header that presents keys has no other mark than the name."""
    name, value = pair
    if isinstance(name, str) and isinstance(value, str):
        before = f"{name}: "
        text = redacted(before + value)
        if text.startswith(before):
            return name, text.removeprefix(before)
    return _redacted(name), _redacted(value)


def _redacted(value: Any) -> Any:
    """Redact a value of any type. An object whose text has a key becomes that text."""
    if isinstance(value, str):
        return redacted(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    try:
        if isinstance(value, Mapping):
            return dict(map(_redacted_pair, value.items()))
        if type(value) in {list, tuple, set, frozenset}:
            is_pair = isinstance(value, tuple) and len(value) == 2  # noqa: PLR2004  # such as a header
            return _redacted_pair(value) if is_pair else type(value)(map(_redacted, value))
        text = f"{value} {value!r}"
    except Exception:  # noqa: BLE001  # objects of the application, which the formatter could not write either
        return f"<{type(value).__name__}>"
    return value if redacted(text) == text else redacted(str(value))

"""Optional parts of a logging configuration: a JSON formatter, and a filter that redacts keys."""

import json
import logging
from datetime import datetime, timezone

from flask_apikey.core.audit_log import FIELDS
from flask_apikey.core.text import redacted


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
        if record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps(line)


class RedactKeys(logging.Filter):
    """Filter that redacts the secret of every API key in a record.

    Add it to handlers, not loggers: the filter of a logger does not see the records
    of child loggers.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record in place.

        Returns:
            True: no record is dropped.
        """
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  # wrong arguments can raise anything; logging catches it in handlers only
            message = record.msg = f"{record.msg} (with wrong arguments: {record.args!r})"
            record.args = ()
        safe = redacted(message)
        if safe != message:
            record.msg, record.args = safe, ()
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redacted(record.exc_text)
        for name, value in vars(record).items():
            if isinstance(value, str):
                setattr(record, name, redacted(value))
        return True

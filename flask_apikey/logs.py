"""For your logging configuration: a formatter for machines, and a filter that hides keys."""

import json
import logging
from datetime import datetime, timezone

from flask_apikey.core.audit_log import FIELDS
from flask_apikey.core.model.keystring import redacted


class JSONFormatter(logging.Formatter):
    """One JSON object on each line: time (ISO 8601, UTC), level, logger, message, and the fields of security events."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter.format``."""
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
    """Hides the secret of every API key that stands anywhere in a message.

    Add it to handlers: a filter on a logger does not see the records of the
    loggers below it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See ``logging.Filter.filter``. Lets every record pass."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  # whatever wrong arguments raise; logging would catch it in handlers, and not here
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

"""JSON formatter and redaction of keys in log records."""

import io
import json
import logging

import pytest
import pythonjsonlogger.json
import rich.console
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.logging import RichHandler

from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.core.model.sealing import SealContent, SealedSecrets
from flask_apikey.core.text import redacted
from flask_apikey.logs import JSONFormatter, RedactKeys
from flask_apikey.testing.samples import RING


def formatted(stream, formatter):
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    return handler


def rich_handler(stream):
    console = rich.console.Console(file=stream, width=400)
    return RichHandler(console=console, rich_tracebacks=True, tracebacks_show_locals=True)


class TestRedaction:
    @given(st.from_regex(r"[0-9A-Za-z]{1,8}(_[0-9A-Za-z]{1,8})?", fullmatch=True), st.text(), st.text())
    def test_key_within_any_text(self, prefix, before, after):
        key = mint(prefix, new_id())
        assert key[-49:] not in redacted(before + key + after)

    def test_truncated_key(self):
        key = mint("fak", new_id())
        assert redacted(f"got {key[:40]}!") == f"got {key[:21]}[redacted]!"

    def test_text_without_secret_is_unchanged(self):
        text = "GET /books/7 200 in 3 ms by fak_8sQ2dKf0LmX7Tz1B"
        assert redacted(text) == text

    @pytest.fixture
    def written(self):
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JSONFormatter())
        handler.addFilter(RedactKeys())
        logger = logging.getLogger("an.application")
        logger.addHandler(handler)
        yield stream.getvalue
        logger.removeHandler(handler)

    def test_arguments_extras_and_tracebacks_are_redacted(self, written):
        key = mint("acme_live", new_id())
        logger = logging.getLogger("an.application")
        logger.error("failed with %s", key)
        try:
            int(key)
        except ValueError:
            logger.exception("failed", extra={"reason": key})
        assert key[-49:] not in written()
        assert key[:26] in written()

    def test_wrong_arguments_are_redacted_without_error(self, written):
        key = mint("fak", new_id())
        logging.getLogger("an.application").error("%d requests", f"with {key}")
        message = json.loads(written())["message"]
        assert message.startswith("%d requests (with wrong arguments: ('with fak_")
        assert key[-49:] not in message

    @pytest.mark.parametrize(
        "handler_with",
        [
            lambda stream: formatted(stream, pythonjsonlogger.json.JsonFormatter()),
            lambda stream: formatted(stream, pythonjsonlogger.json.JsonFormatter("%(message)s %(args)s %(exc_info)s")),
            rich_handler,
            lambda stream: formatted(stream, JSONFormatter()),
            lambda stream: formatted(stream, logging.Formatter("%(message)s %(args)s %(request)s")),
        ],
        ids=["json-logger", "json-logger-fields", "rich", "ours", "logging"],
    )
    def test_formatters_of_others_show_no_secret(self, handler_with):
        stream = io.StringIO()
        handler = handler_with(stream)
        handler.addFilter(RedactKeys())
        logger = logging.getLogger("formatted.by.others")
        logger.addHandler(handler)
        logger.propagate = False
        key, seal = mint("acme_live", new_id()), RING.seal(SealContent(SealedSecrets((b"x",)), {})).token
        request = {"headers": [("X-API-Key", key)], "body": key.encode(), b"seal": {seal}, "error": ValueError(key)}
        try:
            int(key)
        except ValueError:
            logger.exception("refused", extra={"request": request}, stack_info=True)
            logger.exception("refused %s %s", key, {"seal": seal}, extra={"request": key})
        logger.warning({"key": key, "seal": seal}, extra={"request": ""})
        logger.warning("nothing", *[{"key": key}], extra={"request": ""})
        logger.debug("updated %s", seal, extra={"request": ""})
        logger.removeHandler(handler)
        written = "".join(stream.getvalue().split())
        assert "refused" in written
        assert "nothing" in written
        assert key[-40:] not in written
        assert seal[20:40] not in written

    @pytest.mark.parametrize("renders_late", [False, True])
    @pytest.mark.parametrize(
        "renderer",
        [
            structlog.processors.JSONRenderer(),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
    )
    def test_structlog_shows_no_secret(self, renderer, renders_late):
        rendered = [structlog.contextvars.merge_contextvars, RedactKeys(), renderer]
        late = structlog.stdlib.ProcessorFormatter
        formatter = late(processors=[late.remove_processors_meta, *rendered]) if renders_late else logging.Formatter()
        handler = formatted(stream := io.StringIO(), formatter)
        handler.addFilter(RedactKeys())
        logger = logging.getLogger("formatted.by.structlog")
        logger.addHandler(handler)
        logger.propagate = False
        log = structlog.wrap_logger(logger, processors=[late.wrap_for_formatter] if renders_late else rendered)
        key = mint("acme_live", new_id())
        with structlog.contextvars.bound_contextvars(presented=key):
            try:
                int(key)
            except ValueError as exc:
                log.exception("refused", body=f"got {key}", headers={"X-API-Key": [key]})
                log.exception("refused", exc_info=exc)
            logger.warning("plain")
        logger.removeHandler(handler)
        written = "".join(stream.getvalue().split())
        assert key[-40:] not in written
        assert written.count("refused") == 2
        assert written.count("ValueError:invalidliteral") == 2
        assert written.count("[redacted]") >= 6

    def test_one_json_object_per_line(self, written):
        logging.getLogger("an.application").error("two\nlines", extra={"event": "authentication", "outcome": "failure"})
        (line,) = written().splitlines()
        parsed = json.loads(line)
        assert (parsed["message"], parsed["event"], parsed["level"]) == ("two\nlines", "authentication", "ERROR")
        assert parsed["time"].endswith("+00:00")

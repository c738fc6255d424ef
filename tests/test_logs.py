"""JSON formatter and redaction of keys in log records."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.core.text import redacted
from flask_apikey.logs import JSONFormatter, RedactKeys


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

    def test_one_json_object_per_line(self, written):
        logging.getLogger("an.application").error("two\nlines", extra={"event": "authentication", "outcome": "failure"})
        (line,) = written().splitlines()
        parsed = json.loads(line)
        assert (parsed["message"], parsed["event"], parsed["level"]) == ("two\nlines", "authentication", "ERROR")
        assert parsed["time"].endswith("+00:00")

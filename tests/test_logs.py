"""What the formatter writes for machines, and what the filter hides."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.model.keystring import mint, new_id, redacted
from flask_apikey.logs import JSONFormatter, RedactKeys


class TestRedaction:
    @given(st.from_regex(r"[0-9A-Za-z]{1,8}(_[0-9A-Za-z]{1,8})?", fullmatch=True), st.text(), st.text())
    def test_no_secret_of_a_key_survives_anywhere_in_a_text(self, prefix, before, after):
        key = mint(prefix, new_id())
        assert key[-49:] not in redacted(before + key + after)

    def test_a_key_that_is_cut_short_is_redacted_too(self):
        key = mint("fak", new_id())
        assert redacted(f"got {key[:40]}!") == f"got {key[:21]}[redacted]!"

    def test_other_text_stays(self):
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

    def test_the_filter_hides_keys_in_messages_arguments_and_tracebacks(self, written):
        key = mint("acme_live", new_id())
        logger = logging.getLogger("an.application")
        logger.error("failed with %s", key)
        try:
            int(key)
        except ValueError:
            logger.exception("failed", extra={"reason": key})
        assert key[-49:] not in written()
        assert key[:26] in written()

    def test_the_filter_lets_wrong_arguments_raise_nothing_and_hides_keys_in_them(self, written):
        key = mint("fak", new_id())
        logging.getLogger("an.application").error("%d requests", f"with {key}")
        message = json.loads(written())["message"]
        assert message.startswith("%d requests (with wrong arguments: ('with fak_")
        assert key[-49:] not in message

    def test_the_formatter_writes_one_json_object_a_line(self, written):
        logging.getLogger("an.application").error("two\nlines", extra={"event": "authentication", "outcome": "failure"})
        (line,) = written().splitlines()
        parsed = json.loads(line)
        assert (parsed["message"], parsed["event"], parsed["level"]) == ("two\nlines", "authentication", "ERROR")
        assert parsed["time"].endswith("+00:00")

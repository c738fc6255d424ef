"""Untrusted text, made safe to log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.text import sanitized


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain", "plain"),
        ("Größe 日本", "Größe 日本"),
        ("a\r\nWARNING forged", "a\\u{d}\\u{a}WARNING forged"),
        ("\u202egnp.exe", "\\u{202e}gnp.exe"),
        ("\x00\x1b[31m", "\\u{0}\\u{1b}[31m"),
        ("\udcff", "\\u{dcff}"),
    ],
)
def test_sanitized(text, safe):
    assert sanitized(text) == safe


@given(st.text(st.characters(codec=None)), st.integers(2, 300))
def test_any_text_becomes_one_line_of_bounded_length(text, length):
    safe = sanitized(text, length)
    assert len(safe) <= length
    assert len(safe.splitlines()) <= 1
    safe.encode()

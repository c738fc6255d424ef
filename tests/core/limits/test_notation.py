"""Limits in text."""

import pytest

from flask_apikey.core.limits.notation import parse_limit


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [("60/minute", 60, 60), ("5 per second", 5, 1), ("100/5 minutes", 100, 300), (" 1 / hour ", 1, 3600)],
)
def test_limit(text, amount, seconds):
    item = parse_limit(text)
    assert (item.amount, item.get_expiry()) == (amount, seconds)


@pytest.mark.parametrize(
    "value",
    ["", "60", "0/minute", "-1/minute", "60/fortnight", "60/minute;5/second", "9" * 5000 + "/day", 60, None, b""],
)
def test_refused(value):
    with pytest.raises(ValueError, match="must be one limit from 1 on, such as '60/minute'") as refused:
        parse_limit(value)
    assert len(str(refused.value)) < 250

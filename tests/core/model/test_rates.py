"""Single rates in text."""

import subprocess
import sys

import pytest

from flask_apikey.core.model.rates import parse_rate


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [("60/minute", 60, 60), ("5 per second", 5, 1), ("100/5 minutes", 100, 300), (" 1 / hour ", 1, 3600)],
)
def test_rate(text, amount, seconds):
    rate = parse_rate(text)
    assert (rate.amount, rate.seconds) == (amount, seconds)


@pytest.mark.parametrize(
    "value",
    ["", "60", "0/minute", "-1/minute", "60/fortnight", "60/minute;5/second", "9" * 5000 + "/day", 60, None, b""],
)
def test_refused(value):
    with pytest.raises(ValueError, match="must be one limit from 1 on, such as '60/minute'") as refused:
        parse_rate(value)
    assert len(str(refused.value)) < 250


APPLICATION = """
import sys
from flask import Flask
from flask_apikey import APIKeys, generate_fernet_key

app = Flask("app")
app.config["APIKEY_FERNET_KEY"] = generate_fernet_key()
APIKeys(app)
sys.exit("limits" in sys.modules)
"""


def test_library_is_only_imported_for_rates():
    assert subprocess.run([sys.executable, "-c", APPLICATION], check=False).returncode == 0

"""Tokens of drf-simple-apikey."""

import base64
import csv
import hashlib
import json
import traceback
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey import ConfigurationError
from flask_apikey.core.model.fernet_tokens import TokenReader, row_number

KEY = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
OTHER = base64.urlsafe_b64encode(bytes(range(32))).decode()
SAMPLES = Path(__file__).parents[1] / "adoption/samples/drf-simple-apikey"
READER = TokenReader([KEY, OTHER])
END = 2114380799.123456


def made(content, key=KEY):
    text = content if isinstance(content, str) else json.dumps(content)
    return Fernet(key).encrypt(text.encode()).decode()


@given(
    row=st.integers(0, 10**18),
    as_text=st.booleans(),
    end=st.floats(0, 4e9),
    secret=st.none() | st.text(max_size=60),
    key=st.sampled_from([KEY, OTHER]),
)
def test_token_is_read(row, as_text, end, secret, key):
    content = {"_pk": str(row) if as_text else row, "_exp": end} | ({} if secret is None else {"_secret": secret})
    token = READER.read(made(content, key))
    assert (token.row, token.secret) == (str(row), secret)
    assert abs(end - token.ends_at.timestamp()) < 0.00001


@given(st.data())
def test_every_spelling_has_one_digest(data):
    text = made({"_pk": 1, "_exp": END})
    position = data.draw(st.integers(0, len(text.rstrip("="))))
    stray = data.draw(st.text("! \n.$\x7f", max_size=5))
    spelt = (text[:position] + stray + text[position:]).translate({ord("-"): "+", ord("_"): "/"})
    assert READER.read(spelt) == READER.read(text)
    assert READER.read(text).digest == hashlib.sha256(text.encode()).digest()


def test_other_bits_behind_the_end_are_the_same_token():
    text = made({"_pk": 18, "_exp": END, "_secret": "s" * 43})
    assert text.endswith("==")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = text[:-3] + alphabet[alphabet.index(text[-3]) ^ 1] + "=="
    assert other != text
    assert READER.read(other) == READER.read(text)


@given(st.text() | st.binary().map(lambda each: base64.urlsafe_b64encode(b"\x80" + each).decode()))
def test_anything_else_is_no_token(text):
    assert READER.read(text) is None


@given(st.data())
def test_changed_token_is_refused(data):
    raw = bytearray(base64.urlsafe_b64decode(made({"_pk": 1, "_exp": END})))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert READER.read(base64.urlsafe_b64encode(raw).decode()) is None


@pytest.mark.parametrize(
    "content",
    [
        "hello",
        "[]",
        "1",
        "null",
        "{",
        "[" * 100_000,
        '{"_pk": 1}',
        '{"_exp": 1}',
        '{"_pk": null, "_exp": 1}',
        '{"_pk": true, "_exp": 1}',
        '{"_pk": 1.0, "_exp": 1}',
        '{"_pk": [1], "_exp": 1}',
        '{"_pk": "01", "_exp": 1}',
        '{"_pk": " 1", "_exp": 1}',
        '{"_pk": "\u0661", "_exp": 1}',
        '{"_pk": "1; drop", "_exp": 1}',
        '{"_pk": "", "_exp": 1}',
        '{"_pk": 1, "_exp": null}',
        '{"_pk": 1, "_exp": true}',
        '{"_pk": 1, "_exp": "2114380799"}',
        '{"_pk": 1, "_exp": NaN}',
        '{"_pk": 1, "_exp": Infinity}',
        '{"_pk": 1, "_exp": 1e300}',
        f'{{"_pk": 1, "_exp": 1{"0" * 400}}}',
        f'{{"_pk": 1{"0" * 5000}, "_exp": 1}}',
        '{"_pk": 1, "_exp": 1, "_secret": 5}',
    ],
    ids=range(26),
)
def test_other_content(content):
    token = made(content) if len(content) < 50_000 else Fernet(KEY).encrypt(content.encode()).decode()
    assert READER.read(token) is None


def test_other_fernet_key():
    assert READER.read(made({"_pk": 1, "_exp": END}, Fernet.generate_key())) is None


@pytest.mark.parametrize("version", ["1.0.2", "2.4.1", "main"])
def test_samples(version):
    keys = json.loads((SAMPLES / version / "fernet.json").read_text())
    reader = TokenReader(keys.values())
    with (SAMPLES / version / "keys.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            token = reader.read(row["key"])
            if row["encrypted_with"] == "neither" or "_exp" not in row["payload"]:
                assert token is None, row["case"]
            else:
                payload = json.loads(row["payload"])
                assert token.row == row["row_id"] == str(payload["_pk"])
                assert token.ends_at == datetime.fromtimestamp(payload["_exp"], timezone.utc)
                assert token.secret == payload.get("_secret")


@pytest.mark.parametrize(
    "keys",
    [[], None, KEY, KEY.encode(), [None], [""], [KEY[:-1]], [KEY, KEY], [KEY, KEY.encode()], [KEY, "x" * 44]],
    ids=range(10),
)
def test_keys_that_are_none(keys):
    with pytest.raises(ConfigurationError, match="fernet_keys") as caught:
        TokenReader(keys)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert KEY[:10] not in shown.partition("TokenReader(keys)")[2].partition("\n    self")[2]
    assert "xxxx" not in str(caught.value)


def test_nothing_secret_is_shown():
    token = READER.read(made({"_pk": 1, "_exp": END, "_secret": "held"}))
    assert "held" not in repr(token)
    assert token.digest.hex() not in repr(token)
    assert KEY not in repr(vars(type(READER))) + repr(READER)


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), ("7", "7"), (-7, "-7"), (0, "0"), (10**18, "1" + "0" * 18), (10**19, None), ("7\n", None), (7.0, None)],
)
def test_row_number(value, text):
    assert row_number(value) == text

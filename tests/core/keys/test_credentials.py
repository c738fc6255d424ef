"""Credentials, read from the headers of a request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.keys.credentials import MALFORMED, Credentials, bearer_beginnings, read_credentials
from flask_apikey.core.model.keystring import MAX_LENGTH, mint

KEY = mint("fak", "0123456789ABCDEF")
OTHER = mint("fak", "0123456789ABCDEF")

field_values = st.none() | st.text(st.characters(max_codepoint=255), max_size=300)


def without_key(value):
    """Test ids must not contain a key that differs between processes."""
    return value.replace(KEY, "KEY")


def read(authorization=None, x_api_key=None, prefixes=("fak",)):
    return read_credentials(authorization, x_api_key, bearer_beginnings(prefixes))


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *(("authorization", f"{scheme} {KEY}") for scheme in ("Api-Key", "api-key", "API-KEY", "Bearer", "bearer")),
        *(("authorization", value) for value in (f"ApI-kEy   {KEY}", f"  Api-Key {KEY}  ", f"\tApi-Key {KEY}\t")),
        ("authorization", f"BEARER  {KEY} "),
        *(("x_api_key", value) for value in (KEY, f" {KEY}", f"{KEY} ", f"\t{KEY}\t")),
    ],
    ids=without_key,
)
def test_key_in_a_header(header, value):
    assert read(**{header: value}) == Credentials(KEY)
    assert KEY not in repr(read(**{header: value}))


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "   ", KEY, "Basic dXNlcjpwYXNz", "Digest username=x", "Negotiate x", "Api-Keys x", "Api-Key2 x"),
        *("Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", "Bearer", "Bearer ", "Bearer fakx_1", "Bearer FAK_1"),
    ],
    ids=lambda value: without_key(str(value)),
)
def test_other_scheme_is_ignored(value):
    assert read(authorization=value) is None
    assert read(authorization=value, x_api_key=KEY) == Credentials(KEY)


def test_bearer_token_needs_an_accepted_prefix():
    prefixes = ("acme_live", "acme_old")
    assert read(authorization=f"Bearer {KEY}", prefixes=prefixes) is None
    assert read(authorization="Bearer acme_live_x", prefixes=prefixes) == Credentials("acme_live_x")
    assert read(authorization="Bearer acme_old_x", prefixes=prefixes) == Credentials("acme_old_x")
    assert read(authorization="Bearer acme_x", prefixes=prefixes) is None


@pytest.mark.parametrize(
    "headers",
    [
        *({"authorization": value} for value in ("Api-Key", "Api-Key ", "Api-Key \t ", " api-key")),
        *({"x_api_key": value} for value in ("", " ", "\t")),
    ],
)
def test_empty_key_is_malformed(headers):
    assert read(**headers) == MALFORMED


@pytest.mark.parametrize("length", [MAX_LENGTH + 1, 1_000, 65_536])
def test_too_long_key_is_malformed(length):
    assert read(x_api_key="x" * length) == MALFORMED
    assert read(authorization="Api-Key " + "x" * length) == MALFORMED
    assert read(authorization="Bearer fak_" + "x" * length) == MALFORMED


def test_two_keys_are_malformed():
    assert read(authorization=f"Api-Key {KEY}", x_api_key=KEY) == MALFORMED
    assert read(authorization=f"Api-Key {KEY}", x_api_key=OTHER) == MALFORMED
    assert read(authorization=f"Bearer {KEY}", x_api_key=KEY) == MALFORMED
    assert read(authorization="Api-Key", x_api_key=KEY) == MALFORMED


@given(field_values, field_values)
def test_any_headers(authorization, x_api_key):
    credentials = read(authorization, x_api_key)
    assert credentials is None or credentials.key is None or 0 < len(credentials.key) <= MAX_LENGTH
    assert x_api_key is None or credentials is not None
    for scheme in ("Api-Key ", "Bearer fak_", "bearer fak_", "api-key "):
        assert read(authorization=scheme + (authorization or "")) is not None

"""Credentials, read from the headers of a request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_apikey.core.keys.credentials import MALFORMED, Credentials
from flask_apikey.core.keys.key_headers import DEFAULT_ENTRIES, DEFAULT_HEADERS, KeyHeaders, key_starts
from flask_apikey.core.model.keystring import MAX_LENGTH, mint

KEY = mint("fak", "0123456789ABCDEF")
OTHER = mint("fak", "0123456789ABCDEF")

field_values = st.none() | st.text(st.characters(max_codepoint=255), max_size=300)


def without_key(value):
    """Test ids must not contain a key that differs between processes."""
    return value.replace(KEY, "KEY")


def without_key_in(value):
    # Both keys are random, and all test processes must have the same ids.
    return without_key(str(value)).replace(OTHER, "OTHER")


def read(authorization=None, x_api_key=None, prefixes=("fak",), accept=DEFAULT_ENTRIES, **headers):
    values = {"HTTP_AUTHORIZATION": authorization, "HTTP_X_API_KEY": x_api_key}
    values |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    environ = {name: value for name, value in values.items() if value is not None}
    return KeyHeaders(accept, key_starts(prefixes)).read(environ)


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


ACCEPT = ("Authorization: Token", "Authorization: Bearer", "X-Acme-Key", "X-Old-Key")


class TestAccept:
    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({"authorization": f"Token {KEY}"}, Credentials(KEY)),
            ({"authorization": f"TOKEN {KEY}"}, Credentials(KEY)),
            ({"authorization": "Token"}, MALFORMED),
            ({"authorization": "Token eyJhbGciOiJIUzI1NiJ9.e30.x"}, Credentials("eyJhbGciOiJIUzI1NiJ9.e30.x")),
            ({"authorization": f"Bearer {KEY}"}, Credentials(KEY)),
            ({"authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"}, None),
            ({"authorization": f"Api-Key {KEY}"}, None),
            ({"x_api_key": KEY}, None),
            ({"x_acme_key": KEY}, Credentials(KEY)),
            ({"x_old_key": KEY, "x_api_key": OTHER}, Credentials(KEY)),
            ({"x_acme_key": KEY, "x_old_key": KEY}, MALFORMED),
            ({"x_acme_key": "", "x_old_key": KEY}, MALFORMED),
            ({"authorization": f"Token {KEY}", "x_old_key": KEY}, MALFORMED),
            ({"authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", "x_old_key": KEY}, Credentials(KEY)),
        ],
        ids=without_key_in,
    )
    def test_headers_and_schemes(self, headers, expected):
        assert read(**headers, accept=ACCEPT) == expected

    def test_no_scheme(self):
        accept = ("X-Acme-Key",)
        assert read(authorization=f"Api-Key {KEY}", accept=accept) is None
        assert read(authorization=f"Api-Key {KEY}", x_acme_key=KEY, accept=accept) == Credentials(KEY)
        headers = KeyHeaders(accept)
        assert (headers.names, headers.environ_names, headers.scheme) == (
            ("X-Acme-Key",),
            ("HTTP_X_ACME_KEY",),
            "Api-Key",
        )
        assert headers.header_for(KEY) == ("X-Acme-Key", KEY)
        assert headers.advice() == "Send a key as 'X-Acme-Key: <key>'."

    def test_names_and_challenge(self):
        headers = KeyHeaders(("X-Old-Key", "authorization:token", "Authorization: Bearer"))
        assert headers.entries == ("Authorization: token", "Authorization: Bearer", "X-Old-Key")
        assert (headers.names, headers.scheme) == (("Authorization", "X-Old-Key"), "token")
        assert headers.header_for(KEY) == ("Authorization", f"token {KEY}")
        assert DEFAULT_HEADERS.advice() == (
            "Send a key as 'Authorization: Api-Key <key>', as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."
        )

    @pytest.mark.parametrize(
        ("entries", "problem"),
        [
            ((), "must name at least one header"),
            (("X-API-Key", "x-api-key"), "names 'x-api-key' twice"),
            (("Authorization: Token", "authorization:  token"), "twice"),
            (("Authorization",), "'Authorization' needs a scheme"),
            (("Authorization:",), "is neither a header"),
            (("Authorization: Api Key",), "is neither a header"),
            (("Authorization: Basic",), "'Authorization: Basic' are not a key"),
            (("X-API-Key: Token",), "is neither a header"),
            (("X_API_Key",), "is neither a header"),
            (("X-API-Key\r\nSet-Cookie",), "is neither a header"),
            (("X-" + "a" * 100,), "is neither a header"),
            (("Cookie",), "has another meaning"),
            (("Content-Type",), "has another meaning"),
            (("X-Forwarded-For",), "has another meaning"),
        ],
    )
    def test_refused_entry(self, entries, problem):
        with pytest.raises(ValueError, match=problem):
            KeyHeaders(entries)

    @given(st.lists(st.text(max_size=30) | st.sampled_from([*ACCEPT, *DEFAULT_ENTRIES]), max_size=4))
    def test_any_entries(self, entries):
        """Accepted entries are stable, and read what they present."""
        try:
            headers = KeyHeaders(entries, key_starts(["fak"]))
        except ValueError:
            return
        assert KeyHeaders(headers.entries).entries == headers.entries
        name, value = headers.header_for(KEY)
        assert headers.read({f"HTTP_{name.upper().replace('-', '_')}": value}) == Credentials(KEY)

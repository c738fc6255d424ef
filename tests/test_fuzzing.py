"""Hostile input for the parsers that strangers reach: nothing raises, nothing is accepted, no secret is logged.

A few inputs are tried by default, and as many as fit into a time on request:
``FLASK_APIKEY_FUZZ_SECONDS=600 python -m pytest tests/test_fuzzing.py -rP``.
"""

import ipaddress
import json
import logging
import os
import re
import string
import time
from collections import deque
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache, wraps

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flask_apikey import APIKeys, InvalidValue, require_api_key
from flask_apikey.core import audit_log as audit
from flask_apikey.core.addresses import is_allowed
from flask_apikey.core.forwarding_headers import HEADER_NAMES
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.keystring import checksum, parse
from flask_apikey.core.model.sealed_rows import sealed_row
from flask_apikey.core.model.sealing import SealedSecrets, digest, generate_fernet_key
from flask_apikey.core.model.validation import checked_networks
from flask_apikey.logs import JSONFormatter

SECONDS = float(os.environ.get("FLASK_APIKEY_FUZZ_SECONDS", "0"))
EXAMPLES = 1000 if SECONDS else 100


def genuine_key(key_id, secret):
    body = f"fak_{key_id}_{secret}"
    return body + checksum(body)


OPEN_KEY = genuine_key("OpenToAnyAddress", "4vNqk0ZrT8sYp2LwXh6Jd1BmCg9Ff3EaUu7Ii5OoRrS")
LISTED_KEY = genuine_key("OneAddressAlone0", "Zx9Wc8Vb7Nm6Lk5Jh4Gf3Ds2Aq1PoIuYtReWzXcVbN0")
KEYS = (OPEN_KEY, LISTED_KEY)
PIECE = 12
"""Length of a part of a secret that cannot occur by chance."""

PROXY, ALLOWED, ELSEWHERE = "10.0.0.1", "203.0.113.77", "198.51.100.7"

# What a server can hand on (PEP 3333), and line breaks and NUL, which it should not.
noise = st.text(st.characters(codec="latin-1"), max_size=12)


def fragments(*dictionary):
    """Text put together from pieces that mean something to a parser, and from noise."""
    return st.lists(st.sampled_from(dictionary) | noise, max_size=12).map("".join)


@st.composite
def damaged_keys(draw):
    """A genuine key with a few edits."""
    text = list(draw(st.sampled_from(KEYS)))
    characters = st.sampled_from(string.ascii_letters + string.digits + "_-, \t\0\r\n\xad\xa0\xdf\xff")
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        text[start : start + draw(st.integers(0, 3))] = draw(st.lists(characters, max_size=2))
    return "".join(text)


key_pieces = (
    *KEYS,
    *(part for key in KEYS for part in key.split("_")),
    *("fak_", "_", "__", "0" * 16, "A" * 49, "fak_" * 20),
)
key_text = st.one_of(fragments(*key_pieces), damaged_keys(), st.text(max_size=120))
schemes = (
    *("Api-Key ", "api-key ", "API-KEY\t", "Bearer ", "Bearer fak_", "bearer", "Basic "),
    *(",", ", Api-Key ", " ", "="),
)
credentials = st.one_of(
    fragments(*key_pieces, *schemes),
    st.builds("{}{}".format, st.sampled_from(schemes), damaged_keys()),
    st.builds("{}{}{}".format, st.sampled_from(schemes), st.sampled_from(KEYS), noise),
)
presented = st.one_of(
    st.tuples(st.none() | credentials, st.none() | credentials),
    st.tuples(st.none() | st.builds("Api-Key {}".format, key_text), st.sampled_from(KEYS)),
)
forwarding = fragments(
    *('"', "\\", '\\"', ",", ";", "=", " ", "\t", "[", "]", ":", "%", "%eth0", ", ", ":443", "unknown", "_hidden", "_"),
    *("for=", 'for="', 'for="[', ']"', ";proto=https", "proto=", "by=", "host=", "https", "http", "FOR=", ",for="),
    *(ALLOWED, f"for={ALLOWED}", f'for="[::ffff:{ALLOWED}]:1"', "::ffff:cb00:714d", f"[{ALLOWED}]", f"{ALLOWED}:80"),
    *(PROXY, f"for={PROXY}", f"{PROXY}, ", "10.", "0x0a.1", "::", "::1", "1" * 200, "," * 40),
)
hops = st.sampled_from(
    [
        *(ALLOWED, f"[{ALLOWED}]:443", f"::ffff:{ALLOWED}", "unknown", PROXY),
        *(f"for={ALLOWED};proto=https", f'For="{ALLOWED}:1";PROTO=HTTPS', f"for={PROXY};proto=https", "for=_x"),
    ]
)
forwarding |= st.lists(hops, min_size=1, max_size=5).map(", ".join)
networks = fragments(
    *("/", "/0", "/8", "/24", "/32", "/33", "/128", "/255.255.255.0", "/0.0.0.255", "/-1", "/+8", "%", "%1", " ", ","),
    *("10.0.0.0", "0.0.0.", "010.1.1.1", "1.2.3", "256.1.1.1", "::", "::1", "2001:db8::", "fe80::1", "::ffff:"),
    *("::ffff:10.0.0.0", "::ffff:0:0", "ffff", ":", ".", "0", "1", "\u0661", "\uff11"),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "HTTP_X_REQUEST_ID": fragments(*KEYS, "_", "fak_", "request", "0" * 16, "-" * 60),
        **dict.fromkeys(("HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "HTTP_FORWARDED"), forwarding),
        "HTTP_X_FORWARDED_PROTO": forwarding,
    },
)


class Log(logging.Handler):
    """Keeps the last lines, as they would be written."""

    def __init__(self):
        super().__init__()
        self.setFormatter(JSONFormatter())
        self.lines = deque(maxlen=100)

    def emit(self, record):
        self.lines.append(self.format(record))


log = Log()


@contextmanager
def logging_everything():
    """Every event is written, no failure held back as repeated."""
    with pytest.MonkeyPatch.context() as patch:
        logger = logging.getLogger(audit.LOGGER_NAME)
        patch.setattr(audit, "MAX_FAILURES_LOGGED", float("inf"))
        patch.setattr(audit, "MAX_LINES", float("inf"))
        patch.setattr(logger, "propagate", False)
        level = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(log)
        try:
            yield
        finally:
            logger.removeHandler(log)
            logger.setLevel(level)


class Guarded:
    """An application behind a proxy, with a key for every address and one for a single address."""

    def __init__(self, forwarded_header):
        self.app = Flask(__name__)
        self.app.config.update(
            APIKEY_FERNET_KEY=generate_fernet_key(),
            APIKEY_STORAGE_URI="sqlite:///:memory:",
            APIKEY_MIN_FAILURE_TIME=0,
            APIKEY_FAILURE_LIMIT=None,
            APIKEY_TRUSTED_PROXIES=[PROXY],
            APIKEY_FORWARDED_HEADER=forwarded_header,
        )
        APIKeys(self.app)
        self.app.add_url_rule("/", view_func=require_api_key(lambda: "open"))
        state = self.app.extensions["apikey"]
        self.authenticator = state.services.authenticator
        now = datetime.now(timezone.utc)
        for key, allowed in ((OPEN_KEY, ()), (LISTED_KEY, (f"{ALLOWED}/32",))):
            record = APIKey(
                id=parse(key).id, prefix="fak", name="ci", allowed_ips=allowed, created_at=now, updated_at=now
            )
            state.backend.add(sealed_row(record, "", SealedSecrets((digest(key),)), state.ring))

    def verdict(self, peer, scheme, sent):
        """The ``code`` in the answer, or ``"ok"``."""
        log.lines.clear()
        environ = EnvironBuilder(base_url=f"{scheme}://localhost").get_environ()
        body, status, _ = run_wsgi_app(self.app, {**environ, "REMOTE_ADDR": peer, **sent})
        assert_no_secret(log.lines)
        if status == "200 OK":
            return "ok"
        problem = json.loads(b"".join(body))
        assert log.lines or problem["code"] == "missing_key"
        return problem["code"]


@cache
def guarded(forwarded_header="X-Forwarded-For"):
    return Guarded(forwarded_header)


def assert_no_secret(lines):
    for line in lines:
        for key in KEYS:
            secret = key.rpartition("_")[2]
            assert not any(secret[start : start + PIECE] in line for start in range(len(secret) - PIECE + 1)), line


def check_headers(presented, others):
    """Only a single header that is a whole genuine key, and nothing else, is accepted."""
    authorization, x_api_key = presented
    sent = {"HTTP_AUTHORIZATION": authorization, "HTTP_X_API_KEY": x_api_key, **others}
    sent = {name: value for name, value in sent.items() if value is not None}
    verdict = guarded().verdict(ELSEWHERE, "https", sent)
    assert verdict in {"ok", "missing_key", "invalid_key", "address_not_allowed"}
    if verdict in {"ok", "address_not_allowed"}:
        key = OPEN_KEY if verdict == "ok" else LISTED_KEY
        if x_api_key is None:
            assert re.fullmatch(rf"[ \t]*(?i:api-key|bearer) [ \t]*{key}[ \t]*", authorization)
        else:
            assert x_api_key.strip(" \t") == key
            assert not re.match(r"(?i:[ \t]*api-key( |$))|(?i:[ \t]*bearer) [ \t]*fak_", authorization or "")


def check_key(text):
    """What parses has the form of a key, and opens nothing unless it is one."""
    parsed = parse(text)
    if parsed is not None:
        prefix, key_id, secret = text.rsplit("_", 2)
        assert parsed == (prefix, key_id)
        assert (len(key_id), len(secret)) == (16, 49)
        assert set(text) <= set(string.ascii_letters + string.digits + "_")
        assert text[-6:] == checksum(text[:-6])
    log.lines.clear()
    decision = guarded().authenticator.authenticate(Credentials(text), None)
    assert_no_secret([*log.lines, repr(decision)])
    assert not decision.accepted or text == OPEN_KEY


def check_spoofing(header, spoofed, others):
    """What a client wrote stands left of what the proxy adds, or is replaced by it, and never gets its way."""
    variable = f"HTTP_{header.upper().replace('-', '_')}"
    for proto in ("https", "http"):
        added = {
            "X-Forwarded-For": f"{spoofed}, {ELSEWHERE}",
            "X-Real-IP": ELSEWHERE,
            "Forwarded": f"{spoofed}, for={ELSEWHERE};proto={proto}",
        }
        sent = {
            **others,
            "HTTP_X_API_KEY": LISTED_KEY,
            variable: added[header],
            "HTTP_X_FORWARDED_PROTO": proto,
        }
        verdict = guarded(header).verdict(PROXY, "http", sent)
        assert verdict == "https_required" or (verdict, proto) == ("address_not_allowed", "https")


def check_direct_connection(header, forged):
    """Who connects without the proxy is where the connection comes from, whatever it says."""
    sent = {**forged, "HTTP_X_API_KEY": LISTED_KEY}
    assert guarded(header).verdict(ELSEWHERE, "https", sent) == "address_not_allowed"
    assert guarded(header).verdict(ALLOWED, "https", sent) == "ok"
    assert guarded(header).verdict(ALLOWED, "http", sent) == "https_required"


def check_address_list(texts, address):
    """What is stored is canonical and means what the standard library says; the rest is refused by name."""
    try:
        stored = checked_networks(texts, "allowed_ips")
    except InvalidValue:
        return
    assert checked_networks(stored, "allowed_ips") == stored
    contained = any(address in ipaddress.ip_network(each) for each in stored)
    assert is_allowed(address, stored, ()) is (contained or not stored)
    assert is_allowed(address, (), stored) is not contained
    assert is_allowed(None, stored, ()) is not stored


PROPERTIES = {
    "headers": (check_headers, presented, headers),
    "keys": (check_key, key_text),
    "spoofing": (check_spoofing, st.sampled_from(HEADER_NAMES), forwarding, headers),
    "direct connections": (check_direct_connection, st.sampled_from(HEADER_NAMES), headers),
    "address lists": (check_address_list, st.lists(networks, max_size=4), st.ip_addresses()),
}


@pytest.mark.no_cover  # the other tests reach the same lines in less time
@pytest.mark.parametrize("name", PROPERTIES)
def test_hostile_input(name):
    check, *strategies = PROPERTIES[name]
    tried = 0

    @wraps(check)
    def counted(*drawn, **named):
        nonlocal tried
        tried += 1
        check(*drawn, **named)

    tries = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))(given(*strategies)(counted))
    first = number = time.time_ns() if SECONDS else 0
    ends = time.monotonic() + SECONDS / len(PROPERTIES)
    with logging_everything():
        while number == first or time.monotonic() < ends:
            seed(number)(tries)()
            number += 1
    print(f"{name}: {tried} inputs, seeds {first} to {number - 1}")  # noqa: T201 - pytest shows it with -rP


def test_genuine_keys():
    with logging_everything():
        assert guarded().verdict(ELSEWHERE, "https", {"HTTP_X_API_KEY": OPEN_KEY}) == "ok"
        assert guarded().verdict(ALLOWED, "https", {"HTTP_X_API_KEY": LISTED_KEY}) == "ok"

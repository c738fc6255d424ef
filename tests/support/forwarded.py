"""Requests behind proxies, as their addresses and forwarding headers."""

import ipaddress

from hypothesis import strategies as st

from flask_apikey.core.addresses import parse_address
from flask_apikey.core.forwarding_headers import (
    HEADER_NAMES,
    TrustedProxies,
)

PROXY = "10.0.0.1"
VICTIM = "192.0.2.1"
CALLER = "198.51.100.7"
VARIABLES = {name: "HTTP_" + name.upper().replace("-", "_") for name in HEADER_NAMES}
TRUSTED = ("10.0.0.0/8", "2001:db8:a::/48")
# Servers refuse CR, LF and NUL in a header, and decode the rest as Latin-1.
field_text = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"))
fragments = st.sampled_from(
    [
        *('"', "\\", ",", ";", "=", " ", "\t", "[", "]", ":", "%", "\x80"),
        *("for", "for=", 'for="', "proto", "proto=https", "by=", ", for=", '";', '",', '\\"', "unknown", "_x"),
        *(VICTIM, f"for={VICTIM}", 'for="[2001:db8::1]:80"', f"for={VICTIM};proto=https,", PROXY, f"for={PROXY}"),
    ]
)
hostile_text = st.one_of(field_text, st.lists(fragments, max_size=12).map("".join))
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda each: parse_address(str(each)))
proxy_addresses = st.one_of(
    *(st.ip_addresses(network=network) for network in TRUSTED),
    st.ip_addresses(network=TRUSTED[0]).map(lambda each: ipaddress.IPv6Address(f"::ffff:{each}")),
)
ports = st.integers(0, 65535)


def is_untrusted(address):
    return not TrustedProxies(TRUSTED).trusts(address)


def environment(peer=PROXY, scheme="http", **headers):
    return {"REMOTE_ADDR": peer, "wsgi.url_scheme": scheme} | headers


def forwarded_node(address, port=None):
    text = str(address) if address.version == 4 else f"[{address}]"
    return text if port is None else f"{text}:{port}"


def forwarded_element(address, proto, port=None):
    return f'for="{forwarded_node(address, port)}";proto={proto}'


def caller_from(name, value, *, proto=None, scheme="http", trusted=TRUSTED):
    """Return the caller of a request in which a trusted proxy sent this header."""
    headers = {VARIABLES[name]: value} | ({} if proto is None else {"HTTP_X_FORWARDED_PROTO": proto})
    return TrustedProxies(trusted, name).caller(environment(scheme=scheme, **headers))

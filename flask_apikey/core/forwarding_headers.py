"""Forwarding headers of trusted proxies: ``Forwarded``, ``X-Forwarded-For`` and ``X-Real-IP``.

A forwarding header is read only if the socket peer is a trusted proxy. It is read
from the right, where proxies append. A client's own entries are further left and
are never reached.

A scheme that is missing or unknown is refused like plain HTTP, but does not prove it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from flask_apikey.core.addresses import Address, parse_address, parse_network

_MAX_PROXIES = 32

HEADER_NAMES = ("X-Forwarded-For", "X-Real-IP", "Forwarded")
"""Supported forwarding headers."""

PEERS_WITHOUT_ADDRESS = frozenset({"", "localhost", "0.0.0.0", "<local>", "unix:"})  # noqa: S104  # nothing is bound
"""``REMOTE_ADDR`` on Unix sockets: of gunicorn and gevent, waitress, uWSGI, werkzeug, and Unit."""

_SECURE_SCHEMES = frozenset({"https", "wss"})
_PLAIN_SCHEMES = frozenset({"http", "ws"})
_PLAIN_CLAIMS = _PLAIN_SCHEMES | {"off", "false", "no", "0", "80", "8080", '{"scheme":"http"}'}
# Proxies have many names for the scheme, such as CloudFront-Forwarded-Proto, Front-End-Https and X-ARR-SSL.
_names_scheme = re.compile(
    r"HTTP_(?!SEC_)(?:.*(?:PROTO|SCHEME|SSL|TLS|HTTPS).*|X_FORWARDED_PORT|CF_VISITOR)", re.DOTALL
).fullmatch
_names_proxy = re.compile(r"HTTP_(?:FORWARDED|VIA|X_REAL_IP|X_FORWARDED_.*)", re.DOTALL).fullmatch

# RFC 7239, section 6: a port may be obfuscated.
_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_node = re.compile(rf"(?:\[([^\[\]]*)\]|([0-9.]+)){_PORT}").fullmatch
# RFC 9110, section 5.6: token and quoted-string
_RULE_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # a rule of the grammar
_RULE_QUOTED = r'"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*)"'
_forwarded_pair = re.compile(rf"[ \t]*(?:({_RULE_TOKEN})=(?:({_RULE_TOKEN})|{_RULE_QUOTED})[ \t]*)?(?:([;,])|\Z)").match
_escaped = re.compile(r"\\(.)", re.DOTALL)


def is_secure(scheme: str) -> bool:
    """Return True for the schemes of requests over TLS. Proxies and servers name WebSocket handshakes ``wss``."""
    return scheme.lower() in _SECURE_SCHEMES


def removes_headers(environ: Mapping[str, object]) -> bool:
    """Return True for waitress, which by default removes what proxies write: clients and proxies look alike."""
    return str(environ.get("SERVER_SOFTWARE", "")).startswith("waitress")


class Caller(NamedTuple):
    """Client that made a request: its canonical address, if known, and True if it used HTTPS."""

    address: Address | None
    is_secure: bool


class TrustedProxies:
    """Proxies whose forwarding header is trusted. ``"unix"`` is a peer without an address, on a Unix socket."""

    def __init__(self, networks: Sequence[str] = (), header: str = "X-Forwarded-For") -> None:
        self._networks = tuple(parse_network(network) for network in networks if network != "unix")
        self._trusts_unix = "unix" in networks
        if header.lower() not in _HEADERS:
            raise ValueError(f"must be one of {', '.join(HEADER_NAMES)}, not {header!r:.100}")
        self._read = _HEADERS[header.lower()]

    def __bool__(self) -> bool:
        return bool(self._networks) or self._trusts_unix

    def trusts(self, address: Address) -> bool:
        """Return True if `address` is that of a trusted proxy."""
        return any(address in network for network in self._networks)

    def caller(self, environ: Mapping[str, object]) -> Caller:
        """Return the client of a request, from its WSGI environment (PEP 3333)."""
        peer, is_trusted = self._peer(environ)
        if not is_trusted:
            return Caller(peer, is_secure(str(environ.get("wsgi.url_scheme", ""))))
        # Servers set wsgi.url_scheme from headers that a client can forge: behind a proxy it is unreliable.
        return self._read(environ, self)

    def is_proxied(self, environ: Mapping[str, object]) -> bool:
        """Return True if the peer of a request is a trusted proxy."""
        return self._peer(environ)[1]

    def shows_plain_http(self, environ: Mapping[str, object]) -> bool:
        """Return True if a request certainly came over plain HTTP.

        A client can only make this False, which spares its own key.
        """
        peer, is_trusted = self._peer(environ)
        if not is_trusted:
            # A proxy that is not declared may end TLS.
            is_direct = not (
                removes_headers(environ) or any(_names_proxy(name) or _names_scheme(name) for name in environ)
            )
            has_address = peer is not None and not peer.is_unspecified
            return is_direct and has_address and str(environ.get("wsgi.url_scheme")).lower() in _PLAIN_SCHEMES
        forwarded = _forwarded_schemes(environ)
        claims = chain.from_iterable(_claims(environ, name) for name in environ if _names_scheme(name))
        return (
            self.says_plain_http(environ)
            and forwarded is not None
            # An inner proxy reports its own connection, and another header still tells of TLS at the edge.
            and _PLAIN_CLAIMS.issuperset(chain(forwarded, claims))
        )

    def says_plain_http(self, environ: Mapping[str, object]) -> bool:
        """Return True if the header that is read names plain HTTP, whatever other headers say."""
        is_forwarded = self._read is _read_forwarded
        schemes = _forwarded_schemes(environ) if is_forwarded else _claims(environ, "HTTP_X_FORWARDED_PROTO")
        return _PLAIN_SCHEMES.issuperset(schemes or [""])

    def _peer(self, environ: Mapping[str, object]) -> tuple[Address | None, bool]:
        """Return the address of the peer, and True if it is a trusted proxy."""
        remote = environ.get("REMOTE_ADDR")
        text = remote if isinstance(remote, str) else ""
        peer = parse_address(text)
        if self._trusts_unix and text in PEERS_WITHOUT_ADDRESS:
            return peer, True
        return peer, peer is not None and bool(self._networks) and self.trusts(peer)


def _read_x_forwarded_for(environ: Mapping[str, object], proxies: TrustedProxies) -> Caller:
    nodes = str(environ.get("HTTP_X_FORWARDED_FOR", "")).rsplit(",", _MAX_PROXIES)
    return Caller(_first_untrusted(map(_parse_node, reversed(nodes)), proxies), _used_https(environ))


def _read_x_real_ip(environ: Mapping[str, object], _proxies: TrustedProxies) -> Caller:
    return Caller(_parse_node(str(environ.get("HTTP_X_REAL_IP", ""))), _used_https(environ))


def _read_forwarded(environ: Mapping[str, object], proxies: TrustedProxies) -> Caller:
    elements = parse_forwarded(str(environ.get("HTTP_FORWARDED", "")))
    if not elements:
        return Caller(None, is_secure=False)
    for element in elements[: -_MAX_PROXIES - 2 : -1]:
        address = _parse_node(element.get("for", ""))
        if address is None or not proxies.trusts(address):
            break
    else:
        if len(elements) > _MAX_PROXIES:
            return Caller(None, is_secure=False)
    return Caller(address, is_secure(element.get("proto", "")))


_HEADERS = {
    "x-forwarded-for": _read_x_forwarded_for,
    "x-real-ip": _read_x_real_ip,
    "forwarded": _read_forwarded,
}


def parse_forwarded(value: str) -> list[dict[str, str]] | None:
    """Return the elements of a ``Forwarded`` field (RFC 7239, section 4), nearest proxy last.

    None if any part is malformed: the text right of it could belong to a quoted
    string that a client opened.
    """
    elements: list[dict[str, str]] = [{}]
    position = 0
    while position < len(value):
        match = _forwarded_pair(value, position)
        if match is None:
            return None
        name, token, quoted, separator = match.groups()
        if name is not None:
            if name.lower() in elements[-1]:
                return None
            elements[-1][name.lower()] = token if token is not None else _escaped.sub(r"\1", quoted)
        if separator == ",":
            elements.append({})
        position = match.end()
    return [element for element in elements if element]


def _first_untrusted(nearest_first: Iterable[Address | None], proxies: TrustedProxies) -> Address | None:
    address = None
    for address in nearest_first:
        if address is None or not proxies.trusts(address):
            break
    return address


def _used_https(environ: Mapping[str, object]) -> bool:
    schemes = str(environ.get("HTTP_X_FORWARDED_PROTO", "")).split(",")
    return all(is_secure(scheme.strip(" \t")) for scheme in schemes)


def _forwarded_schemes(environ: Mapping[str, object]) -> list[str] | None:
    """Return the schemes in ``Forwarded``; None if it is malformed."""
    elements = parse_forwarded(str(environ.get("HTTP_FORWARDED", "")))
    return None if elements is None else [element["proto"].lower() for element in elements if "proto" in element]


def _claims(environ: Mapping[str, object], name: str) -> list[str]:
    value = environ.get(name)
    return [] if value is None else [claim.strip(" \t").lower() for claim in str(value).split(",")]


def _parse_node(text: str) -> Address | None:
    text = text.strip(" \t")
    match = _node(text)
    return parse_address((match[1] or match[2] or "") if match else text)

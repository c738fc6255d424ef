"""Client addresses, networks, and forwarding headers of trusted proxies.

A forwarding header is read only if the socket peer is a trusted proxy. It is read
from the right, where proxies append. A client's own entries are further left and
are never reached.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_IPV4_OFFSET = 96
_MAX_PROXIES = 32
_MAX_ADDRESS_LENGTH = 64

HEADER_NAMES = ("X-Forwarded-For", "X-Real-IP", "Forwarded")
"""Supported forwarding headers."""

_bracketed = re.compile(r"\[([^\[\]]*)\](?::[0-9]{1,5})?").fullmatch
_with_port = re.compile(r"([0-9.]+):[0-9]{1,5}").fullmatch
# RFC 9110, section 5.6: token and quoted-string
_RULE_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # a rule of the grammar
_RULE_QUOTED = r'"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*)"'
_forwarded_pair = re.compile(rf"[ \t]*(?:({_RULE_TOKEN})=(?:({_RULE_TOKEN})|{_RULE_QUOTED})[ \t]*)?(?:([;,])|\Z)").match
_escaped = re.compile(r"\\(.)", re.DOTALL)


def parse_address(text: str) -> Address | None:
    """Return the canonical address, or None if `text` is not an address. A zone id is dropped.

    An IPv4-mapped IPv6 address becomes the IPv4 address (RFC 4291, section 2.5.5.2).
    """
    return _parse_short_address(text) if len(text) <= _MAX_ADDRESS_LENGTH else None


@lru_cache(maxsize=4096)
def _parse_short_address(text: str) -> Address | None:
    bare, percent, _zone = text.partition("%")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return None if percent else address
    return address.ipv4_mapped or address


def parse_network(text: str) -> Network:
    """Return the canonical network of an address or of a network in CIDR notation.

    Raises:
        ValueError: The text is neither.
    """
    if "/" not in text:
        address = parse_address(text)
        if address is not None:
            return ipaddress.ip_network(address)
    if "%" in text:
        raise ValueError(f"{text!r} has a zone id, which a network cannot have")
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _IPV4_OFFSET))
    return network


def is_allowed(address: Address | None, allowed: tuple[str, ...], denied: tuple[str, ...]) -> bool:
    """Return True if the address passes the lists of a key. A denial wins.

    An unknown address passes only if both lists are empty.
    """
    if not allowed and not denied:
        return True
    if address is None:
        return False
    if any(address in network for network in _networks(denied)):
        return False
    return not allowed or any(address in network for network in _networks(allowed))


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
            raise ValueError(f"must be one of {', '.join(HEADER_NAMES)}, not {header!r}")
        self._read = _HEADERS[header.lower()]

    def __bool__(self) -> bool:
        return bool(self._networks) or self._trusts_unix

    def trusts(self, address: Address) -> bool:
        """Return True if `address` is that of a trusted proxy."""
        return any(address in network for network in self._networks)

    def caller(self, environ: Mapping[str, object]) -> Caller:
        """Return the client of a request, from its WSGI environment (PEP 3333)."""
        remote = environ.get("REMOTE_ADDR")
        peer_text = remote if isinstance(remote, str) else ""
        peer = parse_address(peer_text)
        is_trusted = self.trusts(peer) if peer is not None else self._trusts_unix and not peer_text
        if not is_trusted:
            return Caller(peer, environ.get("wsgi.url_scheme") == "https")
        # Servers set wsgi.url_scheme from headers that a client can forge: behind a proxy it is unreliable.
        return self._read(environ, self)


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
    return Caller(address, element.get("proto", "").lower() == "https")


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
    return all(scheme.strip(" \t").lower() == "https" for scheme in schemes)


def _parse_node(text: str) -> Address | None:
    text = text.strip(" \t")
    match = _bracketed(text) or _with_port(text)
    return parse_address(match[1] if match else text)


@lru_cache(maxsize=4096)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(parse_network, texts))

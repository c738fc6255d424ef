"""Addresses, networks, and the address lists of a key."""

import ipaddress
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_IPV4_OFFSET = 96
_MAX_ADDRESS_LENGTH = 64


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
    """Return the canonical network of an address or of a network in CIDR notation, or raise a ValueError."""
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


@lru_cache(maxsize=4096)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(parse_network, texts))

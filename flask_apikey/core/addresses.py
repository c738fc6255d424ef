"""Addresses, networks, and the address lists of a key."""

import ipaddress
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_IPV4_OFFSET = 96
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_MAX_ADDRESS_LENGTH = 64
_HOST_BITS, _SITE_BITS = 64, 80


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

    An IPv6 address with an embedded IPv4 address is denied where that one is. It is allowed
    where that one is only for NAT64, whose embedded address is the host on the other side.
    An unknown address passes only if both lists are empty.
    """
    if not allowed and not denied:
        return True
    if address is None:
        return False
    if _is_listed(address, denied):
        return False
    if not isinstance(address, ipaddress.IPv6Address):
        return not allowed or _is_listed(address, allowed)
    embedded = _embedded(address)
    if embedded is not None and _is_listed(embedded, denied):
        return False
    return (
        not allowed
        or _is_listed(address, allowed)
        or (embedded is not None and address in _NAT64 and _is_listed(embedded, allowed))
    )


@lru_cache(maxsize=4096)
def are_within(inner: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    """Return True if each network of a list is part of a network of another list."""
    return all(any(_is_part(network, each) for each in _networks(outer)) for network in _networks(inner))


@lru_cache(maxsize=4096)
def address_groups(address: Address) -> tuple[str, ...]:
    """Return the groups of addresses that one client may use, from narrow to wide.

    An IPv4 address stands for itself, also inside NAT64. An IPv6 address belongs to its
    /64, which is one host or network, and to a /48, which is one site.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _NAT64:
            bits = int(address)
            return tuple(
                f"{ipaddress.IPv6Address(bits >> free << free)}/{128 - free}" for free in (_HOST_BITS, _SITE_BITS)
            )
        address = _last_bits(address)
    return (str(address),)


def _is_part(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _is_listed(address: Address, listed: tuple[str, ...]) -> bool:
    return bool(listed) and any(address in network for network in _networks(listed))


@lru_cache(maxsize=4096)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    networks = [parse_network(text) for text in texts]
    # NAT64 is transparent in both directions. The whole prefix means every user of NAT64, not every IPv4 address.
    networks += [
        ipaddress.IPv4Network((_last_bits(each.network_address), each.prefixlen - _IPV4_OFFSET))
        for each in networks
        if isinstance(each, ipaddress.IPv6Network) and each != _NAT64 and each.subnet_of(_NAT64)
    ]
    return tuple(networks)


@lru_cache(maxsize=4096)
def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the embedded IPv4 address, if any: of NAT64, 6to4, Teredo, or an IPv4-compatible address."""
    if address in _NAT64 or (address in _COMPATIBLE and not (address.is_loopback or address.is_unspecified)):
        return _last_bits(address)
    return address.sixtofour or (address.teredo[1] if address.teredo else None)


def _last_bits(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(address.packed[-4:])

"""Who calls: addresses and the networks that they belong to."""

import ipaddress
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str | None) -> Address | None:
    """The address, or None when `text` is not one: an unknown address."""
    try:
        return ipaddress.ip_address(text or "")
    except ValueError:
        return None


def is_allowed(address: str | None, allowed: tuple[str, ...], denied: tuple[str, ...]) -> bool:
    """Whether a caller at `address` passes both lists; a denial wins.

    An unknown address passes only where there is no list at all.
    """
    if not allowed and not denied:
        return True
    parsed = parse_address(address)
    if parsed is None:
        return False
    if any(parsed in network for network in _networks(denied)):
        return False
    return not allowed or any(parsed in network for network in _networks(allowed))


@lru_cache(maxsize=4096)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))

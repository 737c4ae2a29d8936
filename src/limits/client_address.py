"""Rate-limit key of unauthenticated clients: the IPv4 address or the IPv6 /64."""

from collections.abc import MutableMapping
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

PREFIX_BITS = 64
"""Prefix of an IPv6 address that counts as one client, which can use any address of its /64."""

UNKNOWN = "unknown"


def rate_limit_key(scope: MutableMapping[str, Any]) -> str:
    """Returns the key of a request's client; IPv4-mapped IPv6 addresses count as IPv4."""
    client = scope.get("client")
    return _counted(client[0]) if client else UNKNOWN


def plain_address(text: str) -> str:
    """Returns an IPv4-mapped IPv6 address, as dual-stack sockets have it, as IPv4; others as is."""
    return text.removeprefix("::ffff:") if "." in text else text


@lru_cache(maxsize=4096)
def _counted(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), PREFIX_BITS), strict=False))

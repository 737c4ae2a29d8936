"""What a client is counted by where nobody knows more of it than its address."""

from collections.abc import MutableMapping
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

PREFIX_BITS = 64
"""Of an IPv6 address: whoever has one has all others of its /64 too, and may use each but once."""

UNKNOWN = "unknown"


def rate_limit_key(scope: MutableMapping[str, Any]) -> str:
    """An IPv4 address, or the /64 of an IPv6 address; an IPv4 address in IPv6's form is IPv4."""
    client = scope.get("client")
    return _counted(client[0]) if client else UNKNOWN


def plain_address(text: str) -> str:
    """An IPv4 address that a socket for both kinds has in IPv6's form in its own; others as is."""
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

"""Which machines tenants may make this server call: public ones, and those in networks that the operator allows.

Judged is an IP address, never a name: what a name means is anybody's to change. An IPv6 address that a translator turns
into an IPv4 one is judged as that.
"""

import ipaddress
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Its last 32 bits are an IPv4 address (RFC 6052)."""
NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # protocol assignments; a cloud's metadata is at 192.0.0.192
            "192.88.99.0/24",  # relays of 6to4, RFC 7526
            "168.63.129.16/32",  # a cloud's host, as its machines see it
            "fec0::/10",  # site-local, RFC 3879
            "3fff::/20",  # documentation, RFC 9637
        ),
    )
)
"""What the standard library of some Pythons takes for public."""


class Reach(Struct, frozen=True):
    """What may be called: public addresses, and those in `allowed` networks."""

    allowed: tuple[Network, ...] = ()

    def includes(self, address: Address) -> bool:
        """Whether this address may be called."""
        plain = next(_translated(address), address)
        if any(plain in network for network in self.allowed):
            return True
        return _is_public(plain)


def read_networks(words: str) -> tuple[Network, ...]:
    """Networks written as `10.0.0.0/8, 192.168.1.5`.

    Raises:
        ValueError: a word is no network.
    """
    return tuple(ipaddress.ip_network(word.strip()) for word in words.split(",") if word.strip())


def _translated(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 address that an IPv6 one leads to: mapped, by 6to4, or by NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address in NAT64:
        yield ipaddress.IPv4Address(address.packed[-4:])


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in NOT_PUBLIC)
    )

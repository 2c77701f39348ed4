"""Which addresses the server may send requests to: those of the public internet, and the networks that it is allowed.

Whoever may create a subscription chooses where the server connects to, from inside the server's own network. So every
address is refused that is not reachable from everywhere: loopback, private, link-local with the metadata services of
clouds, shared (CGNAT), multicast, unspecified and reserved ones. An IPv6 address that stands for an IPv4 address is
checked by both.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from ipaddress import IPv4Network, IPv6Network

    Network: TypeAlias = IPv4Network | IPv6Network

_NAT64: Final = ip_network("64:ff9b::/96")
# Global by their registration, but not for requests: a metadata service of a cloud, and relays to IPv4.
_SPECIAL: Final = tuple(
    map(
        ip_network,
        (
            "168.63.129.16/32",
            "192.88.99.0/24",
            "100.64.0.0/10",
            "192.0.0.0/24",
            "198.18.0.0/15",
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "2001::/23",
            "2002::/16",
            "fec0::/10",
        ),
    )
)


class RefusedAddress(OSError):
    """The server may not connect to an address."""


class PushNetworks:
    """The networks beside the public internet that the server may send requests to."""

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = allowed

    def allows(self, address: str) -> bool:
        """Return whether the server may connect to an address, written as the system's resolver writes it."""
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return all(_is_public(each) or self._is_allowed(each) for each in _meanings(found))

    def check(self, address: str) -> None:
        """Raise RefusedAddress unless the server may connect to an address."""
        if not self.allows(address):
            raise RefusedAddress(refusal([address]))

    def _is_allowed(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._allowed if network.version == address.version)


def refusal(addresses: Sequence[str]) -> str:
    """Return the text that refuses a host with these addresses."""
    shown = ", ".join(addresses[:3])
    return f"the address {shown} is not public, and --push-networks does not allow it"


def _meanings(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """Yield what an address stands for: an IPv4-mapped one for the IPv4 address alone."""
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    yield address
    if address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _SPECIAL if network.version == address.version)

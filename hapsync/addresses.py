"""Which addresses may be servers, and how people write addresses and networks.

Unspecified, multicast and link-local addresses never may: they mean nothing, many hosts, or another host on each
link. Loopback may, for a proxy on this machine is a server like any other.
"""

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache

from hapsync.model import PLACEHOLDER, Address, canonical_host
from hapsync.text import quoted

MAX_PORT = 65535
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED_BITS = 96
"""Length of the prefix of IPv4 addresses written as IPv6, `::ffff:0:0/96` (RFC 4291, section 2.5.5.2)."""


@lru_cache(maxsize=65536)
def means_nothing_elsewhere(host: str) -> bool:
    """Return whether `host`, an IP literal, is unspecified, multicast or link-local."""
    address = ipaddress.ip_address(host)
    return address.is_unspecified or address.is_multicast or address.is_link_local


@lru_cache(maxsize=1024)
def within(networks: tuple[Network, ...]) -> Callable[[str], bool]:
    """Return the question whether a canonical IP literal is in one of `networks`; no networks at all mean any.

    What it was asked once it knows: a literal takes as long to parse as all the rest of a server.
    """
    if not networks:
        return lambda _: True

    @lru_cache(maxsize=65536)
    def is_within(host: str) -> bool:
        address = ipaddress.ip_address(host)
        return any(address in network for network in networks)

    return is_within


def parse_network(text: str) -> Network:
    """Return the network that `text` writes as ADDRESS/LENGTH.

    Raises ValueError, which says the right spelling where there is one.
    """
    said = quoted(text, length=60)
    if "/" not in text and _is_literal(text):
        raise ValueError(f'{said} is one address; write "{text}/{128 if ":" in text else 32}"')
    found = re.fullmatch(r"([0-9A-Fa-f.:]+)/[0-9]{1,3}", text)  # ipaddress takes masks and zones, too
    try:
        network = ipaddress.ip_network(found[0] if found else "", strict=False)
        address = ipaddress.ip_address(found[1] if found else "")
    except ValueError:
        raise ValueError(f'{said} is not a network such as "10.0.0.0/8" or "2001:db8::/32"') from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped and network.prefixlen >= _MAPPED_BITS:
        network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - _MAPPED_BITS}", strict=False)
        raise ValueError(f'{said} holds IPv4 addresses; write "{network}"')
    if network.network_address != address:
        raise ValueError(f'{said} has bits set beyond its length; write "{network}"')
    if network.is_multicast or network.is_link_local:
        raise ValueError(f"{said} is multicast or link-local; no server there is ever used")
    return network


def parse_address(text: str) -> Address:
    """Return the address that `text` writes as `10.0.0.5:80` or `[2001:db8::1]:80`.

    Raises ValueError for anything else, and for an address that may be no server.
    """
    said = quoted(text, length=60)
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*)\]|([0-9.]+)):([1-9][0-9]{0,4})", text)
    host, port = (found[1] or found[2], int(found[3])) if found else ("", 0)
    if port > MAX_PORT or not _is_literal(host):
        raise ValueError(f'{said} is not an address such as "10.0.0.5:80" or "[2001:db8::1]:80"')
    address = Address(canonical_host(host), port)
    if means_nothing_elsewhere(address.host):
        raise ValueError(f"{said} is unspecified, multicast or link-local")
    if address == PLACEHOLDER:
        raise ValueError(f"{said} is where free slots point")
    return address


def _is_literal(text: str) -> bool:
    try:
        canonical_host(text)
    except ValueError:
        return False
    return True

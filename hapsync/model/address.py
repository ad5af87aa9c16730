"""Addresses and networks: their spellings, and the addresses that are refused as servers.

Unspecified, multicast, broadcast and link-local addresses are refused, because they mean no host, many hosts, or a
different host on each link. Addresses at which a cloud gives its machines their keys are refused, too: a registrant
could make HAProxy fetch the keys. Loopback addresses are allowed, for a proxy on this machine is a server like any
other; `networks` can exclude them.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from hapsync.model.server import PLACEHOLDER, Address, canonical_host
from hapsync.text import quoted

MAX_PORT = 65535
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED_BITS = 96
"""The length of the prefix of IPv4 addresses written as IPv6, `::ffff:0:0/96` (RFC 4291, section 2.5.5.2)."""


_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
"""Linux connects 0.0.0.0 to the machine itself; the rest of the network is never a destination (RFC 1122, section
3.2.1.3)."""
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_METADATA: tuple[Network, ...] = tuple(
    ipaddress.ip_network(one)
    for one in (
        "100.100.100.200/32",  # Alibaba
        "fd00:100::100:200/128",
        "168.63.129.16/32",  # Azure's host agent
        "192.0.0.192/32",  # Oracle, classic
        "fd00:c1::a9fe:a9fe/128",  # Oracle
        "fd00:ec2::/32",  # Amazon: metadata, pod identity, DNS, time
        "fd20:ce::254/128",  # Google
        "fd00:42::42/128",  # Scaleway
        "fd00:a9fe:a9fe::1/128",  # Akamai
    )
)
"""The addresses of cloud metadata outside of the link-local networks (the clouds' documentation, cloud-init's data
sources).

All other known clouds use link-local addresses, most of them 169.254.169.254."""
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIIT = 0xFFFF_0000
"""The upper 96 bits of IPv4 addresses in the translation of RFC 2765."""
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})
_LOW = 0xFFFF_FFFF


@lru_cache(maxsize=65536)
def why_refused(host: str) -> str:
    """Return why `host`, a canonical IP literal, is refused as a server, to follow "is"; empty if it is allowed.

    An IPv6 address that a translation maps to an IPv4 address is judged like the IPv4 address. Loopback is refused
    there, because it would be the translator's. A site's own NAT64 prefixes cannot be known.
    """
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return _why_refused(address)
    if why := _why_refused(address):
        return why
    for behind in _behind(address):
        why = _why_refused(behind) or ("loopback" if behind.is_loopback else "")
        if why:
            return f"{behind} behind a translation, which is {why}"
    return ""


def _why_refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        return "unspecified, multicast or link-local"
    if isinstance(address, ipaddress.IPv4Address) and address in _THIS_NETWORK:
        return "unspecified, multicast or link-local"
    if address == _BROADCAST:
        return "broadcast"
    if any(address in network for network in _METADATA):
        return "where a cloud serves its metadata"
    return ""


def _behind(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """Yield the IPv4 addresses that `address` may stand for; a mapped address has its IPv4 spelling already.

    The translations are IPv4-compatible and ISATAP addresses, SIIT (RFC 2765), NAT64 (RFC 6052 and 8215), 6to4 and
    Teredo.
    """
    number = int(address)
    upper, low = number >> 32, number & _LOW
    if (upper == 0 and not address.is_loopback) or upper == _SIIT or upper & _LOW in _ISATAP or address in _NAT64:
        yield ipaddress.IPv4Address(low)
    if address in _LOCAL_NAT64:  # the length of the site's own prefix is not known
        after = number & 0xFF_FFFF_FFFF_FFFF  # the IPv4 address goes around an octet of 0
        found = [low]
        for length in (48, 56, 64):
            before, tail = (number >> 64) & ((1 << (64 - length)) - 1), length - 32
            found.append((before << tail) | (after >> (56 - tail)))
        yield from (one for one in map(ipaddress.IPv4Address, found) if one not in _THIS_NETWORK)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo


@lru_cache(maxsize=1024)
def within(networks: tuple[Network, ...]) -> Callable[[str], bool]:
    """Return the function that tells whether a canonical IP literal is in one of `networks`; no networks mean any.

    Answers are cached, because the parsing of a literal takes as long as the rest of a server.
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

    Raises ValueError, with the right spelling where there is one.
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
    if network.num_addresses == 1 and (why := why_refused(str(network.network_address))):
        raise ValueError(f"{said} is {why}; no server there is ever used")
    return network


def parse_address(text: str) -> Address:
    """Return the address that `text` writes as `10.0.0.5:80` or `[2001:db8::1]:80`.

    Raises ValueError for any other text, and for an address that is refused as a server.
    """
    said = quoted(text, length=60)
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*)\]|([0-9.]+)):([1-9][0-9]{0,4})", text)
    host, port = (found[1] or found[2], int(found[3])) if found else ("", 0)
    if port > MAX_PORT or not _is_literal(host):
        raise ValueError(f'{said} is not an address such as "10.0.0.5:80" or "[2001:db8::1]:80"')
    address = Address(canonical_host(host), port)
    if why := why_refused(address.host):
        raise ValueError(f"{said} is {why}")
    if address == PLACEHOLDER:
        raise ValueError(f"{said} is where free slots point")
    return address


def _is_literal(text: str) -> bool:
    try:
        canonical_host(text)
    except ValueError:
        return False
    return True

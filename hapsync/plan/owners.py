"""Readings over time in, which addresses a service lost to another one out.

While a service is gone, or Consul is in doubt about it, its servers are held. Whoever gives ports out anew (Nomad, a
scheduler of containers) may meanwhile give such a port to another service, which then answers the requests.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from hapsync.model.catalog import Reading
from hapsync.model.server import Address, CheckStatus

KEPT = 20_000
"""So many lost addresses are remembered, of all services together, the newest."""
_SERVING = frozenset({CheckStatus.PASSING, CheckStatus.WARNING})
Lost = tuple[str, Address]
Key = TypeVar("Key")


@attrs.frozen
class Owners:
    """What the readings said: the last of each service, and the addresses that a service named and names no more.

    `shared` are of these the ones that another service named as well when one of the two ceased to: such a server is
    in both on purpose, and that one of them still has it says nothing about the other.
    """

    readings: Mapping[str, Reading] = attrs.field(factory=dict)
    addresses: Mapping[str, frozenset[Address]] = attrs.field(factory=dict)
    lost: Mapping[Lost, None] = attrs.field(factory=dict)
    shared: Mapping[Address, None] = attrs.field(factory=dict)

    def noted(self, readings: Mapping[str, Reading]) -> "Owners":
        """Return this with what `readings` say now, by service; a service that is not in them is forgotten.

        No readings at all say nothing: somebody has work to do that is not about the catalog.
        """
        if not readings:
            return self
        if readings.keys() == self.readings.keys() and all(
            self.readings[name] is one for name, one in readings.items()
        ):
            return self
        addresses = {
            name: self.addresses[name] if self.readings.get(name) is one else _named(one)
            for name, one in readings.items()
        }
        lost, shared = dict(self.lost), dict(self.shared)
        for name, now in addresses.items():
            before = self.addresses.get(name, frozenset())
            if now is before:
                continue
            gone = before - now
            for other, has in self.addresses.items():
                if other != name:
                    shared.update(dict.fromkeys(gone & has))
            lost.update(dict.fromkeys((name, address) for address in gone))
            for address in now - before:
                lost.pop((name, address), None)
        return Owners(readings, addresses, _newest(lost), _newest(shared))

    @classmethod
    def of(cls, own: Iterable[Lost]) -> "Owners":
        """Return what is known at the start: addresses that services lost before, and had for themselves."""
        return cls(lost=dict.fromkeys(own))

    def own(self, service: str) -> frozenset[Address]:
        """Return the addresses that `service` had for itself, and names no more."""
        return frozenset(address for name, address in self.lost if name == service and address not in self.shared)

    def taken(self, service: str) -> frozenset[Address]:
        """Return the addresses that `service` had for itself, and that a trusted reading gives to another one."""
        lost = self.own(service)
        if not lost:
            return frozenset()
        found: set[Address] = set()
        for name, reading in self.readings.items():
            if name != service and reading.doubt is None and not reading.is_backwards:
                there = lost & self.addresses[name]
                if there:
                    found |= {one.address for one in reading.instances if one.status in _SERVING} & there
        return frozenset(found)


def _named(reading: Reading) -> frozenset[Address]:
    left_out = {one.address for one in reading.quarantined if one.address is not None}
    return frozenset({one.address for one in reading.instances} | left_out)


def _newest(of: dict[Key, None]) -> dict[Key, None]:
    return of if len(of) <= KEPT else dict.fromkeys(list(of)[-KEPT:])

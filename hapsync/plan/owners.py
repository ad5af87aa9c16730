"""Readings over time in, the addresses that a service lost to another one out.

While a service has vanished, or its reading is in doubt, its servers stay in HAProxy. A scheduler of containers, such
as Nomad, may meanwhile give such a port to another service, which then answers the requests.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from hapsync.model.catalog import Reading
from hapsync.model.server import Address, CheckStatus

KEPT = 20_000
"""The most lost addresses that are remembered, of all services together; the oldest are forgotten first."""
_SERVING = frozenset({CheckStatus.PASSING, CheckStatus.WARNING})
Lost = tuple[str, Address]
Key = TypeVar("Key")


@attrs.frozen
class Owners:
    """The last reading of each service, and the addresses that a service had and has no more.

    `shared` are addresses that another service had as well when one of the two lost it. Such a server is in both
    services on purpose, so the other service's registration is no evidence of a new owner.
    """

    readings: Mapping[str, Reading] = attrs.field(factory=dict)
    addresses: Mapping[str, frozenset[Address]] = attrs.field(factory=dict)
    lost: Mapping[Lost, None] = attrs.field(factory=dict)
    shared: Mapping[Address, None] = attrs.field(factory=dict)

    def noted(self, readings: Mapping[str, Reading]) -> "Owners":
        """Return this value after new `readings`, by service; a service without a reading is forgotten.

        Empty `readings` change nothing: such a pass does not concern the catalog.
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
        """Return the value at the start, from addresses that services owned alone and lost before."""
        return cls(lost=dict.fromkeys(own))

    def own(self, service: str) -> frozenset[Address]:
        """Return the addresses that `service` owned alone, and has lost."""
        return frozenset(address for name, address in self.lost if name == service and address not in self.shared)

    def taken(self, service: str) -> frozenset[Address]:
        """Return the lost addresses of `service` that a trusted reading gives to another service."""
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

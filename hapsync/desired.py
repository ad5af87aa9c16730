"""Catalog and Config in, `Desired` out: for each backend, the servers it should have and in what state."""

from collections.abc import Iterable, Mapping

import attrs

from hapsync.catalog import Catalog, Instance, Quarantined, Reading
from hapsync.config import BackendConfig, Config
from hapsync.model import MAX_WEIGHT, Address, AdminState, CheckStatus
from hapsync.text import quoted

_ADMIN = {
    CheckStatus.PASSING: AdminState.READY,
    CheckStatus.WARNING: AdminState.READY,
    CheckStatus.MAINTENANCE: AdminState.DRAIN,
    CheckStatus.CRITICAL: AdminState.MAINT,
}
_BEST_FIRST = (CheckStatus.PASSING, CheckStatus.WARNING, CheckStatus.MAINTENANCE, CheckStatus.CRITICAL)


@attrs.frozen
class DesiredServer:
    """What one address should be in HAProxy, and the Consul instance it stands for.

    `weight` is HAProxy's, from 0 to 256.
    """

    address: Address
    admin: AdminState
    weight: int
    node: str
    instance_id: str
    status: CheckStatus

    @property
    def needs_slot(self) -> bool:
        """Only a server that should serve is worth a slot; the others keep the one they have."""
        return self.admin is AdminState.READY


@attrs.frozen
class DesiredBackend:
    """The servers of one backend, sorted by address; `quarantined` are left out, each with its reason."""

    name: str
    slots: int
    servers: tuple[DesiredServer, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()

    @property
    def serving(self) -> int:
        """How many of them should be ready with a weight above 0."""
        return sum(server.needs_slot and server.weight > 0 for server in self.servers)

    @property
    def by_address(self) -> Mapping[Address, DesiredServer]:
        return {server.address: server for server in self.servers}


@attrs.frozen
class Desired:
    """What HAProxy should have; a backend whose service was never read is absent, so nothing is done to it."""

    backends: Mapping[str, DesiredBackend]

    def only(self, names: Iterable[str]) -> "Desired":
        """Return the part about the backends in `names`."""
        return Desired({name: self.backends[name] for name in sorted(names) if name in self.backends})


def desired(catalog: Catalog, config: Config) -> Desired:
    """Return what `catalog` asks of the backends in `config`."""
    return Desired(
        {
            name: desired_backend(name, backend, catalog.readings[backend.service])
            for name, backend in sorted(config.backends.items())
            if backend.service in catalog.readings
        }
    )


def desired_backend(name: str, config: BackendConfig, reading: Reading) -> DesiredBackend:
    """Return what the `reading` of its service asks of the backend `name`.

    Of several instances on one address the healthiest counts (then the first by node and id); the others are
    quarantined, for HAProxy can only check the address.
    """
    wanted = set(config.tags)
    chosen: dict[Address, Instance] = {}
    left_out = list(reading.quarantined)
    tagged = (instance for instance in reading.instances if wanted.issubset(instance.tags))
    for instance in sorted(tagged, key=lambda one: (_BEST_FIRST.index(one.status), one.node, one.instance_id)):
        first = chosen.setdefault(instance.address, instance)
        if first is not instance:
            other = f"{quoted(first.instance_id, length=60)} on {quoted(first.node, length=60)}"
            reason = f"its address {instance.address} is that of {other} too"
            left_out.append(Quarantined(instance.node, instance.instance_id, reason))
    weights = scale_weights({address: instance.weight for address, instance in chosen.items()})
    return DesiredBackend(
        name,
        config.slots,
        tuple(
            DesiredServer(
                address,
                _ADMIN[instance.status],
                weights[address],
                instance.node,
                instance.instance_id,
                instance.status,
            )
            for address, instance in sorted(chosen.items(), key=_by_address)
        ),
        tuple(sorted(left_out, key=lambda one: (one.node, one.instance_id, one.reason))),
    )


def _by_address(chosen: tuple[Address, Instance]) -> tuple[str, int]:
    return chosen[0].host, chosen[0].port


def scale_weights(weights: Mapping[Address, int]) -> Mapping[Address, int]:
    """Return Consul's weights (0 to 65535) as HAProxy's (0 to 256).

    They stay as they are while the largest is within HAProxy's range; otherwise all are scaled to it together. A
    weight above 0 never becomes 0, and 0 stays 0.
    """
    largest = max(weights.values(), default=0)
    if largest <= MAX_WEIGHT:
        return weights
    return {
        address: max(1, round(MAX_WEIGHT * weight / largest)) if weight else 0 for address, weight in weights.items()
    }

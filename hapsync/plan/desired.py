"""Catalog and Config in, `Desired` out: the servers that each backend should have, and their states."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import attrs

from hapsync.config.schema import BackendConfig, Config
from hapsync.model.address import within
from hapsync.model.catalog import MAX_CONSUL_WEIGHT, Catalog, Doubt, Instance, Quarantined, Reading
from hapsync.model.server import MAX_WEIGHT, Address, AdminState, CheckStatus, Observed, free_weight
from hapsync.text import quoted

_ADMIN = {
    CheckStatus.PASSING: AdminState.READY,
    CheckStatus.WARNING: AdminState.READY,
    CheckStatus.MAINTENANCE: AdminState.DRAIN,
    CheckStatus.CRITICAL: AdminState.MAINT,
}
_BEST_FIRST = (CheckStatus.PASSING, CheckStatus.WARNING, CheckStatus.MAINTENANCE, CheckStatus.CRITICAL)
_RANK = {status: rank for rank, status in enumerate(_BEST_FIRST)}
FALLBACK_NODE = "fallback"
"""The node name shown with addresses of `fallback`."""


@attrs.frozen
class DesiredServer:
    """The desired state of one address in HAProxy, and its Consul instance.

    `weight` is HAProxy's weight, from 0 to 256. `consul_weight` is Consul's weight where it exceeds the limit of
    `max_weight_ratio`, else None.
    """

    address: Address
    admin: AdminState
    weight: int
    node: str
    instance_id: str
    status: CheckStatus
    consul_weight: int | None = attrs.field(default=None, eq=False)

    @property
    def needs_slot(self) -> bool:
        """The server should serve, so it gets a slot; other servers keep their slots and get no new ones."""
        return self.admin is AdminState.READY


@attrs.frozen
class DesiredBackend:
    """The servers of one backend, sorted by address; `quarantined` are left out, each with its reason.

    `doubt` and `is_backwards` come from the reading. `scaling` is the configured way to get more servers, and
    `server_options` the words of every server line. `start` says when a newcomer gets traffic. Sessions on a server
    that left may go on for `drain_seconds` (0: without an end).

    `other_tags`: the addresses of instances that lack a tag of the backend. `namesakes`: Consul's services whose
    names differ from this one only in upper and lower case, where Consul lacks this one.
    """

    name: str
    slots: int
    servers: tuple[DesiredServer, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    doubt: Doubt | None = None
    is_backwards: bool = False
    scaling: str = "auto"
    server_options: str = ""
    start: str = "trusted"
    drain_seconds: float = 0.0
    other_tags: frozenset[Address] = frozenset()
    namesakes: tuple[str, ...] = ()

    @property
    def is_gone(self) -> bool:
        """Consul has no instance of the service, not even a quarantined one or one with other tags."""
        return not (self.servers or self.quarantined or self.other_tags)

    @property
    def serving(self) -> int:
        """The number of servers that should be ready with a weight above 0."""
        return sum(server.needs_slot and server.weight > 0 for server in self.servers)

    @property
    def by_address(self) -> Mapping[Address, DesiredServer]:
        return {server.address: server for server in self.servers}


Overrides = Mapping[str, Mapping[Address, AdminState | None]]
"""The states that operators asked for, by backend and address: maint, drain, or None after a release."""


@attrs.frozen
class Desired:
    """The servers that HAProxy should have; a backend with an unread service is absent, so it stays unchanged.

    `readings` are the source of the value, by service.
    """

    backends: Mapping[str, DesiredBackend]
    overrides: Overrides = attrs.field(factory=dict)
    readings: Mapping[str, Reading] = attrs.field(factory=dict, eq=False, repr=False)

    def only(self, names: Iterable[str]) -> "Desired":
        """Return the part about the backends in `names`."""
        wanted = sorted(names)
        return Desired(
            {name: self.backends[name] for name in wanted if name in self.backends},
            {name: self.overrides[name] for name in wanted if name in self.overrides},
        )


Served = Mapping[str, frozenset[Address]]
"""The addresses of serving servers, by backend."""
NOBODY: frozenset[Address] = frozenset()


def served_in(observed: Observed) -> Served:
    """Return the addresses of hapsync's servers to which HAProxy may send new traffic."""
    return {
        name: frozenset(slot.address for slot in backend.ready if slot.address is not None)
        for name, backend in observed.backends.items()
    }


def is_crowded(config: BackendConfig, reading: Reading) -> bool:
    """Return whether the service has more instances than its backend takes; serving servers then go first."""
    return len(reading.instances) > config.max_servers


def desired(catalog: Catalog, config: Config, served: Served | None = None) -> Desired:
    """Return the desired servers of the backends in `config` by `catalog`; addresses in `served` serve already."""
    return Desired(
        {
            name: desired_backend(name, backend, catalog.readings[backend.service], (served or {}).get(name, NOBODY))
            for name, backend in sorted(config.backends.items())
            if backend.service in catalog.readings
        },
        readings=catalog.readings,
    )


def desired_backend(
    name: str, config: BackendConfig, reading: Reading, served: frozenset[Address] = NOBODY
) -> DesiredBackend:
    """Return the desired servers of the backend `name`, by the `reading` of its service.

    The healthiest of several instances on one address counts (then the first by node and id). The others are
    quarantined, because HAProxy can only check the address. Instances outside `networks` are quarantined, too. Of
    more than `max_servers` instances, serving ones (`served`) stay first, then the healthiest (then the first by node
    and id), so unknown registrants push no serving instance out.
    """

    def order(instance: Instance) -> tuple[bool, int, str, str]:
        keeps_its_place = instance.address in served and _ADMIN[instance.status] is AdminState.READY
        return (not keeps_its_place, *_best_first(instance))

    meant, other_tags = _meant(reading, config)
    chosen: dict[Address, Instance] = {}
    left_out = list(reading.quarantined)
    is_inside = within(config.networks)
    for instance in sorted(meant, key=order):
        address = instance.address
        if not is_inside(address.host):
            left_out.append(_left_out(instance, f"its address {address.host} is outside networks"))
        elif (first := chosen.get(address)) is not None:
            other = f"{quoted(first.instance_id, length=60)} on {quoted(first.node, length=60)}"
            left_out.append(_left_out(instance, f"its address {address} is that of {other} too"))
        elif len(chosen) == config.max_servers:
            left_out.append(_left_out(instance, f"the service has more than max_servers {config.max_servers}"))
        else:
            chosen[address] = instance
    most = weight_limit(chosen.values(), config.max_weight_ratio)
    weights = scale_weights(
        {address: min(instance.weight, most) for address, instance in chosen.items()},
        least=free_weight(config.server_options),
    )
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
                instance.weight if instance.weight > most else None,
            )
            for address, instance in sorted(chosen.items(), key=_by_address)
        ),
        tuple(sorted(left_out, key=lambda one: (one.node, one.instance_id, one.reason))),
        reading.doubt,
        reading.is_backwards,
        config.scaling,
        config.server_options,
        config.start,
        config.drain_seconds,
        other_tags.difference(chosen),
        tuple(sorted({one.service for one in reading.namesakes})),
    )


class DesiredCache:
    """A cache of `desired` for one configuration: a backend whose reading is the same object is not computed again.

    Where a service has more instances than its backend takes, servers that served at the last reading stay.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Reading, frozenset[Address], DesiredBackend]] = {}
        self._served: dict[str, frozenset[Address]] = {}

    def desired(self, catalog: Catalog, config: Config, overrides: Overrides = MappingProxyType({})) -> Desired:
        """Return the desired servers of the backends in `config`, by `catalog`, and the `overrides`."""
        backends = {}
        for name, backend in sorted(config.backends.items()):
            reading = catalog.readings.get(backend.service)
            if reading is None:
                continue
            served = self._served.get(name, NOBODY) if is_crowded(backend, reading) else NOBODY
            known = self._known.get(name)
            if known is None or known[0] is not reading or known[1] != served:
                made = desired_backend(name, backend, reading, served)
                known = self._known[name] = (reading, served, made)
            backends[name] = known[2]
        return Desired(backends, overrides, catalog.readings)

    def unread(self, catalog: Catalog, config: Config) -> Collection[str]:
        """Return the crowded backends without a noted reading of HAProxy; serving servers go first there."""
        return [
            name
            for name, backend in config.backends.items()
            if (reading := catalog.readings.get(backend.service)) is not None
            and is_crowded(backend, reading)
            and name not in self._served
        ]

    def serves(self, backend: str) -> bool:
        """Return whether a server of `backend` served at the last reading; True without a reading."""
        return self._served.get(backend) != NOBODY

    def note(self, observed: Observed) -> None:
        """Note the serving servers in a reading."""
        self._served.update(served_in(observed))


def namesake_words(service: str, namesakes: Sequence[str]) -> str:
    """Return the message about `service`, which Consul has only in other spellings."""
    names = ", ".join(quoted(name, length=60) for name in namesakes[:3])
    names += f" and {len(namesakes) - 3} more" if len(namesakes) > 3 else ""  # noqa: PLR2004
    return f"service {quoted(service)}: Consul has {names} instead; write the name exactly so"


def fallback_reading(service: str, config: Config) -> Reading | None:
    """Return the reading of `service` made from the `fallback` keys of `config`; None where no backend has the key.

    Backends of one service may have different fallbacks, so `desired_backend` uses the backend's own list only.
    """
    backends = [backend for backend in config.backends.values() if backend.service == service]
    addresses = sorted({address for backend in backends for address in backend.fallback})
    if not addresses:
        return None
    instances = (Instance(FALLBACK_NODE, str(address), address, CheckStatus.PASSING) for address in addresses)
    return Reading(service, tuple(sorted(instances, key=_best_first)), doubt=Doubt.FALLBACK)


def _meant(reading: Reading, config: BackendConfig) -> tuple[Sequence[Instance], frozenset[Address]]:
    """Return the instances of `reading` with the backend's tags, and the addresses of instances with other tags."""
    if reading.doubt is Doubt.FALLBACK:
        own = set(config.fallback)
        return [instance for instance in reading.instances if instance.address in own], frozenset()
    wanted = set(config.tags)
    if not wanted:
        return reading.instances, frozenset()
    meant = [instance for instance in reading.instances if wanted.issubset(instance.tags)]
    others = (instance.address for instance in reading.instances if not wanted.issubset(instance.tags))
    return meant, frozenset(others)


def _best_first(instance: Instance) -> tuple[int, str, str]:
    return _RANK[instance.status], instance.node, instance.instance_id


def _left_out(instance: Instance, reason: str) -> Quarantined:
    return Quarantined(instance.node, instance.instance_id, reason, instance.address)


def _by_address(chosen: tuple[Address, Instance]) -> tuple[str, int]:
    return chosen[0].host, chosen[0].port


def weight_limit(instances: Iterable[Instance], ratio: int) -> int:
    """Return the largest weight that counts: `ratio` times the median of the passing weights of serving instances.

    The larger of two middle weights counts, so either of two instances may have any weight. A registrant of few among
    many instances cannot move a median.
    """
    weights = sorted(
        one.passing_weight for one in instances if one.passing_weight and _ADMIN[one.status] is AdminState.READY
    )
    return ratio * weights[len(weights) // 2] if weights else MAX_CONSUL_WEIGHT


def scale_weights(weights: Mapping[Address, int], *, least: int = 1) -> Mapping[Address, int]:
    """Return Consul's weights (0 to 65535) as HAProxy's (0 to 256).

    The weights stay as they are while the largest is within HAProxy's range; otherwise all are scaled to the range by
    one factor. A weight above 0 never becomes 0, and 0 stays 0. Where the largest is below `least`, all are
    multiplied by one factor.
    """
    largest = max(weights.values(), default=0)
    if 0 < largest < least:
        return {address: weight * (least // largest) for address, weight in weights.items()}
    if largest <= MAX_WEIGHT:
        return weights
    return {
        address: max(1, round(MAX_WEIGHT * weight / largest)) if weight else 0 for address, weight in weights.items()
    }

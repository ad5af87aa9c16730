"""Catalog and Config in, `Desired` out: for each backend, the servers it should have and in what state."""

from collections.abc import Collection, Iterable, Mapping, Sequence

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
"""The node that addresses of `fallback` are shown with."""


@attrs.frozen
class DesiredServer:
    """What one address should be in HAProxy, and the Consul instance it stands for.

    `weight` is HAProxy's, from 0 to 256. `consul_weight` is Consul's where it is more than `max_weight_ratio` lets
    it be, else None.
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
        """Only a server that should serve is worth a slot; the others keep the one they have."""
        return self.admin is AdminState.READY


@attrs.frozen
class DesiredBackend:
    """The servers of one backend, sorted by address; `quarantined` are left out, each with its reason.

    `doubt` and `is_backwards` are those of the reading it was made from. `scaling` is how it may be given more
    servers, as configured, `server_options` what every server line has, `start` when a newcomer may get traffic, and
    `drain_seconds` how long what runs on a server that left may go on (0: without an end).

    `other_tags`: where Consul has instances that lack a tag of the backend. `namesakes`: services that Consul has
    instead of this one, with another name only in upper and lower case.
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
        """Consul has no instance of the service at all, not even one that is left out or has other tags."""
        return not (self.servers or self.quarantined or self.other_tags)

    @property
    def serving(self) -> int:
        """How many of them should be ready with a weight above 0."""
        return sum(server.needs_slot and server.weight > 0 for server in self.servers)

    @property
    def by_address(self) -> Mapping[Address, DesiredServer]:
        return {server.address: server for server in self.servers}


@attrs.frozen
class Desired:
    """What HAProxy should have; a backend whose service was never read is absent, so nothing is done to it.

    `overrides`: by backend and address, what persons asked for: maint or drain, or None where they released it.
    `readings` are all that it was made from, by service.
    """

    backends: Mapping[str, DesiredBackend]
    overrides: Mapping[str, Mapping[Address, AdminState | None]] = attrs.field(factory=dict)
    readings: Mapping[str, Reading] = attrs.field(factory=dict, eq=False, repr=False)

    def only(self, names: Iterable[str]) -> "Desired":
        """Return the part about the backends in `names`."""
        wanted = sorted(names)
        return Desired(
            {name: self.backends[name] for name in wanted if name in self.backends},
            {name: self.overrides[name] for name in wanted if name in self.overrides},
        )


Served = Mapping[str, frozenset[Address]]
"""The addresses that HAProxy sends to, by backend."""
NOBODY: frozenset[Address] = frozenset()


def served_in(observed: Observed) -> Served:
    """Return the addresses of ours that HAProxy may send new traffic to."""
    return {
        name: frozenset(slot.address for slot in backend.ready if slot.address is not None)
        for name, backend in observed.backends.items()
    }


def is_crowded(config: BackendConfig, reading: Reading) -> bool:
    """Return whether the service has more instances than its backend takes: who serves already then counts."""
    return len(reading.instances) > config.max_servers


def desired(catalog: Catalog, config: Config, served: Served | None = None) -> Desired:
    """Return what `catalog` asks of the backends in `config`, where HAProxy sends to `served` already."""
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
    """Return what the `reading` of its service asks of the backend `name`.

    Of several instances on one address the healthiest counts (then the first by node and id); the others are
    quarantined, for HAProxy can only check the address. So are those outside `networks`, and of more than
    `max_servers` those that neither serve by now (`served`) nor are among the healthiest (then the last by node and
    id): strangers who register themselves push nobody out.
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
    """The same as `desired`, for one configuration: a backend whose reading is the same object is taken as it was.

    Where there are more instances than a backend takes, those that HAProxy sends to by the last reading stay.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Reading, frozenset[Address], DesiredBackend]] = {}
        self._served: dict[str, frozenset[Address]] = {}

    def desired(self, catalog: Catalog, config: Config) -> Desired:
        """Return what `catalog` wants of the backends in `config`."""
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
        return Desired(backends, readings=catalog.readings)

    def unread(self, catalog: Catalog, config: Config) -> Collection[str]:
        """Return the backends where it counts whom HAProxy sends to, and no reading was noted yet."""
        return [
            name
            for name, backend in config.backends.items()
            if (reading := catalog.readings.get(backend.service)) is not None
            and is_crowded(backend, reading)
            and name not in self._served
        ]

    def serves(self, backend: str) -> bool:
        """Return whether HAProxy sends to any server of `backend`, by the last reading; yes where there was none."""
        return self._served.get(backend) != NOBODY

    def note(self, observed: Observed) -> None:
        """Remember whom HAProxy sends to, as a reading shows it."""
        self._served.update(served_in(observed))


def namesake_words(service: str, namesakes: Sequence[str]) -> str:
    """Return what to say of `service`, which Consul has under other names only."""
    names = ", ".join(quoted(name, length=60) for name in namesakes[:3])
    names += f" and {len(namesakes) - 3} more" if len(namesakes) > 3 else ""  # noqa: PLR2004
    return f"service {quoted(service)}: Consul has {names} instead; write the name exactly so"


def fallback_reading(service: str, config: Config) -> Reading | None:
    """Return what the `fallback` keys of `config` say of `service`, for want of anything better; None: nothing.

    Backends that share a service may have fallbacks of their own; `desired_backend` takes a backend's own only.
    """
    backends = [backend for backend in config.backends.values() if backend.service == service]
    addresses = sorted({address for backend in backends for address in backend.fallback})
    if not addresses:
        return None
    instances = (Instance(FALLBACK_NODE, str(address), address, CheckStatus.PASSING) for address in addresses)
    return Reading(service, tuple(sorted(instances, key=_best_first)), doubt=Doubt.FALLBACK)


def _meant(reading: Reading, config: BackendConfig) -> tuple[Sequence[Instance], frozenset[Address]]:
    """Return the instances of `reading` that the backend is about, and the addresses of those with other tags."""
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
    """Return the largest weight that counts: `ratio` times the median of the passing weights of those that serve.

    Of two in the middle the larger counts, so of two instances either may have any weight. A median, for whoever
    registers few of many instances cannot move it.
    """
    weights = sorted(
        one.passing_weight for one in instances if one.passing_weight and _ADMIN[one.status] is AdminState.READY
    )
    return ratio * weights[len(weights) // 2] if weights else MAX_CONSUL_WEIGHT


def scale_weights(weights: Mapping[Address, int], *, least: int = 1) -> Mapping[Address, int]:
    """Return Consul's weights (0 to 65535) as HAProxy's (0 to 256).

    They stay as they are while the largest is within HAProxy's range; otherwise all are scaled to it together. A
    weight above 0 never becomes 0, and 0 stays 0. Where the largest is below `least` all are multiplied alike.
    """
    largest = max(weights.values(), default=0)
    if 0 < largest < least:
        return {address: weight * (least // largest) for address, weight in weights.items()}
    if largest <= MAX_WEIGHT:
        return weights
    return {
        address: max(1, round(MAX_WEIGHT * weight / largest)) if weight else 0 for address, weight in weights.items()
    }

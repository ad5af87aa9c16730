"""The JSON of Consul's `/v1/health/service/NAME` in, one `Reading` of that service out.

A reading is whole or it is not made: an answer that is not a list of entries is a CatalogError. Inside a whole
answer one bad instance is left out alone, as a value with its reason.
"""

import enum
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from hapsync.addresses import MAX_PORT, means_nothing_elsewhere
from hapsync.errors import CatalogError
from hapsync.model import PLACEHOLDER, Address, CheckStatus, canonical_host
from hapsync.text import quoted

MAX_CONSUL_WEIGHT = 65535
"""Consul refuses larger weights in a registration (agent/structs, ValidateWeights)."""


@attrs.frozen
class Instance:
    """One healthy or unhealthy instance of a service, fit to be sent to HAProxy.

    `passing_weight` and `warning_weight` are Consul's `Weights`; 1 where the catalog has none.
    """

    node: str
    instance_id: str
    address: Address
    status: CheckStatus
    passing_weight: int = 1
    warning_weight: int = 1
    tags: tuple[str, ...] = ()

    @property
    def weight(self) -> int:
        """The weight of its status; a critical instance keeps its passing weight for its return."""
        return self.warning_weight if self.status is CheckStatus.WARNING else self.passing_weight


@attrs.frozen
class Quarantined:
    """An instance that is left out, and why; the texts are Consul's, raw."""

    node: str
    instance_id: str
    reason: str


@enum.unique
class Doubt(enum.Enum):
    """Why nothing may be taken away because of a reading; the values are the words shown to people."""

    SNAPSHOT = "Consul has not answered since the start"
    FALLBACK = "Consul has not answered and there is no snapshot"
    AWAY = "Consul does not answer"
    NO_LEADER = "Consul's servers have no leader"
    STALE = "the answer is too old"
    FILTERED = "the token may not read all of it"
    UNCONFIRMED = "too much is gone at once and Consul did not confirm it"


NOT_TELLING = (Doubt.AWAY, Doubt.SNAPSHOT, Doubt.FALLBACK)
"""With such a doubt nobody knows what Consul says now."""


@attrs.frozen
class Reading:
    """Everything Consul says of one service, sorted by node and instance id.

    Additions act on any reading; removals only on one without `doubt`. `is_backwards`: Consul's index fell since the
    answer before, as it does when its servers lost their state or restored an old one. `index` is Consul's when this
    was first read, 0 where it is not known.
    """

    service: str
    instances: tuple[Instance, ...]
    quarantined: tuple[Quarantined, ...] = ()
    doubt: Doubt | None = None
    is_backwards: bool = False
    index: int = attrs.field(default=0, eq=False)


@attrs.frozen
class Catalog:
    """The readings at hand; a service that was never read is absent, and absent means unknown, not empty."""

    readings: Mapping[str, Reading]


def parse_reading(service: str, body: bytes) -> Reading:
    """Return the reading that `body`, an answer of `/v1/health/service/SERVICE`, holds.

    Raises CatalogError when the answer is not whole: no JSON, no list, an entry without its node or service.
    """
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"service {quoted(service)}: Consul's answer is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise CatalogError(f"service {quoted(service)}: Consul's answer is not a list of instances")
    instances: list[Instance] = []
    quarantined: list[Quarantined] = []
    for entry in entries:
        parsed = _parse_entry(service, entry)
        if isinstance(parsed, Instance):
            instances.append(parsed)
        else:
            quarantined.append(parsed)
    return Reading(
        service,
        tuple(sorted(instances, key=lambda one: (one.node, one.instance_id, one.address))),
        tuple(sorted(quarantined, key=lambda one: (one.node, one.instance_id, one.reason))),
    )


def _parse_entry(service: str, entry: Any) -> Instance | Quarantined:
    try:
        node, record, checks = entry["Node"], entry["Service"], entry["Checks"]
        name, instance_id = node["Node"], record["ID"]
        raw_address, raw_port = record["Address"] or node["Address"], record["Port"]
        weights, tags = record.get("Weights"), record.get("Tags")
        status = _status(checks or ())
    except (KeyError, TypeError, AttributeError) as error:
        raise CatalogError(
            f"service {quoted(service)}: an entry of Consul's answer lacks {error}; kept the last reading"
        ) from error
    if not isinstance(name, str) or not isinstance(instance_id, str):
        raise CatalogError(f"service {quoted(service)}: a node or service id in Consul's answer is not a text")
    try:
        passing, warning = _weights(weights)
        return Instance(
            name,
            instance_id,
            _address(raw_address, raw_port),
            status,
            passing,
            warning,
            tuple(sorted(tag for tag in tags if isinstance(tag, str))) if isinstance(tags, list) else (),
        )
    except ValueError as error:
        return Quarantined(name, instance_id, str(error))


def _address(host: object, port: object) -> Address:
    if not isinstance(host, str) or not host:
        raise ValueError("it has no address")
    try:
        canonical = canonical_host(host)
    except ValueError:
        raise ValueError(f"its address {quoted(host, length=60)} is not an IP address") from None
    if means_nothing_elsewhere(canonical):
        raise ValueError(f"its address {canonical} is unspecified, multicast or link-local")
    if type(port) is not int or not 1 <= port <= MAX_PORT:
        raise ValueError(f"its port {quoted(str(port), length=20)} is not from 1 to {MAX_PORT}")
    address = Address(canonical, port)
    if address == PLACEHOLDER:
        raise ValueError(f"its address {address} is where free slots point")
    return address


def _weights(weights: Any) -> tuple[int, int]:
    if weights is None:
        return 1, 1
    if not isinstance(weights, dict):
        raise ValueError("its weights are not a table")
    pair = weights.get("Passing", 1), weights.get("Warning", 1)
    for weight in pair:
        if type(weight) is not int or not 0 <= weight <= MAX_CONSUL_WEIGHT:
            raise ValueError(f"its weight {quoted(str(weight), length=20)} is not from 0 to {MAX_CONSUL_WEIGHT}")
    return pair


def _status(checks: Iterable[Mapping[str, Any]]) -> CheckStatus:
    """Return the worst of an instance's checks, in Consul's own order; no checks at all is passing.

    Maintenance is told by check id (`_node_maintenance`, `_service_maintenance:ID`; agent/structs, 1.8). A status
    that is none of Consul's words counts as critical.
    """
    seen = set()
    for check in checks:
        check_id, status = check["CheckID"], check["Status"]
        if check_id == "_node_maintenance" or str(check_id).startswith("_service_maintenance:"):
            return CheckStatus.MAINTENANCE
        seen.add(status)
    if seen <= {"passing"}:
        return CheckStatus.PASSING
    return CheckStatus.WARNING if seen <= {"passing", "warning"} else CheckStatus.CRITICAL

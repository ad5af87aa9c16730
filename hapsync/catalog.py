"""The JSON of Consul's `/v1/health/service/NAME` in, one `Reading` of that service out.

An answer that is not a list of entries is a CatalogError, and there is no reading. Inside a list an entry that cannot
be used costs itself alone: it is left out, as a value with its reason.
"""

import enum
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from hapsync.addresses import MAX_PORT, why_refused
from hapsync.errors import CatalogError
from hapsync.jsonlist import NotAList, elements
from hapsync.model import PLACEHOLDER, Address, CheckStatus, canonical_host
from hapsync.text import quoted

MAX_CONSUL_WEIGHT = 65535
"""Consul refuses larger weights in a registration (agent/structs, ValidateWeights)."""


@attrs.frozen
class Instance:
    """One healthy or unhealthy instance of a service, fit to be sent to HAProxy.

    `passing_weight` and `warning_weight` are Consul's `Weights`; 1 where the catalog has none. `create_index` and
    `modify_index` are Consul's, of when it was first and last registered, and `critical_index` of the last change of
    a check that keeps it from serving; 0 where they are not known. They are evidence only, so readings that differ in
    nothing else are equal.
    """

    node: str
    instance_id: str
    address: Address
    status: CheckStatus
    passing_weight: int = 1
    warning_weight: int = 1
    tags: tuple[str, ...] = ()
    create_index: int = attrs.field(default=0, eq=False)
    modify_index: int = attrs.field(default=0, eq=False)
    critical_index: int = attrs.field(default=0, eq=False)

    @property
    def weight(self) -> int:
        """The weight of its status; a critical instance keeps its passing weight for its return."""
        return self.warning_weight if self.status is CheckStatus.WARNING else self.passing_weight


@attrs.frozen
class Quarantined:
    """An entry that is left out, and why; the texts are Consul's, raw, and empty where the entry has none.

    `address` is where the entry says that its instance is, None where it says nothing that can be used.
    """

    node: str
    instance_id: str
    reason: str
    address: Address | None = None


@attrs.frozen
class Namesake:
    """An instance of a service whose name differs from the one that was asked for, only in upper and lower case.

    Consul answers for all of them together (measured with 1.8.7 and 1.14.11), and lists each by itself.
    """

    service: str
    address: Address | None = None


@enum.unique
class Doubt(enum.Enum):
    """Why nothing may be taken away because of a reading; the values are the words shown to people."""

    SNAPSHOT = "Consul has not answered since the start"
    FALLBACK = "Consul has not answered and there is no snapshot"
    AWAY = "Consul does not answer"
    NO_LEADER = "Consul's servers have no leader"
    STALE = "the answer is too old"
    FILTERED = "the token may not read all of it"
    UNCONFIRMED = "Consul did not confirm its answer"


NOT_TELLING = (Doubt.AWAY, Doubt.SNAPSHOT, Doubt.FALLBACK)
"""With such a doubt nobody knows what Consul says now."""


@attrs.frozen
class Reading:
    """Everything Consul says of one service, sorted by node and instance id; `namesakes` are other services.

    Additions act on any reading; removals only on one without `doubt`. `is_backwards`: Consul's state went back since
    the answer before, as it does when its servers lost their state or restored an old one; the readings after it have
    the mark too, until one was acknowledged. `index` is Consul's when this was first read, 0 where it is not known.
    """

    service: str
    instances: tuple[Instance, ...]
    quarantined: tuple[Quarantined, ...] = ()
    doubt: Doubt | None = None
    is_backwards: bool = False
    index: int = attrs.field(default=0, eq=False)
    namesakes: tuple[Namesake, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Consul has nothing of this service, not even an entry that is left out."""
        return not self.instances and not self.quarantined


@attrs.frozen
class Catalog:
    """The readings at hand; a service that was never read is absent, and absent means unknown, not empty."""

    readings: Mapping[str, Reading]


def parse_reading(service: str, body: bytes) -> Reading:
    """Return the reading that `body`, an answer of `/v1/health/service/SERVICE`, holds.

    An entry that cannot be used, whatever is missing in it or of the wrong type, is quarantined by itself.

    Raises CatalogError when the answer is no list of instances: no JSON, no list, or a list of which no entry names
    so much as a node or a service id. Whoever registers a service cannot bring that about.
    """
    try:
        entries = _entries(service, body)
    except NotAList as error:
        raise CatalogError(f"service {quoted(service)}: Consul's answer is not a list of instances") from error
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"service {quoted(service)}: Consul's answer is not JSON: {error}") from error
    instances: list[Instance] = []
    quarantined: list[Quarantined] = []
    namesakes: list[Namesake] = []
    for entry in entries:
        match entry:
            case Instance() as instance:
                instances.append(instance)
            case Quarantined() as left_out:
                quarantined.append(left_out)
            case Namesake() as namesake:
                namesakes.append(namesake)
    if entries and not (instances or namesakes or any(one.node or one.instance_id for one in quarantined)):
        raise CatalogError(
            f"service {quoted(service)}: not an entry of Consul's answer names its instance; is it Consul?"
        )
    return Reading(
        service,
        tuple(sorted(instances, key=lambda one: (one.node, one.instance_id, one.address))),
        tuple(sorted(quarantined, key=lambda one: (one.node, one.instance_id, one.reason))),
        namesakes=tuple(sorted(set(namesakes), key=lambda one: (one.service, str(one.address)))),
    )


_LEVELS = 8
"""How deep an answer is read: list, entry, record and field are four levels."""
_MARKS = re.compile(r'"(?:[^"\\]+|\\.)*"|[\[\]{}]|-?[0-9]{400,}', re.DOTALL)
"""Strings, so that nothing in them counts as a bracket; brackets; numbers that Python refuses to read."""


def _entries(service: str, body: bytes) -> Sequence[Instance | Quarantined | Namesake]:
    """Return the entries in `body`; raises NotAList, ValueError, or RecursionError for what is nested deeply.

    A registration may hold any JSON in `Proxy.Config`, and Consul gives it back (measured with 1.8.7 and 1.14.11: a
    table 2,500 levels deep). hapsync reads none of it, so where Python's limits are passed it is cut out.
    """
    try:
        return [_parse_entry(service, entry) for entry in elements(body.decode("utf-8"))]
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        pruned = _pruned(body.decode("utf-8", "replace"))
        return [_parse_entry(service, entry) for entry in elements(pruned)]


def _pruned(text: str) -> str:
    """Return the JSON `text` with null for whatever is nested deeper than `_LEVELS`, and for endless numbers."""
    kept: list[str] = []
    start = depth = 0
    for mark in _MARKS.finditer(text):
        match text[mark.start()]:
            case "[" | "{":
                depth += 1
                if depth == _LEVELS + 1:
                    kept += (text[start : mark.start()], "null")
            case "]" | "}":
                if depth == _LEVELS + 1:
                    start = mark.end()
                depth -= 1
            case '"':
                pass
            case _ if depth <= _LEVELS:
                kept += (text[start : mark.start()], "null")
                start = mark.end()
    return "".join((*kept, text[start:] if depth <= _LEVELS else ""))


def _parse_entry(service: str, entry: Any) -> Instance | Quarantined | Namesake:
    node, record = _table(entry, "Node"), _table(entry, "Service")
    address: Address | None = None
    problem = ""
    try:
        address = _address(record.get("Address") or node.get("Address"), record.get("Port"))
    except ValueError as error:
        problem = str(error)
    its_service = record.get("Service", service)
    if isinstance(its_service, str) and its_service != service:
        return Namesake(its_service, address)
    try:
        return _instance(entry, address, problem)
    except ValueError as error:
        return Quarantined(_text(node.get("Node")), _text(record.get("ID")), str(error), address)


def _instance(entry: Any, address: Address | None, problem: str) -> Instance:
    """Return the instance of `entry`, at `address`; raises ValueError, with `problem` where there is none."""
    node, record = _table(entry, "Node"), _table(entry, "Service")
    name, instance_id = node.get("Node"), record.get("ID")
    if not isinstance(name, str):
        raise ValueError("its node has no name that is a text")
    if not isinstance(instance_id, str):
        raise ValueError("it has no service id that is a text")
    if not isinstance(record.get("Service", ""), str):
        raise ValueError("the name of its service is not a text")
    if address is None:
        raise ValueError(problem)
    passing, warning = _weights(record.get("Weights"))
    status = _status(entry.get("Checks", "none"))
    return Instance(
        name,
        instance_id,
        address,
        status,
        passing,
        warning,
        _tags(record.get("Tags")),
        _index(record.get("CreateIndex")),
        _index(record.get("ModifyIndex")),
        _critical_index(entry.get("Checks")),
    )


def _table(of: Any, key: str) -> Mapping[str, Any]:
    found = of.get(key) if isinstance(of, dict) else None
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _tags(tags: object) -> tuple[str, ...]:
    return tuple(sorted(tag for tag in tags if isinstance(tag, str))) if isinstance(tags, list) else ()


def _address(host: object, port: object) -> Address:
    if not isinstance(host, str) or not host:
        raise ValueError("it has no address")
    try:
        canonical = canonical_host(host)
    except ValueError:
        raise ValueError(f"its address {quoted(host, length=60)} is not an IP address") from None
    if why := why_refused(canonical):
        raise ValueError(f"its address {canonical} is {why}")
    if port is None or port == 0:  # 1.14 leaves the port out where it is 0, as it is with a Unix socket
        raise ValueError("it has no port")
    if type(port) is not int or not 1 <= port <= MAX_PORT:
        raise ValueError(f"its port {_said(port)} is not from 1 to {MAX_PORT}")
    address = Address(canonical, port)
    if address == PLACEHOLDER:
        raise ValueError(f"its address {address} is where free slots point")
    return address


def _index(index: object) -> int:
    return index if type(index) is int and index > 0 else 0


def _critical_index(checks: object) -> int:
    """Return the highest index of the checks that are neither passing nor warning, 0 where there is none."""
    tables = [check for check in checks if isinstance(check, dict)] if isinstance(checks, list) else []
    bad = [check for check in tables if _text(check.get("Status")) not in {"passing", "warning"}]
    return max((_index(check.get("ModifyIndex")) for check in bad), default=0)


def _weights(weights: Any) -> tuple[int, int]:
    if weights is None:
        return 1, 1
    if not isinstance(weights, dict):
        raise ValueError("its weights are not a table")
    pair = weights.get("Passing", 1), weights.get("Warning", 1)
    for weight in pair:
        if type(weight) is not int or not 0 <= weight <= MAX_CONSUL_WEIGHT:
            raise ValueError(f"its weight {_said(weight)} is not from 0 to {MAX_CONSUL_WEIGHT}")
    return pair


def _said(value: object) -> str:
    """Return a value of JSON as it is shown; of a list or a table, which may be of any depth, only what it is."""
    if isinstance(value, list | dict):
        return "(a list)" if isinstance(value, list) else "(a table)"
    return quoted(str(value), length=20)


def _status(checks: Any) -> CheckStatus:
    """Return the worst of an instance's checks, in Consul's own order; no checks at all is passing.

    Maintenance is told by check id (`_node_maintenance`, `_service_maintenance:ID`; agent/structs, 1.8). A status
    that is none of Consul's words counts as critical. Raises ValueError for what is no list of checks.
    """
    if checks is None:
        return CheckStatus.PASSING
    if not isinstance(checks, list):
        raise ValueError("its checks are not a list")
    seen = set()
    for check in checks:
        if not isinstance(check, dict):
            raise ValueError("one of its checks is not a table")
        check_id, status = check.get("CheckID"), check.get("Status")
        if check_id == "_node_maintenance" or _text(check_id).startswith("_service_maintenance:"):
            return CheckStatus.MAINTENANCE
        if not isinstance(status, str):
            raise ValueError("one of its checks has no status that is a text")
        seen.add(status)
    if seen <= {"passing"}:
        return CheckStatus.PASSING
    return CheckStatus.WARNING if seen <= {"passing", "warning"} else CheckStatus.CRITICAL

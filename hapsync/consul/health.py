"""The JSON of Consul's `/v1/health/service/NAME` in, one `Reading` of that service out.

An answer that is not a list of entries is a CatalogError and gives no reading. An unusable entry of a list is left
out alone, as a value with its reason.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hapsync.errors import CatalogError
from hapsync.model.address import MAX_PORT, why_refused
from hapsync.model.catalog import MAX_CONSUL_WEIGHT, Instance, Namesake, Quarantined, Reading
from hapsync.model.server import PLACEHOLDER, Address, CheckStatus, canonical_host
from hapsync.text import quoted

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class NotAList(TypeError):
    """The answer is JSON, but no list."""


def parse_reading(service: str, body: bytes) -> Reading:
    """Return the reading that `body`, an answer of `/v1/health/service/SERVICE`, holds.

    An unusable entry, with a part missing or of the wrong type, is quarantined alone.

    Raises CatalogError when the answer is no list of instances: no JSON, no list, or a list in which no entry names a
    node or a service id. A registrant of a service cannot cause such an answer.
    """
    try:
        entries = _entries(service, body)
    except NotAList as error:
        raise CatalogError(f"service {quoted(service)}: Consul's answer is not a list of instances") from error
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"service {quoted(service)}: Consul's answer is not JSON: {error}") from error
    instances = [entry for entry in entries if isinstance(entry, Instance)]
    quarantined = [entry for entry in entries if isinstance(entry, Quarantined)]
    namesakes = {entry for entry in entries if isinstance(entry, Namesake)}
    if entries and not (instances or namesakes or any(one.node or one.instance_id for one in quarantined)):
        raise CatalogError(
            f"service {quoted(service)}: not an entry of Consul's answer names its instance; is it Consul?"
        )
    return Reading(
        service,
        tuple(sorted(instances, key=lambda one: (one.node, one.instance_id, one.address))),
        tuple(sorted(quarantined, key=lambda one: (one.node, one.instance_id, one.reason))),
        namesakes=tuple(sorted(namesakes, key=lambda one: (one.service, str(one.address)))),
    )


_LEVELS = 8
"""The deepest level that is read; list, entry, record and field are four levels."""
_MARKS = re.compile(r'"(?:[^"\\]+|\\.)*"|[\[\]{}]|-?[0-9]{400,}', re.DOTALL)
"""The pattern matches strings (brackets in them do not count), brackets, and numbers too long for Python."""


def _entries(service: str, body: bytes) -> Sequence[Instance | Quarantined | Namesake]:
    """Return the entries in `body`; raises NotAList, ValueError, or RecursionError for deeply nested JSON.

    A registration may hold any JSON in `Proxy.Config`, and Consul gives it back (measured with 1.8.7 and 1.14.11: a
    table 2,500 levels deep). hapsync does not use this part, so JSON beyond Python's limits is cut out.
    """
    try:
        return [_parse_entry(service, entry) for entry in elements(body.decode("utf-8"))]
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        pruned = _pruned(body.decode("utf-8", "replace"))
        return [_parse_entry(service, entry) for entry in elements(pruned)]


def _pruned(text: str) -> str:
    """Return the JSON `text` with null for values nested deeper than `_LEVELS` and for endless numbers."""
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
    """Return the instance of `entry`, at `address`; raises ValueError, with `problem` for a missing address."""
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
    if port is None or port == 0:  # 1.14 omits a port of 0, as services on a unix socket have
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
    """Return the highest index of the checks that are neither passing nor warning; 0 without such a check."""
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
    """Return a JSON value for messages; a list or a table, of any depth, is only named as such."""
    if isinstance(value, list | dict):
        return "(a list)" if isinstance(value, list) else "(a table)"
    return quoted(str(value), length=20)


def _status(checks: Any) -> CheckStatus:
    """Return the worst of an instance's checks, in Consul's own order; no checks at all is passing.

    The id of a check shows maintenance (`_node_maintenance`, `_service_maintenance:ID`; agent/structs, 1.8). A status
    unknown to Consul counts as critical. Raises ValueError where `checks` is no list of checks.
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


def elements(text: str) -> Iterator[Any]:
    """Yield each element of the JSON list `text`, one by one.

    Other threads run between two elements, and only one element is in memory: `json.loads` of 16 MB stops all other
    threads for a quarter of a second, and needs several times the memory.

    Raises NotAList and the errors of `json.loads`, after the elements before the fault.
    """
    at = _after_space(text, 0)
    if not text.startswith("[", at):
        json.loads(text)
        raise NotAList("not a list")
    at = _after_space(text, at + 1)
    has_more = not text.startswith("]", at)
    while has_more:
        element, at = _DECODER.raw_decode(text, at)
        yield element
        at = _after_space(text, at)
        has_more = text.startswith(",", at)
        if has_more:
            at = _after_space(text, at + 1)
        elif not text.startswith("]", at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    at = _after_space(text, at + 1)
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at

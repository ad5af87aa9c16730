"""What `hapsync status` says of one HAProxy: everything read in, a `View` out, and its JSON.

The JSON of `hapsync status --json` is a contract; docs/commands.md lists its fields.
"""

import enum
import json
from collections.abc import Mapping

import attrs

from hapsync.catalog import Catalog, Quarantined
from hapsync.config import Config
from hapsync.desired import Desired, DesiredServer, desired
from hapsync.diff import diff
from hapsync.model import AdminState, Backend, HAProxyProcess, Observed, Server
from hapsync.observed import Health
from hapsync.picture import picture_now, says_the_same
from hapsync.plan import Plan, describe, describe_shortage, make_plan
from hapsync.report import Report
from hapsync.text import one_line, quoted

VERSION = 1
"""Of the JSON; it changes when a field changes its meaning or goes."""


class Verdict(enum.Enum):
    """What `hapsync status` ends with."""

    IN_STEP = 0
    CANNOT_TELL = 1
    OUT_OF_STEP = 2


@attrs.frozen
class ServerRow:
    """One server as HAProxy has it beside what is desired of it.

    `desired` is None where the catalog asks nothing of the server's address.
    """

    server: Server
    desired: DesiredServer | None
    health: Health | None
    use: str


@attrs.frozen
class BackendView:
    """One backend: its servers, the instances that found no place, and what is left out."""

    name: str
    service: str
    exists: bool
    rows: tuple[ServerRow, ...]
    without_slot: tuple[DesiredServer, ...]
    quarantined: tuple[Quarantined, ...]
    is_known: bool
    slots_used: int
    slots_free: int
    slots_emptying: int


@attrs.frozen
class View:
    """Everything `hapsync status` shows."""

    verdict: Verdict
    reasons: tuple[str, ...]
    haproxy: HAProxyProcess | None
    backends: tuple[BackendView, ...]
    plan: Plan
    report: Report | None
    catalog_from: str
    catalog_age_seconds: float | None


def make_view(
    *,
    config: Config,
    catalog: Catalog | None,
    catalog_from: str,
    catalog_age_seconds: float | None,
    process: HAProxyProcess | None,
    observed: Observed | None,
    health: Mapping[tuple[str, str], Health],
    file_text: str | None,
    file_is_readable: bool = True,
    report: Report | None,
    problems: tuple[str, ...],
) -> View:
    """Return what there is to say; `observed` carries loads, and `problems` are what could not be read."""
    wanted = desired(catalog, config) if catalog is not None else Desired({})
    plan = Plan()
    reasons = list(problems)
    if observed is not None:
        plan = make_plan(diff(wanted, observed), observed)
        reasons += [f"due: {' '.join(describe(change).split())}" for change in plan.changes]
        reasons += [f"waits: {' '.join(describe(held.change).split())}" for held in plan.waiting]
        reasons += [" ".join(describe_shortage(shortage).split()) for shortage in plan.shortages]
        if not file_is_readable:
            pass  # said already
        elif file_text is None:
            reasons.append(f"{config.haproxy.config} does not exist yet")
        elif not says_the_same(file_text, picture_now(wanted, observed)):
            reasons.append(f"{config.haproxy.config} does not say the same as HAProxy")
    unknown = [name for name in sorted(config.backends) if name not in wanted.backends]
    if catalog is not None:
        reasons += [f"service {quoted(config.backends[name].service)} was not read yet" for name in unknown]
    if observed is None or unknown or not file_is_readable:
        verdict = Verdict.CANNOT_TELL
    else:
        verdict = Verdict.OUT_OF_STEP if reasons else Verdict.IN_STEP
    return View(
        verdict,
        tuple(reasons),
        process,
        tuple(
            _backend_view(name, config.backends[name].service, wanted, observed, health)
            for name in sorted(config.backends)
        ),
        plan,
        report,
        catalog_from,
        catalog_age_seconds,
    )


def _backend_view(
    name: str,
    service: str,
    wanted: Desired,
    observed: Observed | None,
    health: Mapping[tuple[str, str], Health],
) -> BackendView:
    want = wanted.backends.get(name)
    have = observed.backends.get(name, Backend(name, exists=False)) if observed else Backend(name, exists=False)
    by_address = want.by_address if want else {}
    rows = []
    used = free = emptying = 0
    shown_addresses = set()
    for slot in sorted(have.slots, key=lambda slot: slot.admin is AdminState.MAINT):
        due = by_address.get(slot.address) if slot.address and slot.address not in shown_addresses else None
        if due is not None:
            shown_addresses.add(slot.address)
        if due is not None or slot.admin is not AdminState.MAINT:
            use, used = "used", used + 1
        elif slot.is_idle or slot.load is None:
            use, free = "free", free + 1
        else:
            use, emptying = "emptying", emptying + 1
        rows.append(ServerRow(slot, due, health.get((name, slot.name)), use))
    rows.sort(key=lambda row: (len(row.server.name), row.server.name))
    rows += [ServerRow(one, None, health.get((name, one.name)), "foreign") for one in have.foreign]
    return BackendView(
        name,
        service,
        have.exists,
        tuple(rows),
        tuple(one for one in (want.servers if want else ()) if one.address not in shown_addresses),
        want.quarantined if want else (),
        want is not None,
        used,
        free,
        emptying,
    )


def view_to_json(view: View) -> str:
    """Return the JSON of `hapsync status --json`; docs/commands.md documents each field."""
    report = view.report
    return json.dumps(
        {
            "version": VERSION,
            "verdict": view.verdict.name.lower(),
            "reasons": [one_line(reason, length=500) for reason in view.reasons],
            "haproxy": attrs.asdict(view.haproxy) if view.haproxy else None,
            "catalog": {"from": view.catalog_from, "age_seconds": view.catalog_age_seconds},
            "counts": {
                "held": len(view.plan.held),
                "quarantined": sum(len(backend.quarantined) for backend in view.backends),
            },
            "backends": {backend.name: _backend_json(backend) for backend in view.backends},
            "held": [
                {
                    "backend": held.change.backend,
                    "server": held.change.server,
                    "change": " ".join(describe(held.change).split()),
                    "reason": held.reason.value,
                }
                for held in (*view.plan.held, *view.plan.waiting)
            ],
            "agent": attrs.asdict(report) if report else None,
        },
        indent=2,
    )


def _backend_json(backend: BackendView) -> Mapping[str, object]:
    return {
        "service": backend.service,
        "exists": backend.exists,
        "known": backend.is_known,
        "slots": {
            "used": backend.slots_used,
            "free": backend.slots_free,
            "emptying": backend.slots_emptying,
        },
        "servers": [_row_json(row) for row in backend.rows],
        "without_slot": [_desired_json(one) for one in backend.without_slot],
        "quarantined": [
            {"node": one.node, "service_id": one.instance_id, "reason": one.reason} for one in backend.quarantined
        ],
    }


def _row_json(row: ServerRow) -> Mapping[str, object]:
    server, load = row.server, row.server.load
    return {
        "server": server.name,
        "use": row.use,
        "address": str(server.address) if server.address else None,
        "state": server.admin.value,
        "weight": server.weight,
        "up": server.is_up,
        "sessions": load.sessions if load else None,
        "queued": load.queued if load else None,
        "connections": {"used": load.used_connections, "idle": load.idle_connections} if load else None,
        "check": row.health.check if row.health else None,
        "status": row.health.status if row.health else None,
        "desired": _desired_json(row.desired) if row.desired else None,
    }


def _desired_json(one: DesiredServer) -> Mapping[str, object]:
    return {
        "address": str(one.address),
        "state": one.admin.value,
        "weight": one.weight,
        "consul": one.status.value,
        "node": one.node,
        "service_id": one.instance_id,
    }

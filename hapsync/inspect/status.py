"""The view of `hapsync status` on one HAProxy: from all readings to a `View`, and from the `View` to JSON.

The JSON of `hapsync status --json` is a contract; docs/commands.md lists its fields.
"""

import json
from collections.abc import Mapping

import attrs

from hapsync.agent.report_file import Report
from hapsync.config.schema import Config
from hapsync.haproxy.compare import says_the_same
from hapsync.haproxy.old_workers import NOT_LOOKED, OldWorkers
from hapsync.haproxy.show import Health
from hapsync.model.catalog import Quarantined
from hapsync.model.changes import Defect, Reason
from hapsync.model.overrides import Freeze, Lost, Override, SavedState, lost_words, stopped_words
from hapsync.model.server import (
    SLOTS_ONLY,
    AdminState,
    Backend,
    HAProxyProcess,
    ListenQueue,
    Observed,
    Scaling,
    Server,
    server_order,
)
from hapsync.plan.assessment import Assessment, Judgement, Rules, Verdict, defect_line, judge, unread_lines, untold
from hapsync.plan.desired import Desired, DesiredServer
from hapsync.plan.guard import Caution, capacity
from hapsync.plan.plan import Plan, describe
from hapsync.text import one_line

VERSION = 2
"""The version of the JSON; it changes when a field changes its meaning or goes."""


@attrs.frozen
class ServerRow:
    """One of HAProxy's servers, beside the desired server at its address.

    `desired` is None where the catalog asks nothing of the server's address.
    """

    server: Server
    desired: DesiredServer | None
    health: Health | None
    use: str


@attrs.frozen
class BackendView:
    """One backend: its servers, the instances without a slot, and the quarantined ones.

    `dynamic` is the number of dynamic servers in use; `scaling` says how more of them could come in. `unread` is the
    reason why HAProxy's answer about the backend could not be read, None where it could.
    """

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
    doubt: str | None
    capacity: int
    floor: int
    is_refilling: bool
    dynamic: int = 0
    scaling: Scaling = SLOTS_ONLY
    unread: str | None = None

    @property
    def stale_overrides(self) -> tuple[Server, ...]:
        """The overridden servers that Consul lacks; each keeps its slot until its release."""
        if not self.is_known:
            return ()
        return tuple(row.server for row in self.rows if row.use == "overridden" and row.desired is None)


@attrs.frozen
class View:
    """Everything that `hapsync status` shows; `queues` is None where they were not read, or could not be."""

    verdict: Verdict
    reasons: tuple[str, ...]
    haproxy: HAProxyProcess | None
    backends: tuple[BackendView, ...]
    plan: Plan
    report: Report | None
    catalog_from: str
    catalog_age_seconds: float | None
    freeze: Freeze | None = None
    overrides: tuple[Override, ...] = ()
    stopped: Reason | None = None
    lost: Lost | None = None
    other_version: str | None = None
    old_workers: OldWorkers = NOT_LOOKED
    queues: tuple[ListenQueue, ...] | None = None
    defects: tuple[Defect, ...] = ()


def make_view(
    *,
    config: Config,
    seen: Assessment | None,
    desired: Desired,
    has_catalog: bool,
    rules: Rules,
    saved: SavedState,
    catalog_from: str,
    catalog_age_seconds: float | None,
    health: Mapping[tuple[str, str], Health],
    file_text: str | None,
    file_is_readable: bool = True,
    report: Report | None,
    problems: tuple[str, ...],
) -> View:
    """Return the view of all readings; `problems` name the sources that could not be read.

    `seen` carries the loads and first checks of all servers, and is None where HAProxy does not answer. `desired` has
    only overrides where no catalog could be read (`has_catalog` is false).
    """
    stopped, observed = rules.stopped, seen.observed if seen is not None else None
    found = judge(config, seen) if seen is not None else Judgement(unknown=tuple(untold(config, desired)))
    reasons = list(problems)
    if stopped is not None:
        reasons.append(f"nothing is changed: {stopped_words(stopped, saved)}")
    if saved.lost is not None:
        reasons.append(lost_words(saved.lost))
    if has_catalog:
        reasons += found.unknown
    elif observed is not None:
        reasons += unread_lines(observed)
    reasons += found.due
    if seen is not None and file_is_readable:
        if file_text is None:
            reasons.append(f"{config.haproxy.config} does not exist yet")
        elif not says_the_same(file_text, seen.target):
            reasons.append(f"{config.haproxy.config} differs from the running HAProxy")
    reasons += found.worrying
    defects = tuple(dict.fromkeys((*(report.defects if report else ()), *(seen.plan.defects if seen else ()))))
    reasons += [line for line in map(defect_line, defects) if line not in reasons]
    verdict = Verdict.OUT_OF_SYNC if reasons else Verdict.IN_SYNC
    if seen is None or found.unknown or not file_is_readable:
        verdict = Verdict.CANNOT_TELL
    return View(
        verdict,
        tuple(reasons),
        seen.process if seen is not None else None,
        tuple(
            _backend_view(name, config.backends[name].service, desired, observed, health, rules.cautions.get(name))
            for name in sorted(config.backends)
        ),
        seen.plan if seen is not None else Plan(),
        report,
        catalog_from,
        catalog_age_seconds,
        saved.freeze,
        saved.holds,
        stopped,
        saved.lost,
        saved.unread_version,
        defects=defects,
    )


def _backend_view(
    name: str,
    service: str,
    wanted: Desired,
    observed: Observed | None,
    health: Mapping[tuple[str, str], Health],
    caution: Caution | None,
) -> BackendView:
    want = wanted.backends.get(name)
    have = observed.backends.get(name, Backend(name, exists=False)) if observed else Backend(name, exists=False)
    by_address = want.by_address if want else {}
    rows = []
    used = free = emptying = dynamic = 0
    shown_addresses = set()
    for slot in sorted(have.slots, key=lambda slot: slot.admin is AdminState.MAINT):
        due = by_address.get(slot.address) if slot.address and slot.address not in shown_addresses else None
        if due is not None:
            shown_addresses.add(slot.address)
        if slot.is_overridden:
            use = "overridden"
        elif due is not None or slot.admin is not AdminState.MAINT:
            use = "used"
        elif slot.is_slot and slot.is_idle:
            use, free = "free", free + 1
        else:
            use, emptying = "emptying", emptying + slot.is_slot
        if use in ("overridden", "used"):
            used, dynamic = used + slot.is_slot, dynamic + slot.is_dynamic
        rows.append(ServerRow(slot, due, health.get((name, slot.name)), use))
    rows.sort(key=lambda row: server_order(row.server.name))
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
        want.doubt.value if want and want.doubt else None,
        capacity(have),
        (caution or Caution()).floor(capacity(have)),
        caution is not None and caution.is_refilling,
        dynamic,
        have.scaling,
        observed.unread.get(name) if observed else None,
    )


def view_to_json(view: View) -> str:
    """Return the JSON of `hapsync status --json`; docs/commands.md documents each field."""
    report = view.report
    return json.dumps(
        {
            "version": VERSION,
            "sync": {
                "verdict": view.verdict.name.lower(),
                "reasons": [one_line(reason, length=500) for reason in view.reasons],
            },
            "haproxy": attrs.asdict(view.haproxy) if view.haproxy else None,
            "catalog": {"from": view.catalog_from, "age_seconds": view.catalog_age_seconds},
            "counts": {
                "deferred": len(view.plan.deferred),
                "quarantined": sum(len(backend.quarantined) for backend in view.backends),
            },
            "backends": {backend.name: _backend_json(backend) for backend in view.backends},
            "deferred": [
                {
                    "backend": deferred.change.backend,
                    "server": deferred.change.server,
                    "change": " ".join(describe(deferred.change).split()),
                    "reason": deferred.reason.value,
                }
                for deferred in (*view.plan.deferred, *view.plan.waiting)
            ],
            "freeze": _request_json(view.freeze) if view.freeze else None,
            "overrides": [
                {
                    "backend": override.backend,
                    "address": str(override.address),
                    "state": override.admin.value,
                    "is_releasing": override.is_releasing,
                    **_request_json(override),
                }
                for override in view.overrides
            ],
            "state_file": {
                "lost": attrs.asdict(view.lost) if view.lost else None,
                "other_version": view.other_version,
            },
            "stopped": view.stopped.value if view.stopped else None,
            "old_workers": _old_json(view.old_workers),
            "queues": [attrs.asdict(one) for one in view.queues] if view.queues is not None else None,
            "defects": [attrs.asdict(one) for one in view.defects],
            "agent": _agent_json(report) if report else None,
        },
        indent=2,
    )


def _agent_json(report: Report) -> Mapping[str, object]:
    # Freeze, overrides and guard state are in the fields above, whether an agent runs or not.
    left_out = {"freeze", "overrides", "lost", "unread_version", "cautions", "old_workers", "defects"}
    return attrs.asdict(report, filter=lambda field, _value: field.name not in left_out)


def _old_json(old: OldWorkers) -> Mapping[str, object]:
    tree = attrs.asdict(old)
    for worker, worker_tree in zip(old.workers, tree["workers"], strict=True):
        for gone, gone_tree in zip(worker.gone, worker_tree["gone"], strict=True):
            gone_tree["address"] = str(gone.address)
    return tree


def _request_json(asked: Freeze | Override) -> Mapping[str, object]:
    return {"at": asked.at, "until": asked.until, "who": asked.who, "reason": asked.reason}


def _backend_json(backend: BackendView) -> Mapping[str, object]:
    return {
        "service": backend.service,
        "exists": backend.exists,
        "known": backend.is_known,
        "doubt": backend.doubt,
        "capacity": backend.capacity,
        "floor": backend.floor,
        "refilling": backend.is_refilling,
        "unread": backend.unread,
        "slots": {
            "used": backend.slots_used,
            "free": backend.slots_free,
            "emptying": backend.slots_emptying,
        },
        "dynamic": backend.dynamic,
        "scaling": {"dynamic": backend.scaling.can_add, "why_not": backend.scaling.why or None},
        "stale_overrides": [
            {
                "server": one.name,
                "address": str(one.address),
                "state": one.admin.value,
                "unchanged_seconds": one.since_seconds,
            }
            for one in backend.stale_overrides
        ],
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
        "consul_weight": one.consul_weight,
        "consul": one.status.value,
        "node": one.node,
        "service_id": one.instance_id,
    }

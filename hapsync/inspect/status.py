"""The view of `hapsync status` on one HAProxy: all readings, the answers that follow from them, and the JSON.

The JSON of `hapsync status --json` is a contract; docs/commands.md lists its fields.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import attrs

from hapsync.agent.report_file import Report
from hapsync.config.schema import Config
from hapsync.haproxy.compare import says_the_same
from hapsync.haproxy.old_workers import NOT_LOOKED, OldWorkers
from hapsync.haproxy.show import Health
from hapsync.model.catalog import Quarantined
from hapsync.model.changes import Defect, Deferred
from hapsync.model.overrides import Freeze, Override, lost_words, stopped_words
from hapsync.model.server import Address, AdminState, Backend, ListenQueue, Observed, Server, server_order
from hapsync.plan.assessment import Assessment, Judgement, Rules, Verdict, defect_line, judge, unread_lines, untold
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.guard import Caution, capacity
from hapsync.plan.plan import Plan, describe
from hapsync.text import one_line

VERSION = 2
"""The version of the JSON; it changes when a field changes its meaning or goes."""


@attrs.frozen
class ServerRow:
    """One of HAProxy's servers, beside the desired server at its address.

    `desired` is None where the catalog asks nothing of the server's address. `use` is one of used, overridden, free,
    emptying and foreign.
    """

    server: Server
    desired: DesiredServer | None
    health: Health | None
    use: str


@attrs.frozen
class BackendView:
    """One backend: what HAProxy has (`have`), beside what is wanted (`want`, empty unless `is_known`).

    `unread` is the reason why HAProxy's answer about the backend could not be read, None where it could.
    """

    name: str
    service: str
    have: Backend
    want: DesiredBackend
    is_known: bool
    caution: Caution
    rows: tuple[ServerRow, ...]
    unread: str | None

    @property
    def without_slot(self) -> Sequence[DesiredServer]:
        """The instances that no server of HAProxy's has the address of."""
        there = {row.desired.address for row in self.rows if row.desired is not None}
        return [one for one in self.want.servers if one.address not in there]

    @property
    def stale_overrides(self) -> Sequence[Server]:
        """The overridden servers that Consul lacks; each keeps its slot until its release."""
        stale = [row.server for row in self.rows if row.use == "overridden" and row.desired is None]
        return stale if self.is_known else ()

    def slots(self, *uses: str) -> int:
        """Return the number of slots with one of `uses`."""
        return sum(row.server.is_slot for row in self.rows if row.use in uses)

    @property
    def slots_used(self) -> int:
        return self.slots("used", "overridden")

    @property
    def fullness(self) -> float:
        """The part of the slots that is in use, from 0 to 1."""
        total = self.slots("used", "overridden", "free", "emptying")
        return self.slots_used / total if total else 0.0

    @property
    def dynamic(self) -> int:
        """The number of dynamic servers in use."""
        return sum(row.server.is_dynamic for row in self.rows if row.use in ("used", "overridden"))

    @property
    def capacity(self) -> int:
        return capacity(self.have)

    @property
    def floor(self) -> int:
        return self.caution.floor(self.capacity)


@attrs.frozen(kw_only=True)
class View:
    """All readings for `hapsync status`, and the answers that follow from them.

    `seen` has the loads and first checks of all servers, and is None where HAProxy does not answer. `catalog_from`
    names the source of the catalog. Without a catalog (`has_catalog` is false) `desired` has only overrides.
    `problems` name the sources that could not be read. `queues` is None where they were not read, or could not be
    (`queues_error`). Only the backends in `names` are shown; all are where it is empty.
    """

    config: Config
    desired: Desired
    rules: Rules
    seen: Assessment | None
    health: Mapping[tuple[str, str], Health]
    file_text: str | None
    file_is_readable: bool = True
    has_catalog: bool
    catalog_from: str
    catalog_age_seconds: float | None
    report: Report | None
    problems: Sequence[str]
    old_workers: OldWorkers = NOT_LOOKED
    queues: tuple[ListenQueue, ...] | None = None
    queues_error: str | None = None
    names: Collection[str] = ()

    @property
    def observed(self) -> Observed:
        return self.seen.observed if self.seen is not None else Observed({})

    @property
    def plan(self) -> Plan:
        return self.seen.plan if self.seen is not None else Plan()

    @property
    def deferred(self) -> Sequence[Deferred]:
        """The changes that wait: for the guard or an operator, or for their replacements."""
        return (*self.plan.deferred, *self.plan.waiting)

    @property
    def defects(self) -> Sequence[Defect]:
        """The defects of hapsync that the agent reports, and those of this plan."""
        return tuple(dict.fromkeys((*(self.report.defects if self.report else ()), *self.plan.defects)))

    @cached_property
    def _judgement(self) -> Judgement:
        if self.seen is None:
            return Judgement(unknown=tuple(untold(self.config, self.desired)))
        return judge(self.config, self.seen)

    @property
    def verdict(self) -> Verdict:
        if self.seen is None or self._judgement.unknown or not self.file_is_readable:
            return Verdict.CANNOT_TELL
        return Verdict.OUT_OF_SYNC if self.reasons else Verdict.IN_SYNC

    @cached_property
    def reasons(self) -> Sequence[str]:
        """Why HAProxy is not in sync, or why its state is unknown, a line each."""
        found, saved = self._judgement, self.rules.saved
        reasons = list(self.problems)
        if self.rules.stopped is not None:
            reasons.append(f"nothing is changed: {stopped_words(self.rules.stopped, saved)}")
        if saved.lost is not None:
            reasons.append(lost_words(saved.lost))
        if self.has_catalog:
            reasons += found.unknown
        else:
            reasons += unread_lines(self.observed)
        reasons += found.due
        if self.seen is not None and self.file_is_readable:
            reasons += file_behind(self.config, self.file_text, self.seen)
        reasons += found.worrying
        return tuple(reasons + [line for line in map(defect_line, self.defects) if line not in reasons])

    @cached_property
    def backends(self) -> Sequence[BackendView]:
        """The backends, by name."""
        return tuple(self._backend(name) for name in sorted(self.names or self.config.backends))

    def _backend(self, name: str) -> BackendView:
        have = self.observed.backends.get(name, Backend(name, exists=False))
        want = self.desired.backends.get(name, DesiredBackend(name, 0))
        return BackendView(
            name,
            self.config.backends[name].service,
            have,
            want,
            name in self.desired.backends,
            self.rules.cautions.get(name, Caution()),
            tuple(_rows(have, want.by_address, self.health)),
            self.observed.unread.get(name),
        )

    @property
    def quarantined(self) -> Sequence[Quarantined]:
        """The quarantined instances of all backends shown."""
        return [one for backend in self.backends for one in backend.want.quarantined]


def file_behind(config: Config, text: str | None, seen: Assessment) -> Sequence[str]:
    """Return a line where haproxy.cfg with `text` (None: there is no file) lacks what a HAProxy should have now."""
    if text is None:
        return [f"{config.haproxy.config} does not exist yet"]
    is_same = says_the_same(text, seen.target)
    return [] if is_same else [f"{config.haproxy.config} differs from the running HAProxy"]


def _rows(
    have: Backend, by_address: Mapping[Address, DesiredServer], health: Mapping[tuple[str, str], Health]
) -> list[ServerRow]:
    """Return a row for each server of `have`; of two slots with one address, the serving one is the desired one."""
    rows, left = [], dict(by_address)
    for slot in sorted(have.slots, key=lambda slot: slot.admin is AdminState.MAINT):
        due = left.pop(slot.address, None) if slot.address else None
        if slot.is_overridden:
            use = "overridden"
        elif due is not None or slot.admin is not AdminState.MAINT:
            use = "used"
        else:
            use = "free" if slot.is_slot and slot.is_idle else "emptying"
        rows.append(ServerRow(slot, due, health.get((have.name, slot.name)), use))
    rows.sort(key=lambda row: server_order(row.server.name))
    return rows + [ServerRow(one, None, health.get((have.name, one.name)), "foreign") for one in have.foreign]


def view_to_json(view: View) -> str:
    """Return the JSON of `hapsync status --json`; docs/commands.md documents each field."""
    saved, stopped = view.rules.saved, view.rules.stopped
    return json.dumps(
        {
            "version": VERSION,
            "sync": {
                "verdict": view.verdict.name.lower(),
                "reasons": [one_line(reason, length=500) for reason in view.reasons],
            },
            "haproxy": _json(view.seen.process) if view.seen else None,
            "catalog": {"from": view.catalog_from, "age_seconds": view.catalog_age_seconds},
            "counts": {"deferred": len(view.plan.deferred), "quarantined": len(view.quarantined)},
            "backends": {backend.name: _backend_json(backend) for backend in view.backends},
            "deferred": [
                {
                    "backend": deferred.change.backend,
                    "server": deferred.change.server,
                    "change": " ".join(describe(deferred.change).split()),
                    "reason": deferred.reason.value,
                }
                for deferred in view.deferred
            ],
            "freeze": _request_json(saved.freeze) if saved.freeze else None,
            "overrides": [
                {
                    "backend": override.backend,
                    "address": str(override.address),
                    "state": override.admin.value,
                    "is_releasing": override.is_releasing,
                    **_request_json(override),
                }
                for override in saved.holds
            ],
            "state_file": {"lost": _json(saved.lost), "other_version": saved.unread_version},
            "stopped": stopped.value if stopped else None,
            "old_workers": _json(view.old_workers),
            "queues": [_json(one) for one in view.queues] if view.queues is not None else None,
            "defects": [_json(one) for one in view.defects],
            # Freeze, overrides and guard state are in the fields above, whether an agent runs or not.
            "agent": _json(
                view.report,
                *("freeze", "overrides", "lost", "unread_version", "cautions", "old_workers", "defects"),
            ),
        },
        indent=2,
    )


def _json(value: attrs.AttrsInstance | None, *left_out: str) -> Mapping[str, object] | None:
    """Return the fields of `value` but those `left_out`; an address is a text."""
    if value is None:
        return None
    return attrs.asdict(
        value,
        filter=lambda field, _: field.name not in left_out,
        value_serializer=lambda _, _field, one: str(one) if isinstance(one, Address) else one,
    )


def _request_json(asked: Freeze | Override) -> Mapping[str, object]:
    return {"at": asked.at, "until": asked.until, "who": asked.who, "reason": asked.reason}


def _backend_json(backend: BackendView) -> Mapping[str, object]:
    scaling, doubt = backend.have.scaling, backend.want.doubt
    return {
        "service": backend.service,
        "exists": backend.have.exists,
        "known": backend.is_known,
        "doubt": doubt.value if doubt else None,
        "capacity": backend.capacity,
        "floor": backend.floor,
        "refilling": backend.caution.is_refilling,
        "unread": backend.unread,
        "slots": {
            "used": backend.slots_used,
            "free": backend.slots("free"),
            "emptying": backend.slots("emptying"),
        },
        "dynamic": backend.dynamic,
        "scaling": {"dynamic": scaling.can_add, "why_not": scaling.why or None},
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
            {"node": one.node, "service_id": one.instance_id, "reason": one.reason}
            for one in backend.want.quarantined
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

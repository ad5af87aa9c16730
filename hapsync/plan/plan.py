"""Diff in, `Plan` out: the same changes in their order, without the ones that must wait."""

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs

from hapsync.model.changes import (
    Add,
    Change,
    ClearOverride,
    Create,
    Defect,
    Deferred,
    Delete,
    Disable,
    Drain,
    Enable,
    EndSessions,
    Entry,
    Reason,
    Remove,
    Reweigh,
    SetAgent,
    SetOverride,
    Shortage,
    takes_out,
)
from hapsync.model.server import AdminState, Observed, Server
from hapsync.plan.diff import Diff
from hapsync.text import plural


@attrs.frozen
class Plan:
    """The changes of one pass: `incoming` first, then `outgoing`, so that capacity goes in before any goes out.

    `deferred` are due changes that wait until their reason ends; they do not make hapsync out of sync. `waiting` are
    removals until their backend has slots again; `shortages` name the backends that have to grow. `defects` name the
    promises that the changes of a backend would break; these changes are deferred.
    """

    incoming: tuple[Change, ...] = ()
    outgoing: tuple[Change, ...] = ()
    waiting: tuple[Deferred, ...] = ()
    deferred: tuple[Deferred, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    defects: tuple[Defect, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        return (*self.incoming, *self.outgoing)

    @property
    def is_empty(self) -> bool:
        """No change is due, apart from deferred ones."""
        is_stopped = any(
            one.reason in (Reason.FROZEN, Reason.OBSERVING, Reason.OTHER_VERSION) for one in self.deferred
        )
        return not (self.incoming or self.outgoing or self.waiting or self.shortages or self.defects or is_stopped)

    def stopped(self, reason: Reason) -> "Plan":
        """Return the plan with all changes deferred for one `reason`."""
        deferred = tuple(Deferred(change, reason) for change in self.changes)
        return Plan(deferred=(*deferred, *self.waiting, *self.deferred), shortages=self.shortages)

    def without(self, defects: tuple[Defect, ...]) -> "Plan":
        """Return the plan with all changes deferred in the backends of `defects`."""
        if not defects:
            return self
        names = {one.backend for one in defects}
        dropped = tuple(Deferred(one, Reason.DEFECT) for one in self.changes if one.backend in names)
        return attrs.evolve(
            self,
            incoming=tuple(one for one in self.incoming if one.backend not in names),
            outgoing=tuple(one for one in self.outgoing if one.backend not in names),
            deferred=(*dropped, *self.deferred),
            defects=defects,
        )

    def __str__(self) -> str:
        lines = [describe(change) for change in self.changes]
        lines += [f"wait    {describe(deferred.change)}: {deferred.reason.value}" for deferred in self.waiting]
        lines += [f"defer   {describe(deferred.change)}: {deferred.reason.value}" for deferred in self.deferred]
        lines += [describe_shortage(shortage) for shortage in self.shortages]
        lines += [f"defect  {describe_defect(defect)}" for defect in self.defects]
        return "\n".join(lines)


def make_plan(found: Diff, observed: Observed) -> Plan:
    """Return the plan of `found`.

    Where a backend is short of slots, half of its desired number of servers stays until their replacements are in.
    """
    incoming = [change for change in found.changes if _brings(change)]
    outgoing = [change for change in found.changes if not _brings(change)]
    go, wait = keep_half(outgoing, observed, {one.backend: one.wanted for one in found.shortages}, incoming)
    return Plan(
        tuple(sorted(incoming, key=_order)),
        tuple(sorted(go, key=_order)),
        tuple(Deferred(change, Reason.CAPACITY_FIRST) for change in sorted(wait, key=_order)),
        found.deferred,
        found.shortages,
    )


def keep_half(
    outgoing: Iterable[Change], observed: Observed, wanted: Mapping[str, int], incoming: Iterable[Change]
) -> tuple[Sequence[Change], Sequence[Change]]:
    """Split `outgoing` into permitted changes and changes that wait for slots.

    `wanted` has the desired number of serving servers of each backend that is short of slots. Half of it (rounded up)
    must stay ready there; `incoming` servers count as ready, and servers that an operator takes out do not. In other
    backends all changes go. Half of the present number would be halved again by each pass.
    """
    outgoing = list(outgoing)
    left = {name: len(_ready(observed, name)) - math.ceil(number / 2) for name, number in wanted.items()}
    for change in incoming:
        if change.backend in left and isinstance(change, Entry) and change.weight > 0 and not change.is_checked:
            left[change.backend] += 1
    serving = {(name, slot.name) for name in left for slot in _ready(observed, name)}
    for change in outgoing:
        if isinstance(change, SetOverride) and (change.backend, change.server) in serving:
            left[change.backend] -= 1
    go: list[Change] = []
    wait: list[Change] = []
    for change in outgoing:
        if (change.backend, change.server) not in serving or not takes_out(change):
            go.append(change)
        elif left[change.backend] > 0:
            left[change.backend] -= 1
            go.append(change)
        else:
            wait.append(change)
    return go, wait


def _ready(observed: Observed, name: str) -> Sequence[Server]:
    backend = observed.backends.get(name)
    return backend.ready if backend is not None else ()


def _brings(change: Change) -> bool:
    match change:
        case Add() | Create() | Enable():
            return True
        case Reweigh(weight=weight, was=was):
            return weight > was
        case ClearOverride():
            return True
        case SetAgent(runs=runs):
            return runs
        case Drain() | Disable() | Remove() | Delete() | EndSessions() | SetOverride():
            return False


_VERBS: Mapping[type, str] = {
    ClearOverride: "release",
    Enable: "enable",
    Add: "add",
    Create: "create",
    Reweigh: "weight",
    SetAgent: "agent",
    SetOverride: "hold",
    Drain: "drain",
    Disable: "disable",
    Remove: "remove",
    EndSessions: "end",
    Delete: "delete",
}
"""The words for the changes, in the order in which they are made in a backend."""
_PLACES = {kind: place for place, kind in enumerate(_VERBS)}


def _order(change: Change) -> tuple[str, int, int, str]:
    return change.backend, _PLACES[type(change)], len(change.server), change.server


def describe(change: Change) -> str:
    """Return one line about `change`, for `hapsync plan` and the log."""
    verb, reason = _VERBS[type(change)], f"({change.reason.value})"
    match change:
        case Add(weight=weight) | Create(weight=weight) | Enable(weight=weight):
            what = f"weight {weight} {reason}"
        case EndSessions(sessions=sessions):
            what = f"{plural(sessions, 'session')} {reason}"
        case Reweigh(weight=weight, was=was):
            what = f"{was} -> {weight}"
        case SetAgent(runs=runs):
            what = f"{'on' if runs else 'off'} {reason}"
        case SetOverride(admin=AdminState.DRAIN):
            verb, what = _VERBS[Drain], reason
        case _:
            what = reason
    return f"{verb:<7} {change.backend}/{change.server} {change.address} {what}"


def describe_shortage(shortage: Shortage) -> str:
    """Return one line about `shortage`."""
    if shortage.is_missing:
        return f"grow    {shortage.backend}: HAProxy does not have this backend yet"
    waiting = ", ".join(str(address) for address in shortage.addresses[:5])
    more = f" and {len(shortage.addresses) - 5} more" if len(shortage.addresses) > 5 else ""  # noqa: PLR2004
    return (
        f"grow    {shortage.backend}: no free slot for {plural(len(shortage.addresses), 'server')}: {waiting}{more}"
    )


def describe_defect(defect: Defect) -> str:
    """Return one line about `defect`."""
    return f"backend {defect.backend}: nothing is changed, for this promise would be broken: {defect.promise}"


ALARMING = frozenset(
    {Reason.SERVICE_GONE, Reason.NO_LEADER, Reason.STALE, Reason.FILTERED, Reason.UNCONFIRMED, Reason.REFILLING}
)
"""The reasons for which a deferral needs an operator's attention."""


def alarms(plan: Plan) -> list[str]:
    """Return the alarms, a line for each backend: deferrals that need an operator, and put HAProxy out of sync."""
    deferred: dict[tuple[str, str], int] = {}
    for one in plan.deferred:
        if one.reason in ALARMING:
            key = one.change.backend, one.reason.value
            deferred[key] = deferred.get(key, 0) + 1
    return [
        f"backend {name}: {plural(count, 'server')} kept, {why}" for (name, why), count in sorted(deferred.items())
    ]

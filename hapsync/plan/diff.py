"""Desired and Observed in, `Diff` out: the changes that make HAProxy's servers the desired ones."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import attrs

from hapsync.model.changes import (
    REASON_OF,
    Add,
    Change,
    ClearOverride,
    Create,
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
)
from hapsync.model.server import (
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    FirstCheck,
    Observed,
    Server,
    dynamic_id,
    server_order,
)
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.naming import dynamic_name


@attrs.frozen
class Diff:
    """The difference between desired and observed: changes, shortages of slots, and deferred changes."""

    changes: tuple[Change, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    deferred: tuple[Deferred, ...] = ()


def diff(desired: Desired, observed: Observed) -> Diff:
    """Return the difference of the backends that are in both; other backends do not count.

    `deferred` are the changes that an override of the server forbids.
    """
    changes: list[Change] = []
    shortages: list[Shortage] = []
    deferred: list[Deferred] = []
    for name in sorted({*desired.backends, *desired.overrides}):
        have = observed.backends.get(name)
        if have is None:
            continue
        overrides = desired.overrides.get(name, {})
        want = desired.backends.get(name)
        found = (
            _diff_backend(want, have, overrides)
            if want is not None
            else Diff(tuple(override_changes(have, overrides)))
        )
        changes.extend(found.changes)
        shortages.extend(found.shortages)
        deferred.extend(found.deferred)
    return Diff(tuple(changes), tuple(shortages), tuple(deferred))


def needs_loads(found: Diff, desired: Desired, observed: Observed, *, entries_first: bool = False) -> tuple[str, ...]:
    """Return the backends whose loads must be read to decide on additions or deletions.

    With `entries_first`, deletions do not count while servers are being added, so no newcomer waits for them.
    """
    waiting = {shortage.backend for shortage in found.shortages}
    waiting |= {
        change.backend
        for change in found.changes
        if isinstance(change, Create) and desired.backends[change.backend].scaling != "dynamic"
    }
    deletes = not (entries_first and any(isinstance(change, Entry) for change in found.changes))
    return tuple(
        name
        for name, backend in sorted(observed.backends.items())
        if name in waiting or (deletes and backend.scaling.can_add)
        if any(
            (name in waiting and slot.is_slot and not slot.is_free) or (deletes and _is_at_rest(slot, backend))
            for slot in backend.slots
            if slot.admin is AdminState.MAINT and slot.load is None
        )
    )


def _diff_backend(want: DesiredBackend, have: Backend, overrides: Mapping[Address, AdminState | None]) -> Diff:
    if not have.exists:
        missing_all = tuple(server.address for server in want.servers if server.needs_slot)
        return Diff(shortages=(Shortage(want.name, missing_all, len(missing_all), is_missing=True),))
    by_address = want.by_address
    # While no server serves, Consul's checks are the only evidence, so a newcomer needs no first check.
    is_checked = want.start == "checked" and any(slot.serves for slot in have.slots)
    assigned, others = assigned_slots(by_address, have.slots)
    changes: list[Change] = list(override_changes(have, overrides))
    touched = {change.server for change in changes}
    due: list[tuple[Server, Change]] = []
    for address, slot in assigned.items():
        options = want.server_options if slot.is_dynamic else ""
        change = _bring(want.name, slot, by_address[address], is_checked=is_checked, options=options)
        if change is not None:
            due.append((slot, change))
    missing = [
        server
        for server in want.servers
        if server.needs_slot and server.address not in assigned and overrides.get(server.address) is None
    ]
    idle = (slot for slot in others if slot.is_slot and slot.is_idle and slot.name not in touched)
    free = [] if want.scaling == "dynamic" and have.scaling.can_add else list(islice(idle, len(missing)))
    changes += [
        Add(
            want.name,
            slot.name,
            server.address,
            server.weight,
            REASON_OF[server.status],
            is_checked,
            tuple((table, slot.id) for table in have.scaling.tables if slot.id),
        )
        for slot, server in zip(free, missing, strict=False)
    ]
    missing = missing[len(free) :]
    if have.scaling.can_add and want.scaling != "slots":
        changes += _creations(want, have, missing, is_checked=is_checked)
        missing = []
    used = [slot for slot in others if not slot.is_free]  # most slots are free
    leaving = [slot for slot in used if slot.admin is not AdminState.MAINT or slot.is_led_by_agent]
    due += _removals(want, leaving, assigned) if leaving else ()
    deferred = [
        Deferred(change, Reason.OVERRIDDEN) for slot, change in due if slot.is_overridden and slot.name not in touched
    ]
    changes += [change for slot, change in due if not slot.is_overridden and slot.name not in touched]
    changes += [
        Delete(want.name, slot.name, slot.address, have.scaling.can_wait)
        for slot in used
        if _is_at_rest(slot, have) and slot.load is not None and slot.load.is_zero and slot.name not in touched
    ]
    changes += [
        EndSessions(want.name, slot.name, slot.address, slot.load.sessions)
        for slot in used
        if _is_overdue(slot, want)
        and slot.load is not None
        and slot.load.sessions
        and slot.address not in by_address
        and slot.name not in touched
    ]
    taken = {change.server for change in changes}
    changes += [
        SetAgent(want.name, slot.name, slot.address, runs=False)
        for slot in others
        if slot.is_led_by_agent and slot.is_free and slot.name not in taken
    ]
    short = tuple(server.address for server in missing)
    shortages = (Shortage(want.name, short, want.serving),) if short else ()
    return Diff(tuple(changes), shortages, tuple(deferred))


def _removals(
    want: DesiredBackend, leaving: Iterable[Server], assigned: Collection[Address]
) -> Iterator[tuple[Server, Change]]:
    """Yield the removal of each server in `leaving`, with Consul's reason for its address."""
    left_out = {one.address for one in want.quarantined}
    for slot in leaving:
        if slot.address in assigned:
            reason = Reason.DUPLICATE
        elif slot.address in want.other_tags:
            reason = Reason.OTHER_TAGS
        elif slot.address is not None and slot.address in left_out:
            reason = Reason.LEFT_OUT
        else:
            reason = Reason.GONE
        yield slot, Remove(want.name, slot.name, slot.address, reason)


def needs_sessions(wanted: Desired, observed: Observed) -> tuple[str, ...]:
    """Return the backends whose loads must be read because sessions on a server that left may have to end."""
    return tuple(
        name
        for name, want in sorted(wanted.backends.items())
        if want.drain_seconds > 0 and name in observed.backends
        if any(
            slot.load is None and slot.address not in want.by_address and _is_overdue(slot, want)
            for slot in observed.backends[name].slots
        )
    )


def _is_overdue(slot: Server, want: DesiredBackend) -> bool:
    """Return whether the drain time of `slot`, without an instance, is over; False while the reading is in doubt."""
    is_out = slot.admin is AdminState.MAINT and not slot.is_overridden and slot.address != PLACEHOLDER
    is_sure = want.doubt is None and not want.is_backwards
    return is_out and is_sure and 0 < want.drain_seconds <= slot.since_seconds


def _creations(
    want: DesiredBackend, have: Backend, missing: Iterable[DesiredServer], *, is_checked: bool
) -> Iterator[Create]:
    """Yield the additions of dynamic servers for `missing`; their names and ids are new in the backend."""
    taken = {dynamic_id(slot.name) for slot in have.slots if slot.is_dynamic}
    options = " ".join((want.server_options, *have.scaling.implied))
    for server in missing:
        name = dynamic_name(server, taken)
        taken.add(dynamic_id(name))
        reason = REASON_OF[server.status]
        yield Create(want.name, name, server.address, server.weight, options, reason, is_checked)


REST_SECONDS = 3
"""A dynamic server stays in maint for so long before its deletion. Up to 3.5-dev3 a stream that has chosen the server
and is not counted yet may outlive it (HAProxy's commit ca686e320)."""


def _is_at_rest(slot: Server, have: Backend) -> bool:
    """Return whether `slot` may be deleted once its load is 0; its agent check has to be off first."""
    is_out = slot.is_dynamic and slot.admin is AdminState.MAINT and not slot.is_overridden
    return is_out and not slot.is_led_by_agent and have.scaling.can_add and slot.since_seconds >= REST_SECONDS


def override_changes(have: Backend, overrides: Mapping[Address, AdminState | None]) -> Iterable[Change]:
    """Yield the changes that operators asked for: maint, drain, or the end of an override (None)."""
    for slot in have.slots if overrides else ():
        if slot.address is None or slot.address not in overrides:
            continue
        admin = overrides[slot.address]
        if admin is None:
            if slot.is_overridden:
                yield ClearOverride(have.name, slot.name, slot.address)
        elif not slot.is_overridden or slot.admin is not admin:
            yield SetOverride(have.name, slot.name, slot.address, admin, max(1, slot.weight))


def assigned_slots(
    wanted: Mapping[Address, DesiredServer], slots: Sequence[Server]
) -> tuple[Mapping[Address, Server], Sequence[Server]]:
    """Return the slot of each wanted address, and the other slots.

    If several slots have one address, a serving slot goes first, then a slot with a passed first check.
    """
    assigned: dict[Address, Server] = {}
    for slot in slots:
        if slot.address is not None and slot.address in wanted:
            other = assigned.get(slot.address)
            if other is None or _serving_first(slot) < _serving_first(other):
                assigned[slot.address] = slot
    kept = {slot.name for slot in assigned.values()}
    return assigned, [slot for slot in slots if slot.name not in kept]


def _serving_first(slot: Server) -> tuple[bool, int, bool, tuple[int, str]]:
    is_unproven = slot.first_check is not FirstCheck.PASSED
    return not slot.serves, _ADMIN_ORDER.index(slot.admin), is_unproven, server_order(slot.name)


def _lacks_agent(slot: Server) -> bool:
    """Return whether the agent check of a serving server is off, as a hapsync killed during the entry leaves it."""
    return slot.has_agent and not slot.is_led_by_agent


_ADMIN_ORDER = (AdminState.READY, AdminState.DRAIN, AdminState.MAINT)


def _bring(
    backend: str, slot: Server, want: DesiredServer, *, is_checked: bool = False, options: str = ""
) -> Change | None:
    if slot.is_led_by_agent and want.admin is AdminState.READY and (slot.admin is AdminState.READY or slot.weight):
        return None  # the agent sets weight, drain and maint
    if want.admin is slot.admin is AdminState.READY:  # most servers, and most without a change
        if slot.weight == want.weight:
            return SetAgent(backend, slot.name, want.address, runs=True) if _lacks_agent(slot) else None
        return Reweigh(backend, slot.name, want.address, want.weight, slot.weight, Reason.WEIGHT)
    reason = REASON_OF[want.status]
    match want.admin, slot.admin:
        case AdminState.DRAIN, AdminState.DRAIN if slot.is_led_by_agent:
            return Drain(backend, slot.name, want.address, reason)
        case AdminState.MAINT, AdminState.MAINT if slot.is_led_by_agent:
            return Disable(backend, slot.name, want.address, reason)
        case AdminState.READY, _:
            return Enable(backend, slot.name, want.address, want.weight, reason, is_checked, options)
        case AdminState.DRAIN, AdminState.READY | AdminState.MAINT:
            return Drain(backend, slot.name, want.address, reason)
        case AdminState.MAINT, AdminState.READY | AdminState.DRAIN:
            return Disable(backend, slot.name, want.address, reason)
        case _:
            return None

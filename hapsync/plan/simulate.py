"""A reading in, a simulated one out: after some changes, on a new worker, or with more slots."""

import math
from collections.abc import Iterable, Sequence

import attrs

from hapsync.model.changes import (
    Add,
    Change,
    ClearOverride,
    Create,
    Delete,
    Disable,
    Drain,
    Enable,
    EndSessions,
    Remove,
    Reweigh,
    SetAgent,
    SetOverride,
)
from hapsync.model.server import NO_LOAD, PLACEHOLDER, AdminState, Backend, Observed, Server, server_order
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.diff import assigned_slots, override_changes


def after(observed: Observed, changes: Iterable[Change]) -> Observed:
    """Return the reading that HAProxy would give after `changes` alone."""
    by_backend: dict[str, dict[str, Change]] = {}
    for change in changes:
        by_backend.setdefault(change.backend, {})[change.server] = change

    def changed(backend: Backend) -> Backend:
        due = by_backend.get(backend.name)
        if not due:
            return backend
        slots = [
            _changed(slot, due[slot.name]) if slot.name in due else slot
            for slot in backend.slots
            if not isinstance(due.get(slot.name), Delete)
        ]
        created = [_created(change) for change in due.values() if isinstance(change, Create)]
        if created:
            slots = sorted((*slots, *created), key=lambda slot: server_order(slot.name))
        return attrs.evolve(backend, slots=tuple(slots))

    return Observed({name: changed(backend) for name, backend in observed.backends.items()})


def _created(change: Create) -> Server:
    return Server(
        change.server, change.address, AdminState.READY, change.weight, is_up=not change.is_checked, load=NO_LOAD
    )


def _changed(slot: Server, change: Change) -> Server:
    match change:
        case Add(address=address, weight=weight) | Enable(address=address, weight=weight):
            return Server(slot.name, address, AdminState.READY, weight, is_up=not change.is_checked, load=slot.load)
        case Reweigh(weight=weight):
            return attrs.evolve(slot, weight=weight)
        case Drain():
            return attrs.evolve(slot, admin=AdminState.DRAIN, weight=0, is_up=True)
        case Disable() | Remove():
            return attrs.evolve(slot, admin=AdminState.MAINT, weight=0, is_up=False)
        case SetOverride(admin=admin, weight=weight):
            return attrs.evolve(slot, admin=admin, weight=weight, is_up=admin is not AdminState.MAINT)
        case ClearOverride():
            return attrs.evolve(slot, weight=0)
        case EndSessions():
            return slot.with_load(attrs.evolve(slot.load, sessions=0) if slot.load is not None else None)
        case SetAgent():
            return slot
        case Create() | Delete():  # a server before its addition, or after its deletion
            return slot


FREE_SLOT = Server("srv0", PLACEHOLDER, AdminState.MAINT, 1, is_up=False, load=NO_LOAD)


def as_new_worker(observed: Observed) -> Observed:
    """Return `observed` as a new worker would start with it: the same servers, no session on any of them.

    Agent checks have not answered there yet, so their effects are left out. A server taken out by an agent check is
    ready, because a server that starts in maint stays there until its agent says `ready`.
    """
    return Observed(
        {
            name: attrs.evolve(backend, slots=tuple(map(_started, backend.slots)))
            for name, backend in observed.backends.items()
        }
    )


def _started(slot: Server) -> Server:
    if not slot.agent:
        return slot.with_load(NO_LOAD)
    is_out_by_agent = (
        slot.is_led_by_agent and slot.admin is not AdminState.READY and slot.weight > 0 and not slot.is_free
    )
    admin = AdminState.READY if is_out_by_agent else slot.admin
    return attrs.evolve(slot, load=NO_LOAD, admin=admin, agent=0)


def grow(observed: Observed, desired: Desired, short: Iterable[str]) -> Observed:
    """Return `observed` with enough free slots added to end the shortages.

    The backends in `short` get at least twice their slots and one and a half times their need; every backend gets at
    least its configured number of slots. With the factor of two, a service that grows tenfold costs four reloads.
    """
    doubled = set(short)

    def grown(name: str, want: DesiredBackend) -> Backend:
        have = observed.backends.get(name, Backend(name))
        dynamic = tuple(server for server in have.slots if server.is_dynamic)
        slots = tuple(slot for slot in have.slots if not slot.is_dynamic)
        count = max(want.slots, len(slots))
        if name in doubled:
            assigned, others = assigned_slots(want.by_address, have.slots)
            on_slots = {address for address, holder in assigned.items() if not holder.is_dynamic}
            wanted = {
                server.address for server in want.servers if server.needs_slot and server.address not in assigned
            }
            need = len(wanted | on_slots)
            # An idle slot with the address of an overridden server is not free.
            overridden = {one.server for one in override_changes(have, desired.overrides.get(name, {}))}
            occupied = sum(slot.is_slot and (not slot.is_idle or slot.name in overridden) for slot in others)
            count = max(want.slots, 2 * len(slots), math.ceil(1.5 * need), need + occupied)
        return attrs.evolve(have, slots=(*_filled_up(slots, count), *dynamic), exists=True)

    return Observed(
        {
            **observed.backends,
            **{name: grown(name, want) for name, want in desired.backends.items()},
        }
    )


def _filled_up(slots: Sequence[Server], count: int) -> tuple[Server, ...]:
    taken = {slot.name for slot in slots}
    number = 0
    new: list[Server] = []
    while len(slots) + len(new) < count:
        number += 1
        if f"srv{number}" not in taken:
            new.append(attrs.evolve(FREE_SLOT, name=f"srv{number}"))
    return tuple(sorted((*slots, *new), key=lambda slot: server_order(slot.name)))

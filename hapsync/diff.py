"""Desired and Observed in, `Diff` out; and the two functions that look ahead, `after` and `grow`."""

import enum
import math
from collections.abc import Iterable, Mapping, Sequence

import attrs

from hapsync.desired import Desired, DesiredBackend, DesiredServer
from hapsync.model import (
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    CheckStatus,
    Observed,
    Server,
    slot_number,
)


class Reason(enum.Enum):
    """Why a server should change: what Consul says of the instance, or what is wrong with the slot."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "in maintenance"
    WEIGHT = "weight"
    GONE = "gone from Consul"
    DUPLICATE = "its address is in another slot"
    SERVICE_GONE = "the whole service is gone from Consul"
    CAPACITY_FIRST = "its replacement has no slot yet"


_REASON = {
    CheckStatus.PASSING: Reason.PASSING,
    CheckStatus.WARNING: Reason.WARNING,
    CheckStatus.CRITICAL: Reason.CRITICAL,
    CheckStatus.MAINTENANCE: Reason.MAINTENANCE,
}


@attrs.frozen
class Add:
    """Give a free slot this address and weight, then make it ready."""

    backend: str
    server: str
    address: Address
    weight: int
    reason: Reason


@attrs.frozen
class Enable:
    """Make a slot that has the right address ready, with this weight."""

    backend: str
    server: str
    address: Address
    weight: int
    reason: Reason


@attrs.frozen
class Reweigh:
    """Give a ready server this weight."""

    backend: str
    server: str
    address: Address
    weight: int
    was: int
    reason: Reason


@attrs.frozen
class Drain:
    """No new traffic, checks go on; it keeps its slot."""

    backend: str
    server: str
    address: Address
    reason: Reason


@attrs.frozen
class Disable:
    """Into maint: critical, but still in Consul, so it keeps its slot."""

    backend: str
    server: str
    address: Address
    reason: Reason


@attrs.frozen
class Remove:
    """Into maint; the slot is free again once HAProxy shows nothing on it."""

    backend: str
    server: str
    address: Address | None
    reason: Reason


Change = Add | Enable | Reweigh | Drain | Disable | Remove


@attrs.frozen
class Shortage:
    """Addresses of a backend that should serve and found no free slot, of `wanted` that should serve in all.

    `is_missing`: HAProxy does not have the backend yet; there may then be no address at all.
    """

    backend: str
    addresses: tuple[Address, ...]
    wanted: int
    is_missing: bool = False


@attrs.frozen
class Held:
    """A change that is due by the catalog but is not made, and why."""

    change: Change
    reason: Reason


@attrs.frozen
class Diff:
    """What HAProxy lacks to be what is desired."""

    changes: tuple[Change, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    held: tuple[Held, ...] = ()


def diff(desired: Desired, observed: Observed) -> Diff:
    """Return what differs, backend by backend; backends that are not in both are not looked at."""
    changes: list[Change] = []
    shortages: list[Shortage] = []
    held: list[Held] = []
    for name, want in desired.backends.items():
        have = observed.backends.get(name)
        if have is None:
            continue
        found = _diff_backend(want, have)
        changes.extend(found.changes)
        shortages.extend(found.shortages)
        held.extend(found.held)
    return Diff(tuple(changes), tuple(shortages), tuple(held))


def needs_loads(found: Diff, observed: Observed) -> tuple[str, ...]:
    """Return the backends where an addition waits only to know which slots are idle."""
    return tuple(
        shortage.backend
        for shortage in found.shortages
        if any(
            slot.admin is AdminState.MAINT and slot.load is None for slot in observed.backends[shortage.backend].slots
        )
    )


def _diff_backend(want: DesiredBackend, have: Backend) -> Diff:
    if not have.exists:
        missing_all = tuple(server.address for server in want.servers if server.needs_slot)
        return Diff(shortages=(Shortage(want.name, missing_all, len(missing_all), is_missing=True),))
    by_address = want.by_address
    holders, others = _holders(by_address, have.slots)
    changes: list[Change] = []
    for address, slot in holders.items():
        change = _bring(want.name, slot, by_address[address])
        if change is not None:
            changes.append(change)
    missing = [server for server in want.servers if server.needs_slot and server.address not in holders]
    free = [slot for slot in others if slot.is_idle]
    changes += [
        Add(want.name, slot.name, server.address, server.weight, _REASON[server.status])
        for slot, server in zip(free, missing, strict=False)
    ]
    removals = [
        Remove(
            want.name,
            slot.name,
            slot.address,
            Reason.DUPLICATE if slot.address in holders else Reason.GONE,
        )
        for slot in others
        if slot.admin is not AdminState.MAINT
    ]
    short = tuple(server.address for server in missing[len(free) :])
    shortages = (Shortage(want.name, short, want.serving),) if short else ()
    if not want.servers and removals:
        # No instance at all is what a broken question looks like too; it is never reason enough to stop serving.
        return Diff(tuple(changes), shortages, tuple(Held(one, Reason.SERVICE_GONE) for one in removals))
    return Diff((*changes, *removals), shortages)


def _holders(
    wanted: Mapping[Address, DesiredServer], slots: Sequence[Server]
) -> tuple[Mapping[Address, Server], Sequence[Server]]:
    """Return the slot that holds each wanted address, and the slots that hold none.

    If several hold the same, the one that serves counts, then the first.
    """
    serving_first = sorted(slots, key=lambda slot: (_SERVING_FIRST.index(slot.admin), slot_number(slot.name)))
    holders: dict[Address, Server] = {}
    for slot in serving_first:
        if slot.address is not None and slot.address in wanted:
            holders.setdefault(slot.address, slot)
    kept = {slot.name for slot in holders.values()}
    return holders, [slot for slot in slots if slot.name not in kept]


_SERVING_FIRST = (AdminState.READY, AdminState.DRAIN, AdminState.MAINT)


def _bring(backend: str, slot: Server, want: DesiredServer) -> Change | None:
    reason = _REASON[want.status]
    match want.admin, slot.admin:
        case AdminState.READY, AdminState.READY:
            if slot.weight == want.weight:
                return None
            return Reweigh(backend, slot.name, want.address, want.weight, slot.weight, Reason.WEIGHT)
        case AdminState.READY, _:
            return Enable(backend, slot.name, want.address, want.weight, reason)
        case AdminState.DRAIN, AdminState.READY | AdminState.MAINT:
            return Drain(backend, slot.name, want.address, reason)
        case AdminState.MAINT, AdminState.READY | AdminState.DRAIN:
            return Disable(backend, slot.name, want.address, reason)
        case _:
            return None


def after(observed: Observed, changes: Iterable[Change]) -> Observed:
    """Return the reading HAProxy would give once `changes` were made and nothing else happened."""
    by_backend: dict[str, dict[str, Change]] = {}
    for change in changes:
        by_backend.setdefault(change.backend, {})[change.server] = change

    def changed(backend: Backend) -> Backend:
        due = by_backend.get(backend.name)
        if not due:
            return backend
        slots = tuple(_changed(slot, due[slot.name]) if slot.name in due else slot for slot in backend.slots)
        return attrs.evolve(backend, slots=slots)

    return Observed({name: changed(backend) for name, backend in observed.backends.items()})


def _changed(slot: Server, change: Change) -> Server:
    match change:
        case Add(address=address, weight=weight) | Enable(address=address, weight=weight):
            return Server(slot.name, address, AdminState.READY, weight, is_up=True, load=slot.load)
        case Reweigh(weight=weight):
            return attrs.evolve(slot, weight=weight)
        case Drain():
            return attrs.evolve(slot, admin=AdminState.DRAIN, is_up=True)
        case Disable() | Remove():
            return attrs.evolve(slot, admin=AdminState.MAINT, is_up=False)


FREE_SLOT = Server("srv0", PLACEHOLDER, AdminState.MAINT, 1, is_up=False, load=NO_LOAD)


def as_new_worker(observed: Observed) -> Observed:
    """Return `observed` as a new worker would start with it: the same servers, no session on any of them."""
    return Observed(
        {
            name: attrs.evolve(backend, slots=tuple(slot.with_load(NO_LOAD) for slot in backend.slots))
            for name, backend in observed.backends.items()
        }
    )


def grow(observed: Observed, desired: Desired, short: Iterable[str]) -> Observed:
    """Return `observed` with free slots added, so that nothing is short.

    The backends in `short` get at least twice their slots and one and a half times what they need; every backend
    gets the slots its configuration asks for. Twice, so that a service which grows tenfold costs four reloads.
    """
    doubled = set(short)

    def grown(name: str, want: DesiredBackend) -> Backend:
        have = observed.backends.get(name, Backend(name))
        count = max(want.slots, len(have.slots))
        if name in doubled:
            holders, others = _holders(want.by_address, have.slots)
            need = len({server.address for server in want.servers if server.needs_slot} | set(holders))
            occupied = sum(not slot.is_idle for slot in others)
            count = max(want.slots, 2 * len(have.slots), math.ceil(1.5 * need), need + occupied)
        return attrs.evolve(have, slots=_filled_up(have.slots, count), exists=True)

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
    return tuple(sorted((*slots, *new), key=lambda slot: slot_number(slot.name)))

"""Diff in, the same Diff out with every removal deferred that might cost requests; reasons are values.

Additions and repairs always go on. A removal needs evidence (a reading without doubt, and no vanished or refilling
service) and enough remaining capacity. *Capacity* is the number of servers that HAProxy can send to: ready, a weight
above 0, up by its own checks, and with a check passed since it entered.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import attrs

from hapsync.model.catalog import Doubt
from hapsync.model.changes import (
    REASON_OF,
    Add,
    Change,
    Deferred,
    Disable,
    Drain,
    Entry,
    Reason,
    Remove,
    SetOverride,
    Shortage,
    takes_out,
)
from hapsync.model.server import Address, AdminState, Backend, FirstCheck, Observed, Server
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.diff import Diff


@attrs.frozen(kw_only=True)
class Caution:
    """The guard's knowledge of one backend besides desired and observed.

    `peak` is the most capacity within the window. `is_refilling`: the service vanished, or Consul's state went back,
    and its instances are not all back. `has_refilled`: Consul's state went back, and all instances are back; without
    this flag a reading marked `is_backwards` is not trusted. `damped`: addresses that come and go too often. `taken`:
    addresses that another service has now. `is_released`: an operator allows all deferred changes once. `let_go`:
    names of foreign servers that the next reload may take out.
    """

    max_loss_fraction: float = 0.5
    min_ready: int = 1
    peak: int = 0
    is_refilling: bool = False
    has_refilled: bool = False
    damped: frozenset[Address] = frozenset()
    taken: frozenset[Address] = frozenset()
    is_released: bool = False
    let_go: frozenset[str] = frozenset()

    def floor(self, capacity: int) -> int:
        """Return the least capacity that must stay; `capacity` is the present one."""
        # Without the rounding, 10 * (1 - 0.9) would be a little more than 1.
        least = math.ceil(round(max(self.peak, capacity) * (1 - self.max_loss_fraction), 9))
        return max(self.min_ready, least)


Cautions = Mapping[str, Caution]


def capacity(backend: Backend) -> int:
    """Return the number of instances that HAProxy can send to; an address in two slots counts once."""
    return len(first_checked(backend))


def first_checked(backend: Backend) -> Collection[Address | None]:
    """Return the addresses of hapsync's servers in `backend` that HAProxy can send to."""
    # Written out for speed, because each pass asks it of every server.
    return {
        slot.address
        for slot in backend.slots
        if slot.is_up and slot.weight > 0 and slot.admin is AdminState.READY and slot.first_check is FirstCheck.PASSED
    }


def needs_first_checks(found: Diff, observed: Observed, cautions: Cautions = MappingProxyType({})) -> tuple[str, ...]:
    """Return the backends whose first checks must be read to decide.

    First checks matter where a removal is due, and where a damped instance may wait if the capacity is enough.
    """
    asking = {change.backend for change in found.changes if takes_out(change)}
    asking |= {name for name, caution in cautions.items() if caution.damped}
    return tuple(name for name in unread_first_checks(observed) if name in asking)


def unread_first_checks(observed: Observed) -> tuple[str, ...]:
    """Return the backends with a serving server whose first check was not read."""
    return tuple(
        name
        for name, backend in sorted(observed.backends.items())
        if any(slot.first_check is FirstCheck.UNREAD and slot.serves for slot in backend.slots)
    )


def guard(found: Diff, observed: Observed, desired: Desired, cautions: Cautions) -> Diff:
    """Return `found` with unsafe changes deferred; a backend without a caution gets the defaults."""
    by_backend: dict[str, list[Change]] = {}
    for change in found.changes:
        by_backend.setdefault(change.backend, []).append(change)
    go: list[Change] = []
    deferred: list[Deferred] = list(found.deferred)
    shortages = found.shortages
    for name, changes in by_backend.items():
        allowed, kept = _guard_backend(
            changes, observed.backends[name], desired.backends.get(name), cautions.get(name, Caution())
        )
        go += allowed
        deferred += kept
    if found.shortages:
        shortages = tuple(
            _needed(one, observed.backends[one.backend], desired, cautions.get(one.backend, Caution()))
            for one in found.shortages
        )
        shortages, entries = _placed(
            shortages, desired, [one.change for one in deferred if isinstance(one.change, Add)]
        )
        go += entries
    return Diff(tuple(go), shortages, tuple(deferred))


def _placed(
    shortages: Iterable[Shortage], desired: Desired, deferred: Sequence[Add]
) -> tuple[tuple[Shortage, ...], list[Add]]:
    """Give free slots of deferred entries to addresses without a slot; return the shortages left, and the entries."""
    left: list[Shortage] = []
    entries: list[Add] = []
    for shortage in shortages:
        free = [change for change in deferred if change.backend == shortage.backend]
        want = desired.backends.get(shortage.backend)
        count = 0
        if want is not None and free:
            by_address = want.by_address
            for slot, address in zip(free, shortage.addresses, strict=False):
                server = by_address[address]
                reason = REASON_OF[server.status]
                entries.append(attrs.evolve(slot, address=address, weight=server.weight, reason=reason))
                count += 1
        addresses = shortage.addresses[count:]
        if addresses or shortage.is_missing:
            left.append(attrs.evolve(shortage, addresses=addresses))
    return tuple(left), entries


def _needed(shortage: Shortage, have: Backend, desired: Desired, caution: Caution) -> Shortage:
    """Return `shortage` without the addresses whose entry would be deferred anyway."""
    if shortage.is_missing or caution.is_released:
        return shortage
    if _fallback_is_needless(desired.backends.get(shortage.backend), have):
        return attrs.evolve(shortage, addresses=())
    if not caution.damped or _is_low(have, caution):
        return shortage
    addresses = tuple(address for address in shortage.addresses if address not in caution.damped)
    return attrs.evolve(shortage, addresses=addresses)


def _is_low(backend: Backend, caution: Caution) -> bool:
    now = capacity(backend)
    return now < caution.floor(now)


def _guard_backend(
    changes: Sequence[Change], have: Backend, want: DesiredBackend | None, caution: Caution
) -> tuple[list[Change], list[Deferred]]:
    if caution.is_released:
        return list(changes), []
    go: list[Change] = []
    deferred: list[Deferred] = []
    leaving: list[Change] = []
    is_low = bool(caution.damped) and _is_low(have, caution)
    others_serve = _fallback_is_needless(want, have)
    for change in changes:
        if takes_out(change):
            leaving.append(change)
        elif isinstance(change, Entry) and change.address in caution.damped and not is_low:
            deferred.append(Deferred(change, Reason.FLAPPING))
        elif isinstance(change, Entry) and others_serve:
            deferred.append(Deferred(change, Reason.FALLBACK))
        else:
            go.append(change)
    doubt = distrust(want, caution)
    if doubt is not None:
        # The address of a duplicate stays served by another slot, so its removal needs no evidence.
        go += [change for change in leaving if change.reason is Reason.DUPLICATE]
        kept = [change for change in leaving if change.reason is not Reason.DUPLICATE]
        # Another service has the address now, and would answer the requests: its registration is the evidence.
        leaving = [change for change in kept if isinstance(change, Remove) and change.address in caution.taken]
        deferred += [Deferred(change, doubt) for change in kept if change not in leaving]
    if not leaving:
        return go, deferred
    overrides = {change.server for change in changes if isinstance(change, SetOverride)}
    allowed, too_many = _keep_capacity(leaving, have, overrides, caution)
    waiting = _waiting(allowed, go, have) if want is not None and want.start == "checked" else ()
    go += [change for change in allowed if change not in waiting]
    return go, [*deferred, *too_many, *(Deferred(change, Reason.CHECKED_FIRST) for change in waiting)]


CHECK_SECONDS = 10
"""The longest wait of a leaving server for a newcomer's first checks: twice the time of `rise 2 inter 2s`."""


def _waiting(leaving: Sequence[Change], coming: Iterable[Change], have: Backend) -> Sequence[Change]:
    """Return the removals that wait for newcomers' first checks, one for each such newcomer.

    Newcomers are the entries `coming` in this pass, and servers that became ready less than `CHECK_SECONDS` ago and
    are not up yet. A critical server leaves without a wait.
    """
    count = sum(isinstance(change, Entry) and change.weight > 0 for change in coming)
    count += sum(slot.can_serve and not slot.is_up and slot.since_seconds < CHECK_SECONDS for slot in have.slots)
    serving = {slot.name for slot in have.slots if slot.serves}
    return [
        change
        for change in leaving
        if isinstance(change, Remove | Drain) and change.server in serving and change.reason is not Reason.DUPLICATE
    ][:count]


def _fallback_is_needless(want: DesiredBackend | None, have: Backend) -> bool:
    """Return whether `want` is only the fallback list, and other servers of HAProxy serve."""
    if want is None or want.doubt is not Doubt.FALLBACK:
        return False
    return any(slot.serves and slot.address not in want.by_address for slot in have.slots)


def distrust(want: DesiredBackend | None, caution: Caution) -> Reason | None:
    """Return why a backend's reading is no evidence for a removal; None where it is, or where none was read."""
    if want is None:
        return None
    if want.doubt is not None:
        return Reason(want.doubt.value)
    if want.is_gone:
        return Reason.SERVICE_GONE
    is_unproven = want.is_backwards and not caution.has_refilled
    return Reason.REFILLING if caution.is_refilling or is_unproven else None


def _keep_capacity(
    leaving: Iterable[Change], have: Backend, overrides: Collection[str], caution: Caution
) -> tuple[Sequence[Change], Sequence[Deferred]]:
    """Split `leaving` so that enough capacity stays; a server without traffic costs no capacity and goes.

    Newcomers do not count as capacity, nor do servers in `overrides`, which an operator takes out in the same pass. A
    server before its first check counts as no capacity, but stays while the rest is below the floor.
    """
    slots = {slot.name: slot for slot in have.slots if slot.name not in overrides}
    can_serve = first_checked(attrs.evolve(have, slots=tuple(slots.values())))
    floor = caution.floor(capacity(have))
    left = len(can_serve)
    assigned: dict[Address | None, int] = {}
    for slot in slots.values():
        if slot.serves:
            assigned[slot.address] = assigned.get(slot.address, 0) + 1
    go: list[Change] = []
    deferred: list[Deferred] = []
    for change in sorted(leaving, key=lambda change: _surest_first(change, slots[change.server], caution)):
        slot = slots[change.server]
        if not slot.serves or assigned[slot.address] > 1:
            go.append(change)
            if slot.serves:
                assigned[slot.address] -= 1
            continue
        cost = 1 if slot.address in can_serve else 0
        if left - cost >= floor:
            left -= cost
            go.append(change)
        else:
            deferred.append(
                Deferred(change, Reason.MIN_READY if left - cost < caution.min_ready else Reason.MAX_LOSS)
            )
    return go, deferred


def _surest_first(change: Change, slot: Server, caution: Caution) -> tuple[int, bool, int, str]:
    """Order removals by their certainty, the surest first, for the last ones may have to wait."""
    rank = (
        -1
        if slot.address in caution.taken
        else 0
        if isinstance(change, Remove)
        else 1
        if isinstance(change, Disable)
        else 2
        if isinstance(change, Drain)
        else 3
    )
    return rank, slot.first_check is FirstCheck.PASSED, len(change.server), change.server

"""The target: the servers that a HAProxy started now should have.

A target has a type of its own, so that a target and a reading cannot be confused. A HAProxy started with the rendered
target gives a reading with the same backends, except for drain, which a file cannot express: such a server is written
`disabled` and set to drain on the new worker.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from hapsync.model.changes import Add, Change, ClearOverride, Create, Deferred, Entry, Reweigh, takes_out
from hapsync.model.server import PLACEHOLDER, Address, AdminState, Backend, Observed
from hapsync.plan.desired import Desired
from hapsync.plan.diff import assigned_slots, diff
from hapsync.plan.simulate import after, as_new_worker, grow


@attrs.frozen
class TargetState:
    """The `backends` of a new worker, by name, made of a reading by `target_now` or `target_grown`."""

    backends: Mapping[str, Backend]

    def as_observed(self) -> Observed:
        """Return the reading that a HAProxy with these backends gives."""
        return Observed(self.backends)


def target_now(
    desired: Desired, observed: Observed, deferred: Collection[Deferred] = (), *, lets_in: bool = True
) -> TargetState:
    """Return the target: `observed` as a new worker, with all due changes made but `deferred`.

    A new worker has no load, so a removal frees its slot at once. A new worker counts every server as up, and may
    have stick tables of the old one (`peers`). With `lets_in=False`, three kinds of servers are omitted: servers
    before their first check, servers that are down, and servers in a slot whose stick table entries must be cleared.
    A pass lets them in, and the servers that they replace stay until then.
    """
    return _target(desired, observed, deferred, _led(observed), lets_in=lets_in)


def _led(observed: Observed) -> Collection[tuple[str, str]]:
    """Return the servers whose weight is set by their agent checks."""
    return {
        (name, slot.name) for name, one in observed.backends.items() for slot in one.slots if slot.is_led_by_agent
    }


def _target(
    desired: Desired,
    observed: Observed,
    deferred: Collection[Deferred],
    led: Collection[tuple[str, str]],
    *,
    lets_in: bool,
) -> TargetState:
    started = as_new_worker(observed if lets_in else _without_down(desired, observed))
    stays = Staying.of(deferred)
    released: set[tuple[str, str]] = set()
    for _ in ("the free slots", "those that the removals freed"):
        due = [change for change in diff(desired, started).changes if not stays.forbids(change)]
        # The removal of a server that an operator released has not passed the guard yet.
        due = [one for one in due if not (takes_out(one) and (one.backend, one.server) in released)]
        # Neither has the fall to weight 0 of a server with a running agent check.
        due = [one for one in due if not _is_of_agent(one, led)]
        released = {(one.backend, one.server) for one in due if isinstance(one, ClearOverride)}
        started = after(started, due if lets_in else _without_live(due, started))
    return _tidy(started, desired)


def _is_of_agent(change: Change, led: Collection[tuple[str, str]]) -> bool:
    return isinstance(change, Reweigh) and change.weight == 0 and (change.backend, change.server) in led


def _without_down(desired: Desired, observed: Observed) -> Observed:
    """Return `observed` with servers in maint that are down and need a first check, where others serve.

    Two servers of one address stay as they are: with one in maint, the other would leave as a duplicate.
    """

    def without(backend: Backend) -> Backend:
        want = desired.backends.get(backend.name)
        if want is None or want.start != "checked" or not any(slot.serves for slot in backend.slots):
            return backend
        counts = Counter(slot.address for slot in backend.slots)
        slots = (
            attrs.evolve(slot, admin=AdminState.MAINT, weight=0)
            if slot.can_serve and not slot.is_up and counts[slot.address] == 1
            else slot
            for slot in backend.slots
        )
        return attrs.evolve(backend, slots=tuple(slots))

    return Observed({name: without(backend) for name, backend in observed.backends.items()})


def _without_live(due: Sequence[Change], started: Observed) -> Sequence[Change]:
    """Return `due` without entries that only a pass can make, and without the waiting removals."""
    forgetting = {
        name
        for name, backend in started.backends.items()
        # While no server serves, newcomers are let in at once.
        if backend.scaling.tables and any(slot.serves for slot in backend.slots)
    }
    live = [
        change
        for change in due
        if isinstance(change, Entry)
        and (change.is_checked or (isinstance(change, Add) and change.backend in forgetting))
    ]
    waiting = {change.backend for change in live}
    return [change for change in due if change not in live and not (takes_out(change) and change.backend in waiting)]


def target_grown(
    desired: Desired,
    observed: Observed,
    short: Iterable[str],
    deferred: Collection[Deferred] = (),
    *,
    lets_in: bool = True,
) -> TargetState:
    """Return the target with slots for all desired servers; `short` names the backends that need more slots."""
    grown = as_new_worker(grow(observed, desired, short))
    return _target(desired, grown, deferred, _led(observed), lets_in=lets_in)


@attrs.frozen
class Staying:
    """The changes that deferrals forbid in any target: those of the same server, and entries of the same address."""

    servers: frozenset[tuple[str, str]]
    addresses: frozenset[tuple[str, Address]]

    @classmethod
    def of(cls, deferred: Collection[Deferred]) -> "Staying":
        """Return the changes that `deferred` forbids."""
        entries = [one.change for one in deferred if isinstance(one.change, Entry)]
        others = [one.change for one in deferred if not isinstance(one.change, Add | Create)]
        return cls(
            frozenset((change.backend, change.server) for change in others),
            frozenset((change.backend, change.address) for change in entries),
        )

    def forbids(self, change: Change) -> bool:
        """Return whether `change` is deferred, in any slot."""
        is_entry = isinstance(change, Entry) and (change.backend, change.address) in self.addresses
        return is_entry or (change.backend, change.server) in self.servers


def _tidy(started: Observed, desired: Desired) -> TargetState:
    """Return `started` with slots without an instance at the placeholder, so equal targets give equal texts.

    Dynamic servers without an instance are left out. Overridden servers stay as they are.
    """

    def tidy(backend: Backend) -> Backend:
        want = desired.backends.get(backend.name)
        if want is None:
            return backend
        # The next diff chooses the same slots, so a deferred change of an address concerns this slot.
        assigned, _ = assigned_slots(want.by_address, backend.slots)
        holding = {slot.name for slot in assigned.values()}
        slots = []
        for slot in backend.slots:
            is_free = slot.admin is AdminState.MAINT and not slot.is_overridden
            if not is_free or slot.name in holding:
                slots.append(slot)
            elif not slot.is_dynamic:
                is_tidy = slot.is_free and slot.weight == 1
                slots.append(slot if is_tidy else attrs.evolve(slot, address=PLACEHOLDER, weight=1))
        return attrs.evolve(backend, slots=tuple(slots))

    return TargetState({name: tidy(backend) for name, backend in started.backends.items()})

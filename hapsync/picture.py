"""The picture: the slots as a HAProxy started now should have them, and whether a file or a HAProxy shows it.

A *picture* is an `Observed`. Rendering one and starting HAProxy with the text gives a reading equal to it, except
that a file cannot say drain: such a server is written `disabled`, to be set to drain on the new worker.
"""

from collections.abc import Iterable, Mapping

import attrs

from hapsync.cfgfile import enabled_servers, parse_file
from hapsync.desired import Desired
from hapsync.diff import after, as_new_worker, diff, grow
from hapsync.model import PLACEHOLDER, Address, AdminState, Backend, Observed, Server


def picture_now(desired: Desired, observed: Observed) -> Observed:
    """Return what a HAProxy started now should be: `observed` as a new worker, with all due changes made.

    On a new worker nothing runs, so what is removed makes room at once for what still lacks a slot.
    """
    picture = as_new_worker(observed)
    for _ in ("the free slots", "those that the removals freed"):
        picture = after(picture, diff(desired, picture).changes)
    return _tidy(picture, desired)


def picture_grown(desired: Desired, observed: Observed, short: Iterable[str]) -> Observed:
    """Return the picture with slots for everything; `short` names the backends that need more of them."""
    return picture_now(desired, as_new_worker(grow(observed, desired, short)))


def _tidy(observed: Observed, desired: Desired) -> Observed:
    """Point the slots that no instance has at the placeholder, so that equal pictures are equal texts."""

    def tidy(backend: Backend) -> Backend:
        want = desired.backends.get(backend.name)
        if want is None:
            return backend
        taken = want.by_address
        slots = []
        seen: set[Address | None] = set()
        for slot in sorted(backend.slots, key=lambda slot: slot.admin is AdminState.MAINT):
            kept = slot.admin is not AdminState.MAINT or (slot.address in taken and slot.address not in seen)
            seen.add(slot.address)
            slots.append(slot if kept else attrs.evolve(slot, address=PLACEHOLDER, weight=1))
        order = {slot.name: place for place, slot in enumerate(backend.slots)}
        return attrs.evolve(backend, slots=tuple(sorted(slots, key=lambda slot: order[slot.name])))

    return Observed({name: tidy(backend) for name, backend in observed.backends.items()})


def emptied(observed: Observed, text: str) -> tuple[str, ...]:
    """Return the backends that serve in the live HAProxy and would have no enabled server if started with `text`."""
    enabled = enabled_servers(text)
    return tuple(
        name
        for name, backend in sorted(observed.backends.items())
        if any(server.can_serve for server in (*backend.slots, *backend.foreign)) and not enabled.get(name)
    )


def says_the_same(text: str, picture: Observed) -> bool:
    """Return whether the haproxy.cfg `text` holds exactly the slots of `picture`."""
    found = parse_file(text)
    return all(
        _on_paper(slot.server for slot in found.get(backend.name, ())) == _on_paper(backend.slots)
        for backend in picture.backends.values()
        if backend.exists
    )


def _on_paper(slots: Iterable[Server]) -> Mapping[str, tuple[object, ...]]:
    """Return what a file can say of `slots`: address, weight, and disabled or not."""
    return {slot.name: (slot.address, slot.weight, slot.admin is AdminState.READY) for slot in slots}


def shows(observed: Observed, picture: Observed) -> tuple[str, ...]:
    """Return what keeps `observed` from being `picture`, one line a server; nothing if it is."""
    differences = []
    for backend in picture.backends.values():
        have = {slot.name: slot for slot in observed.backends.get(backend.name, Backend(backend.name)).slots}
        for slot in backend.slots:
            shown = have.pop(slot.name, None)
            if shown is None:
                differences.append(f"{backend.name}/{slot.name} is missing")
            elif (shown.address, shown.admin, shown.weight) != (slot.address, slot.admin, slot.weight):
                differences.append(
                    f"{backend.name}/{slot.name} is {shown.address} {shown.admin.value} weight {shown.weight}, "
                    f"meant was {slot.address} {slot.admin.value} weight {slot.weight}"
                )
        differences += [f"{backend.name}/{name} was not meant to be there" for name in have]
    return tuple(differences)

"""A reading and the kernel's count of connections in, the reading with what HAProxy before 3.0 does not count out."""

from collections.abc import Mapping

import attrs

from hapsync.model.server import Address, AdminState, Load, Observed, Server


def at_rest(observed: Observed) -> frozenset[Address]:
    """Return the addresses of servers in maint on which HAProxy counts nothing."""
    return frozenset(
        slot.address
        for backend in observed.backends.values()
        for slot in backend.slots
        if slot.admin is AdminState.MAINT
        and slot.address is not None
        and not slot.is_free
        and slot.load is not None
        and slot.load.is_zero
    )


def with_kept(observed: Observed, kept: Mapping[Address, int] | None) -> Observed:
    """Return `observed` with the connections that HAProxy does not count, but `kept` does, on servers at rest.

    With None nothing is known of them: then neither is the load of those servers.
    """

    def loaded(slot: Server) -> Server:
        is_at_rest = slot.admin is AdminState.MAINT and slot.load is not None and slot.load.is_zero
        if not is_at_rest or slot.is_free or slot.address is None:
            return slot
        if kept is None:
            return slot.with_load(None)
        count = kept.get(slot.address, 0)
        return slot.with_load(Load(0, 0, count, 0)) if count else slot

    return observed.with_backends(
        {
            name: attrs.evolve(backend, slots=tuple(map(loaded, backend.slots)))
            for name, backend in observed.backends.items()
        }
    )

"""The connections that HAProxy before 3.0 does not count: a slot is free only if the kernel's list has none."""

import logging
from collections.abc import Mapping

import attrs

from hapsync.errors import HapsyncError
from hapsync.haproxy.capabilities import COUNTS_ALL, version_of
from hapsync.model.server import Address, AdminState, HAProxyProcess, Load, Observed, Server
from hapsync.plan.desired import Desired
from hapsync.system.sockdiag import count_kept

log = logging.getLogger(__name__)

_ELSEWHERE = frozenset({"namespace", "socks4"})
"""Words of a server line whose connections go to another address, or are in another namespace's list."""


def counts_all(process: HAProxyProcess) -> bool:
    """Return whether this HAProxy counts every connection to a server."""
    return version_of(process.version) >= COUNTS_ALL


def with_all_loads(observed: Observed, process: HAProxyProcess, socket_path: str, wanted: Desired) -> Observed:
    """Return `observed`, whose loads were read, with the connections that HAProxy does not count.

    Where the kernel does not tell, the load of a server at rest is unknown, so its slot is not free until the next
    reload.
    """
    if counts_all(process):
        return observed
    seen = {name: one for name, one in observed.backends.items() if not _leads_elsewhere(name, wanted)}
    addresses = at_rest(observed.with_backends(seen))
    try:
        kept = count_kept(process.pid, socket_path, addresses) if addresses else {}
    except HapsyncError as error:
        log.debug("connections that HAProxy does not count are not known: %s", error)
        return with_kept(observed, None)
    told = with_kept(observed.with_backends(seen), kept)
    rest = with_kept(observed, None)
    return attrs.evolve(observed, backends={**rest.backends, **told.backends})


def _leads_elsewhere(name: str, wanted: Desired) -> bool:
    want = wanted.backends.get(name)
    return want is not None and not _ELSEWHERE.isdisjoint(want.server_options.split())


def at_rest(observed: Observed) -> frozenset[Address]:
    """Return the addresses of servers in maint for which HAProxy counts no load."""
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

    With `kept` None these connections are unknown, and so is the load of the servers at rest.
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

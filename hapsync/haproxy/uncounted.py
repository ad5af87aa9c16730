"""The connections that HAProxy before 3.0 does not count: a slot is free only if the kernel's list has none."""

import logging
from collections.abc import Mapping

import attrs

from hapsync.errors import HapsyncError
from hapsync.haproxy.capabilities import COUNTS_ALL, version_of
from hapsync.model.server import Address, AdminState, Backend, HAProxyProcess, Load, Observed, Server
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
    seen = [backend for name, backend in observed.backends.items() if not _leads_elsewhere(name, wanted)]
    addresses = {slot.address for backend in seen for slot in backend.slots if slot.address and _is_at_rest(slot)}
    kept: Mapping[Address, int] | None = {}
    try:
        if addresses:
            kept = count_kept(process.pid, socket_path, addresses)
    except HapsyncError as error:
        log.debug("connections that HAProxy does not count are not known: %s", error)
        kept = None
    names = {backend.name for backend in seen}
    return observed.mapped(lambda backend: with_kept(backend, kept if backend.name in names else None))


def _leads_elsewhere(name: str, wanted: Desired) -> bool:
    want = wanted.backends.get(name)
    return want is not None and not _ELSEWHERE.isdisjoint(want.server_options.split())


def _is_at_rest(slot: Server) -> bool:
    """Return whether `slot` is in maint after an instance, and HAProxy counts no load on it."""
    is_out = slot.admin is AdminState.MAINT and not slot.is_free
    return is_out and slot.address is not None and slot.load is not None and slot.load.is_zero


def with_kept(backend: Backend, kept: Mapping[Address, int] | None) -> Backend:
    """Return `backend` with the connections that HAProxy does not count, but `kept` does, on servers at rest.

    With `kept` None these connections are unknown, and so is the load of the servers at rest.
    """

    def loaded(slot: Server) -> Server:
        if slot.address is None or not _is_at_rest(slot):
            return slot
        if kept is None:
            return slot.with_load(None)
        count = kept.get(slot.address, 0)
        return slot.with_load(Load(0, 0, count, 0)) if count else slot

    return attrs.evolve(backend, slots=tuple(map(loaded, backend.slots)))

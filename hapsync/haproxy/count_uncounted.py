"""The connections that an HAProxy before 3.0 does not count: asked of the kernel before a slot counts as free."""

import logging

import attrs

from hapsync.errors import HapsyncError
from hapsync.haproxy.capabilities import COUNTS_ALL, version_of
from hapsync.haproxy.uncounted import at_rest, with_kept
from hapsync.model.server import HAProxyProcess, Observed
from hapsync.plan.desired import Desired
from hapsync.system.inet_diag import count_kept

log = logging.getLogger(__name__)

_ELSEWHERE = frozenset({"namespace", "socks4"})
"""Words of a server line with which its connections lead elsewhere, or stand in another namespace's list."""


def counts_all(process: HAProxyProcess) -> bool:
    """Return whether this HAProxy counts every connection to a server."""
    return version_of(process.version) >= COUNTS_ALL


def with_all_loads(observed: Observed, process: HAProxyProcess, socket_path: str, wanted: Desired) -> Observed:
    """Return `observed`, whose loads were read, with the connections that HAProxy does not count.

    Where that cannot be told, the load of a server at rest is unknown, so its slot is not free until the next reload.
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

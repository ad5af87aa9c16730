"""Questions to old workers, and the end of their sessions on gone servers, through HAProxy's master alone.

Each question has a connection of its own, and only one is open at a time, for the master takes ten. The live worker
is not asked.
"""

import time
from collections.abc import Callable, Mapping

import attrs

from hapsync.errors import HapsyncError, RuntimeAPIError
from hapsync.haproxy.master import ask_worker, read_processes
from hapsync.haproxy.old_workers import (
    CUTS,
    OldWorker,
    OldWorkers,
    OnServer,
    gone_among,
    old_among,
    parse_connections,
    parse_session_count,
    parse_sessions,
)
from hapsync.model.server import Backend
from hapsync.plan.desired import Desired
from hapsync.system.sockdiag import count_connections

TIMEOUT_SECONDS = 2.0
"""The timeout of each answer: 2.8 to 3.2 may never answer for a worker that ended a moment ago."""


def read_old_workers(
    master: str, live_pid: int, wanted: Desired, live: Mapping[str, Backend], may_go_on: Callable[[], bool]
) -> OldWorkers:
    """Return the old workers of the master behind the socket `master`, and their connections to gone servers.

    `live` has the backends of the live worker. Once `may_go_on` returns False, the remaining questions are left out.
    No error is raised: `error` of the whole, or of a worker, names the missing facts.
    """
    seen_at = time.time()
    try:
        listed = read_processes(master, TIMEOUT_SECONDS).listed
    except RuntimeAPIError as error:
        return OldWorkers(seen_at, error=str(error))
    if all(one.pid != live_pid for one in listed):
        return OldWorkers(seen_at, error=f"HAProxy's master does not list the live worker {live_pid}; it may reload")
    workers = [
        _looked_at(master, worker, wanted, live)
        if may_go_on()
        else attrs.evolve(worker, error="not asked: a reload is being made")
        for worker in old_among(listed, live_pid)
    ]
    return OldWorkers(seen_at, tuple(workers))


def _looked_at(master: str, worker: OldWorker, wanted: Desired, live: Mapping[str, Backend]) -> OldWorker:
    try:
        sessions = parse_session_count(ask_worker(master, worker.pid, "show info", TIMEOUT_SECONDS))
        servers = parse_connections(ask_worker(master, worker.pid, "show servers conn", TIMEOUT_SECONDS))
        worker = attrs.evolve(worker, sessions=sessions, gone=gone_among(servers, wanted, live))
        counts = count_connections(worker.pid, {one.address for one in worker.gone}) if worker.gone else {}
    except HapsyncError as error:
        return attrs.evolve(worker, error=str(error))
    return attrs.evolve(worker, gone=tuple(attrs.evolve(one, connections=counts[one.address]) for one in worker.gone))


def end_sessions(
    master: str, worker: OldWorker, gone: OnServer, may_go_on: Callable[[], bool], at_most: int = CUTS
) -> int:
    """End sessions of `worker` on the server `gone`, `at_most` of them; return how many.

    `may_go_on` is asked before each session. An old worker still takes `shutdown session`, and refuses commands about
    a server (2.6, 2.8: "Proxy is disabled.").

    Raises RuntimeAPIError when the worker does not answer, or refuses.
    """
    listing = ask_worker(master, worker.pid, "show sess", TIMEOUT_SECONDS)
    there = [
        one for one, backend, server in parse_sessions(listing) if (backend, server) == (gone.backend, gone.server)
    ]
    ended = 0
    for session in there[:at_most]:
        if not may_go_on():
            break
        reply = ask_worker(master, worker.pid, f"shutdown session {session}", TIMEOUT_SECONDS).strip()
        if reply and "No such session" not in reply:
            raise RuntimeAPIError(f"HAProxy's worker {worker.pid}: `shutdown session` answered {reply[:80]!r}")
        ended += not reply
    return ended

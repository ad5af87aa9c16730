"""Looking at HAProxy from outside, barely: when a change shows, which worker answers, which slots are free."""

import time
from collections.abc import Container, Mapping
from contextlib import suppress

from tests.demo.truth import Placed, address, differences
from tests.harness.haproxy import HAProxy, ServerState
from tests.harness.looks import Looks

POLL_SECONDS = 0.001

BETWEEN_WORKERS = (OSError, LookupError, ValueError)
"""A reload may refuse a question, or cut its answer short."""


def wait_shown(
    haproxy: HAProxy, backend: str, wanted: Mapping[str, Placed], timeout_seconds: float = 15.0
) -> dict[str, ServerState]:
    """Ask HAProxy for its servers again and again until they are as wanted; that answer.

    Raises `TimeoutError`, naming what still differs.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            servers = haproxy.servers(backend)
            found = differences(wanted, servers)
        except BETWEEN_WORKERS as error:
            servers, found = {}, [str(error)]
        if not found:
            return servers
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_seconds:g} s HAProxy still differs: {'; '.join(found)}")
        time.sleep(POLL_SECONDS)


def free_slots(haproxy: HAProxy, backend: str, taken: Container[str]) -> int:
    """How many servers are in maintenance, have nobody on them and none of the `taken` addresses."""
    stat = haproxy.stat(backend)
    busy = ("scur", "qcur", "used_conn_cur", "idle_conn_cur")
    return sum(
        server.in_maintenance
        and address(server) not in taken
        and not any(int(stat[name][column] or 0) for column in busy)
        for name, server in haproxy.servers(backend).items()
    )


class WorkerWatch(Looks):
    """Notes every worker that answers on HAProxy's runtime socket, in the order they first did."""

    every_seconds = 0.05

    def __init__(self, haproxy: HAProxy) -> None:
        super().__init__()
        self.pids: list[int] = []
        self._haproxy = haproxy

    @property
    def replacements(self) -> int:
        return max(0, len(self.pids) - 1)

    def note(self) -> None:
        with suppress(*BETWEEN_WORKERS):
            pid = self._haproxy.worker_pid()
            if pid is not None and pid not in self.pids:
                self.pids.append(pid)

"""What is seen of a HAProxy from beside it: when a change has come about in it, and how many workers it has."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from attrs import define

from tests.demo.truth import address
from tests.harness.haproxy import HAProxy
from tests.harness.processes import wait_until

LOOK_SECONDS = 0.01
"""How far apart two looks are, which is how exact a change's time is."""
COUNT_SECONDS = 0.1
_STOPPED = 0


@define
class Change:
    """One server that is to serve from now on (`is_live`), or to serve no more; times of the monotonic clock."""

    address: str
    is_live: bool
    begun: float
    done: float | None = None
    is_overtaken: bool = False
    """Whether the next change of the same server came before it was done."""

    @property
    def is_due(self) -> bool:
        return self.done is None and not self.is_overtaken


class Watch:
    """Looks at a backend's servers in the HAProxy that answers, and at its workers, from `__enter__` to `__exit__`.

    A worker that is stopping is not looked at: what it still sends to a server that left shows in the requests.
    """

    def __init__(self, haproxy: HAProxy, workers: Callable[[], frozenset[int]], backend: str) -> None:
        self.changes: list[Change] = []
        self.serving: frozenset[str] = frozenset()
        self.peak = 0
        self.seen: frozenset[int] = frozenset()
        self._haproxy = haproxy
        self._workers = workers
        self._backend = backend
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=look, daemon=True) for look in (self._look, self._count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def wait_serving(self, count: int, seconds: float) -> None:
        """Wait until so many servers serve; `TimeoutError` when they do not in so long."""
        wait_until(lambda: len(self.serving) == count, seconds, f"{count} servers to serve")

    def expect(self, where: str, *, is_live: bool, begun: float) -> None:
        """Note that the server at `where` is to change, and when that began."""
        with self._lock:
            for change in self.changes:
                if change.address == where and change.is_due:
                    change.is_overtaken = True
            self.changes.append(Change(where, is_live, begun))

    def settle(self, seconds: float) -> bool:
        """Wait, so long at most, until no change is due; whether that is so."""
        try:
            wait_until(lambda: not any(change.is_due for change in list(self.changes)), seconds, "the changes")
        except TimeoutError:
            return False
        return True

    def _look(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            try:
                servers = self._haproxy.servers(self._backend).values()
            except (OSError, LookupError, ValueError):
                continue  # nobody answers, or half: between two processes
            now = time.monotonic()
            self.serving = frozenset(
                address(server)
                for server in servers
                if not server.in_maintenance and not server.draining and server.operation != _STOPPED
            )
            with self._lock:
                for change in self.changes:
                    if change.is_due and (change.address in self.serving) == change.is_live:
                        change.done = now

    def _count(self) -> None:
        while not self._ending.wait(COUNT_SECONDS):
            workers = self._workers()
            self.peak = max(self.peak, len(workers))
            self.seen |= workers

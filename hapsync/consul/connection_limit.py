"""The services that may keep a connection to Consul's agent, so other programs of the machine get connections, too.

An agent takes 200 connections from one address (`limits.http_max_conns_per_client`), and answers 429 on any further
one; Consul 1.8 closes a further one instead. A blocking query holds its connection until something changes. Where
there are more services than connections, some services keep theirs, and each change wakes them. The other services
are *guests*, read by turns. Where connections are few, a service without instances is a guest.
"""

import logging
import math
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

GUESTS_PER_SECOND = 15.0
"""This rate is below the budget's part for guests and services without instances."""
GUEST_REST_SECONDS = 1.0
"""The least time between two reads of a guest."""
FEWEST = 8
"""The least number of connections that hapsync tries, however few the agent takes."""
KEEP_FRACTION = 0.8
"""The part of the agent's connections that hapsync keeps after a refusal; other programs get the rest."""
TELL_SECONDS = 60.0
RECOVER_SECONDS = 300.0
RECOVER_FRACTION = 0.1
"""After `RECOVER_SECONDS` without a refusal, the limit grows by this part."""

MANY_SERVICES = 150
"""From this number of services on, the agent's limit of connections is near."""


class ConnectionLimit:
    """The connections that the watches of one agent may have; for any number of threads."""

    def __init__(self, limit: int) -> None:
        """Take `[consul] max_connections`."""
        self._configured = limit
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._limit = limit
        self._limited_at = -math.inf
        self._told_at = -math.inf
        self._wanted = 0
        self._kept: dict[str, Callable[[], None]] = {}
        self._open: set[str] = set()
        self._answered: dict[str, float] = {}
        """The time (monotonic seconds) when the connection of a service's last answer was opened."""

    def expect(self, services: int) -> None:
        """Note the number of services before they ask for connections."""
        with self._lock:
            self._wanted = services

    def may_keep(self, service: str, disturb: Callable[[], None], *, is_empty: bool) -> bool:
        """Return whether `service` may hold a connection while it waits for a change.

        `disturb` is called, from any thread, when the service has to give its connection up at once.
        """
        with self._lock:
            self._recover()
            room = self._room
            is_here = service in self._kept
            may_keep = len(self._kept) - is_here < room and not (is_empty and self._is_crowded)
            if may_keep:
                self._kept[service] = disturb
            else:
                self._kept.pop(service, None)
            return may_keep

    def may_open(self, service: str, timeout_seconds: float) -> bool:
        """Return whether `service` may open a connection now; wait up to `timeout_seconds` until it may."""
        with self._lock:
            may_open = (
                service in self._kept
                or service in self._open
                or self._freed.wait_for(lambda: self._guests < self._guest_places, timeout_seconds)
            )
            if may_open:
                self._open.add(service)
            return may_open

    def hung_up(self, service: str) -> None:
        """Note that `service` has no connection any more; its right to keep one stays."""
        with self._lock:
            self._open.discard(service)
            self._answered.pop(service, None)
            self._freed.notify()

    def leave(self, service: str) -> None:
        """Forget `service`, which has hung up."""
        with self._lock:
            self._kept.pop(service, None)

    def answered(self, service: str, opened_at: float) -> None:
        """Note an answer to `service` on a connection opened at `opened_at` (monotonic seconds)."""
        with self._lock:
            self._answered[service] = opened_at

    def failed(self, service: str) -> None:
        """Note that the connection of `service` failed, and proves nothing until its next answer."""
        with self._lock:
            self._answered.pop(service, None)

    def keeps(self, service: str) -> bool:
        """Return whether `service` may keep its connection."""
        with self._lock:
            return service in self._kept

    def rest_seconds(self) -> float:
        """Return how long a guest waits before it is read again."""
        with self._lock:
            return max(GUEST_REST_SECONDS, (self._wanted - len(self._kept)) / GUESTS_PER_SECOND)

    def refused(self, service: str) -> None:
        """Lower the limit, for the agent refused a connection of `service`; services beyond it hang up at once."""
        with self._lock:
            self._open.discard(service)
            self._limited_at = now = time.monotonic()
            self._limit = min(self._limit, max(FEWEST, int(len(self._open) * KEEP_FRACTION)))
            out = list(self._kept.items())[self._room :]
            for name, _ in out:
                del self._kept[name]
            is_news = now > self._told_at + TELL_SECONDS
            self._told_at = now
        if is_news:
            log.warning(
                "consul: the agent takes no more connections (limits.http_max_conns_per_client); now hapsync has "
                "fewer, and reads the services beyond by turns"
            )
        for _, disturb in out:
            disturb()

    def closed(self, service: str, at: float) -> bool:
        """Return whether the agent's limit, not an outage, closed a new connection of `service` at `at`, just now.

        A limit leaves the older connections open; an outage closes all of them.
        """
        with self._lock:
            is_limit = sum(opened_at < at for opened_at in self._answered.values()) >= FEWEST // 2
        if is_limit:
            self.refused(service)
        return is_limit

    def has_many(self) -> bool:
        """Return whether hapsync has so many connections that the agent's limit may have closed a new one."""
        with self._lock:
            return len(self._open) >= FEWEST // 2

    @property
    def _is_crowded(self) -> bool:
        return self._wanted > self._limit

    @property
    def _guests(self) -> int:
        return sum(service not in self._kept for service in self._open)

    @property
    def _guest_places(self) -> int:
        return max(1, self._limit // 10)

    @property
    def _room(self) -> int:
        return self._limit - self._guest_places if self._is_crowded else self._limit

    def _recover(self) -> None:
        if self._limit < self._configured and time.monotonic() - self._limited_at > RECOVER_SECONDS:
            self._limit = min(self._configured, self._limit + max(1, int(self._limit * RECOVER_FRACTION)))
            self._limited_at = time.monotonic()


def connection_advice(services: int, max_connections: int) -> str | None:
    """Return the advice for so many `services` beside `[consul] max_connections`; None while they are few.

    An agent takes 200 connections from one address unless `limits.http_max_conns_per_client` says otherwise (Consul
    1.8 to 1.14). All programs of this machine that ask the agent share one address.
    """
    if services < MANY_SERVICES:
        return None
    beyond = max(0, services - max_connections)
    by_turns = f"; {beyond} of them are read by turns, seconds apart" if beyond else ""
    return (
        f"{services} services, each on a connection to Consul's agent, which takes 200 from this machine unless its "
        f"limits.http_max_conns_per_client says otherwise{by_turns}: set that to {services + 100} or more, and then "
        f"consul.max_connections to {services + 20}"
    )

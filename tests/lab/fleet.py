"""The instances of the service, each on an address of its own: what they do is noted, with its time."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.harness.consul import Agent, Status
from tests.harness.control import HelperError
from tests.harness.origins import Origins
from tests.lab.config import BACKEND
from tests.lab.watching import Watch

PORT = 8080
LINGER_SECONDS = 1.5
"""A server that leaves stops so long after Consul was told."""
CONSUL_NOTICES_SECONDS = 1.0
"""One that dies is critical in Consul so long after."""
SLOWEST_SECONDS = 17.0
"""More than it takes the slowest way whose clock is its own: to poll every 10 s and to reload every 5 s."""

Away = tuple[float, float | None]


class Fleet:
    """The instances by address, as long as they are in Consul. Servers listen before they are registered."""

    def __init__(self, consul: Agent, origins: Origins, addresses: Sequence[str], interval_seconds: float) -> None:
        """Prepare instances on `addresses`, each used once; ways act every `interval_seconds` at the latest."""
        self.members: list[str] = []
        self.interval_seconds = interval_seconds
        self.away: dict[str, list[Away]] = {}
        """When Consul did not have an instance as one that serves, by the name that its server answers with."""
        self._consul, self._origins = consul, origins
        self._free = list(addresses)
        self._watch: Watch | None = None
        self._closing: list[threading.Timer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._closing:
            timer.cancel()
            timer.join()

    def told_to(self, consul: Agent) -> None:
        """From now on `consul` is told what changes."""
        self._consul = consul

    def watched_by(self, watch: Watch) -> None:
        """From now on `watch` is told of every change."""
        self._watch = watch

    def settle(self, seconds: float | None = None) -> bool:
        """Wait until HAProxy has followed, as long as the slowest way takes unless so long; whether it has."""
        slowest = max(SLOWEST_SECONDS, 2 * self.interval_seconds + 8)
        return self._watch is None or self._watch.settle(seconds or slowest)

    def add(self, count: int = 1) -> Sequence[str]:
        """New instances, which are their addresses: all servers listen before the first is registered."""
        hosts = [self._free.pop(0) for _ in range(count)]
        for host in hosts:
            self._origins.open(host, PORT)
        for host in hosts:
            self.members.append(host)
            self._expect(host, is_live=True)
            self._put(host, "passing")
        return hosts

    def leave(self, host: str) -> None:
        """It is deregistered, and stops in good order a moment later."""
        self.members.remove(host)
        self._expect(host, is_live=False)
        self._consul.remove(_node(host), _instance(host))
        self._gone(host)
        timer = threading.Timer(LINGER_SECONDS, self._close, (host,))
        timer.start()
        self._closing.append(timer)

    def die(self, host: str) -> None:
        """Its server is gone at once; Consul calls it critical a moment later."""
        self.members.remove(host)
        self._expect(host, is_live=False)
        self._origins.abort(host, PORT)
        time.sleep(CONSUL_NOTICES_SECONDS)
        self._put(host, "critical")
        self._gone(host)

    def fail(self, host: str) -> None:
        """Consul calls it critical, though its server goes on."""
        self._expect(host, is_live=False)
        self._put(host, "critical")
        self._gone(host)

    def recover(self, host: str) -> None:
        """Consul calls it passing again."""
        begun, _ = self.away[_name(host)].pop()
        self.away[_name(host)].append((begun, time.monotonic()))
        self._expect(host, is_live=True)
        self._put(host, "passing")

    @property
    def names(self) -> frozenset[str]:
        """Its members, by the names that their servers answer with."""
        return frozenset(map(_name, self.members))

    def is_away(self, name: str, when: float) -> bool:
        """Whether Consul did not have the instance of that server as one that serves at that time."""
        return any(begun < when and (end is None or when < end) for begun, end in self.away.get(name, ()))

    def _put(self, host: str, status: Status) -> None:
        self._consul.put(BACKEND, _instance(host), node=_node(host), address=host, port=PORT, status=status)

    def _expect(self, host: str, *, is_live: bool) -> None:
        if self._watch is not None:
            self._watch.expect(_name(host), is_live=is_live)

    def _gone(self, host: str) -> None:
        self.away.setdefault(_name(host), []).append((time.monotonic(), None))

    def _close(self, host: str) -> None:
        with suppress(HelperError):  # all are ending
            self._origins.close(host, PORT)


def _name(host: str) -> str:
    return f"{host}:{PORT}"


def _instance(host: str) -> str:
    return f"{BACKEND}-{host}"


def _node(host: str) -> str:
    return f"node-{int(host.rpartition('.')[2]) % 3}"

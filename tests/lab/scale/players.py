"""Watchers of one balancer, each asking Consul in one strategy's manner, in threads of this process."""

import contextlib
import http.client
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

from hapsync.config.schema import ConsulConfig
from hapsync.consul.watch import Watches
from tests.harness.consul import Agent

CONSUL_TEMPLATE_WAIT_SECONDS = 60.0
CONSUL_TEMPLATE_FLOOR_SECONDS = 0.1
CONSUL_TEMPLATE_DITHER_SECONDS = 0.02
"""consul-template 0.42.1: `block_query_wait`, and `minDelayBetweenUpdates` with its dither (watch/view.go)."""


class Tally:
    """What all balancers together saw: services that woke them, and answers they got."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answers = 0
        self.wakes = 0
        self.woken_at = 0.0
        """When the last one was woken, by the monotonic clock."""
        self.errors: list[str] = []
        """What went wrong, of the first few."""

    def answered(self) -> None:
        with self._lock:
            self.answers += 1

    def woken(self) -> None:
        with self._lock:
            self.wakes += 1
            self.woken_at = time.monotonic()

    def failed(self, error: Exception) -> None:
        with self._lock:
            self.errors += [repr(error)] if len(self.errors) < 10 else []


class Player:
    """One balancer. It is begun in its constructor, and ends with `stop`."""

    def __init__(self, works: Sequence[Callable[[], None]], tally: Tally) -> None:
        """Run each of `works` in a thread until `stop`; an error of one is told and ends it."""
        self._tally = tally
        self._stopped = threading.Event()
        self._sockets: list[socket.socket] = []
        for work in works:
            threading.Thread(target=self._until_stopped, args=(work,), daemon=True).start()

    def stop(self) -> None:
        """End it, in the middle of its blocking queries."""
        self._stopped.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _until_stopped(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # told with the measurement, which then counts for nothing
            if not self._stopped.is_set():
                self._tally.failed(error)

    def _connected(self, agent: Agent) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(agent.host, agent.port, timeout=700)
        connection.connect()
        self._sockets.append(connection.sock)
        return connection

    def _got(self, connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
        """Consul's index and the body."""
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{path}: {response.status} {body[:200].decode(errors='replace')}")
        self._tally.answered()
        return int(response.headers.get("X-Consul-Index", 0)), body


class Hapsync:
    """hapsync's own watches, as its agent runs them."""

    def __init__(self, agent: Agent, services: Sequence[str], number: int, consistency: str, tally: Tally) -> None:
        """`number` makes a token of its own: Consul's agent keeps its cache by token, and so one for each balancer.

        Without ACLs a token gives and takes nothing.
        """
        config = ConsulConfig(address=agent.url, token=f"balancer-{number}", consistency=consistency)  # type: ignore[arg-type]
        self._watches = Watches(config, lambda _service: tally.woken())
        self._watches.follow(services)

    def stop(self) -> None:
        self._watches.stop()


class ConsulTemplate(Player):
    """A view for each service: a blocking, stale health query for what passes (consul-template 0.42.1)."""

    def __init__(self, agent: Agent, services: Sequence[str], tally: Tally, wait_seconds: float) -> None:
        self._agent = agent
        self._wait_seconds = wait_seconds
        super().__init__([lambda service=service: self._view(service) for service in services], tally)  # type: ignore[misc]

    def _view(self, service: str) -> None:
        connection = self._connected(self._agent)
        index, known = 0, b""
        while not self._stopped.is_set():
            wait = f"&index={index}&wait={self._wait_seconds * 1000:.0f}ms" if index else ""
            now, body = self._got(connection, f"/v1/health/service/{quote(service)}?passing=1&stale={wait}")
            if body != known:
                known = body
                self._tally.woken()
            index = now if now >= index else 0
            dither = random.random() * CONSUL_TEMPLATE_DITHER_SECONDS
            self._stopped.wait(CONSUL_TEMPLATE_FLOOR_SECONDS + dither)


class Poll(Player):
    """Reads a list of paths one after the other, on one connection, every `period_seconds`."""

    def __init__(self, agent: Agent, paths: Sequence[str], period_seconds: float, tally: Tally) -> None:
        self._agent = agent
        self._paths = paths
        self._period_seconds = period_seconds
        super().__init__([self._poll], tally)

    def _poll(self) -> None:
        connection = self._connected(self._agent)
        due = time.monotonic() + random.random() * self._period_seconds
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            for path in self._paths:
                self._got(connection, path)
            due = max(due + self._period_seconds, time.monotonic())


class Resolver(Player):
    """HAProxy's resolver: an SRV query for each name every `period_seconds` at the agent's DNS, spread over them."""

    def __init__(
        self, agent: Agent, dns_port: int, services: Sequence[str], period_seconds: float, tally: Tally
    ) -> None:
        self._where = (agent.host, dns_port)
        self._services = services
        self._period_seconds = period_seconds
        super().__init__([self._resolve], tally)

    def _resolve(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.connect(self._where)
            connection.settimeout(5.0)
            due = time.monotonic()
            while not self._stopped.is_set():
                for service in self._services:
                    due = max(due + self._period_seconds / len(self._services), time.monotonic() - 1.0)
                    self._stopped.wait(max(0.0, due - time.monotonic()))
                    connection.send(srv_query(f"_{service}._tcp.service.consul"))
                    answer = connection.recv(65_535)
                    if not srv_answers(answer):
                        raise OSError(f"no SRV record of {service} in the answer")
                    self._tally.answered()


def srv_query(name: str) -> bytes:
    """A DNS query for SRV records, with an EDNS payload size of 8192 bytes (RFC 1035, 2782, 6891)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    header = struct.pack("!2s5H", os.urandom(2), 0x0100, 1, 0, 0, 1)
    return header + labels + struct.pack("!xHH", 33, 1) + struct.pack("!xHHIH", 41, 8192, 0, 0)


def srv_answers(answer: bytes) -> int:
    """How many records an answer without an error has; 0 where it says there are none, or is an error."""
    _, flags, _, answers, _, _ = struct.unpack_from("!6H", answer)
    return 0 if flags & 0x000F else int(answers)

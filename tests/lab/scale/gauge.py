"""Two looks at the cluster's servers, and what they did between them: CPU, memory, queries, bytes, connections."""

import contextlib
import http.client
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen
from pyroute2 import DiagSocket

from tests.harness.consul import Agent
from tests.lab.scale.cluster import FleetCluster

_ESTABLISHED = 1
"""TCP_ESTABLISHED of the kernel's include/net/tcp_states.h."""
_WITH_INFO = 1 << 1
"""INET_DIAG_INFO of include/uapi/linux/inet_diag.h: every socket with its `tcp_info`."""
_QUERIES, _BLOCKED, _GOROUTINES = "consul_rpc_query", "consul_rpc_queries_blocking", "go_goroutines"


@frozen
class Traffic:
    """Bytes that the servers sent to the balancers' machines, got from them, and sent to each other."""

    sent: int
    received: int
    between: int


@frozen
class Look:
    """All servers at one moment; sequences have an element for each server, in order.

    `at_seconds` is of the monotonic clock, `queries` and `cpu_seconds` count from the start of each server.
    `agent_rss_bytes` and `agent_cpu_seconds` are of all client agents together.
    """

    at_seconds: float
    cpu_seconds: Sequence[float]
    rss_bytes: Sequence[int]
    queries: Sequence[float]
    blocked: Sequence[float]
    goroutines: Sequence[float]
    traffic: Traffic
    connections: int
    agent_cpu_seconds: float
    agent_rss_bytes: int


class Gauge:
    """Looks at the servers of one cluster, over its whole life: a connection that ends has had its bytes."""

    def __init__(self, cluster: FleetCluster) -> None:
        self._cluster = cluster
        self._seen: dict[tuple[object, ...], tuple[int, int, bool]] = {}

    def begin(self) -> Look:
        """Look at the begin of a window: what the look itself costs the servers is before it."""
        told, traffic = self._tell(), self._traffic()
        return self._look(told, traffic, self._clocks())

    def end(self) -> Look:
        """Look at the end of a window: what the look itself costs the servers is after it."""
        clocks, traffic = self._clocks(), self._traffic()
        return self._look(self._tell(), traffic, clocks)

    def _clocks(self) -> tuple[float, Sequence[float], float]:
        servers = [cpu_seconds(server.process.pid) for server in self._cluster.servers]
        agents = sum(cpu_seconds(agent.process.pid) for agent in self._cluster.agents)
        return time.monotonic(), servers, agents

    def _tell(self) -> Sequence[Mapping[str, float]]:
        told = []
        for server in self._cluster.servers:
            with connected(server) as connection:
                told.append(telemetry(connection))
        return told

    def _look(
        self,
        told: Sequence[Mapping[str, float]],
        traffic: tuple[Traffic, int],
        clocks: tuple[float, Sequence[float], float],
    ) -> Look:
        at_seconds, servers, agents = clocks
        return Look(
            at_seconds=at_seconds,
            cpu_seconds=servers,
            rss_bytes=[rss_bytes(server.process.pid) for server in self._cluster.servers],
            queries=[one.get(_QUERIES, 0.0) for one in told],
            blocked=[one.get(_BLOCKED, 0.0) for one in told],
            goroutines=[one[_GOROUTINES] for one in told],
            traffic=traffic[0],
            connections=traffic[1],
            agent_cpu_seconds=agents,
            agent_rss_bytes=sum(rss_bytes(agent.process.pid) for agent in self._cluster.agents),
        )

    def _traffic(self) -> tuple[Traffic, int]:
        """All bytes so far, and how many connections of balancers there are now."""
        servers = {server.host for server in self._cluster.servers}
        ours = {self._cluster.rpc_port, self._cluster.http_port}
        open_now, any_seen = 0, False
        with DiagSocket() as diag:
            for one in diag.get_sock_stats(family=socket.AF_INET, states=1 << _ESTABLISHED, extensions=_WITH_INFO):
                any_seen = True
                if one["idiag_src"] not in servers or one["idiag_sport"] not in ours:
                    continue
                is_between = one["idiag_dst"] in servers
                info = one.get_attr("INET_DIAG_INFO")
                ends = (one["idiag_src"], one["idiag_sport"], one["idiag_dst"], one["idiag_dport"])
                self._seen[ends] = (info["tcpi_bytes_acked"], info["tcpi_bytes_received"], is_between)
                open_now += not is_between
        if not any_seen:
            # pyroute2 swallows the kernel's errors and then shows no socket at all.
            raise OSError("the kernel's socket diagnostics show no connection at all; is inet_diag available?")
        seen = self._seen.values()
        return (
            Traffic(
                sent=sum(sent for sent, _, is_between in seen if not is_between),
                received=sum(received for _, received, is_between in seen if not is_between),
                between=sum(sent for sent, _, is_between in seen if is_between),
            ),
            open_now,
        )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, its ended threads included, by the kernel's clock of it (`man clock_gettime`)."""
    return time.clock_gettime(~pid << 3 | 2)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def connected(agent: Agent) -> contextlib.closing[http.client.HTTPConnection]:
    """A new connection to an agent's HTTP API, closed at the end; it is made with the first request."""
    return contextlib.closing(http.client.HTTPConnection(agent.host, agent.port, timeout=30))


def telemetry(connection: http.client.HTTPConnection) -> Mapping[str, float]:
    """Consul's own counters without labels, by name; needs `telemetry.prometheus_retention_time`."""
    connection.request("GET", "/v1/agent/metrics?format=prometheus")
    text = connection.getresponse().read().decode()
    return {name: float(value) for name, value in re.findall(r"^([a-z]\w*) ([-+.\deE]+|NaN)$", text, re.MULTILINE)}

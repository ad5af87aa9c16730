"""Three Consul servers and the client agents of some balancers, all real, each on a loopback address of its own."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness.cluster import Member
from tests.harness.consul import ConsulError
from tests.harness.ports import free_ports
from tests.harness.processes import wait_until
from tests.harness.tools import consul_path, consul_version, unused_consul_ports

SERVERS = 3
STREAMS_FROM = (1, 10)
"""The Consul that streams unless it is told not to (its changelog, 1.10.0)."""
MANY = 10_000
"""For limits that a measurement must not meet: connections of one client, which all come from one address here."""


class FleetCluster:
    """Servers 127.0.0.2 and up, then client agents, all with the same ports."""

    def __init__(self, work: Path, agents: int, *, is_streaming: bool) -> None:
        """Prepare the cluster with its data and logs in `work`, whose agents and servers stream if `is_streaming`."""
        self.http_port, serf, self.rpc_port, self.dns_port = free_ports(4)
        hosts = [f"127.0.0.{number + 2}" for number in range(SERVERS + agents)]
        closed = unused_consul_ports("serf_wan")
        base: dict[str, object] = {
            "ports": {"http": self.http_port, "serf_lan": serf, "server": self.rpc_port, **closed},
            "retry_join": [f"{host}:{serf}" for host in hosts[:SERVERS]],
            "retry_interval": "1s",
            "disable_update_check": True,
            "log_level": "warn",
            "limits": {"http_max_conns_per_client": MANY, "rpc_max_conns_per_client": MANY},
            "telemetry": {"prometheus_retention_time": "10m", "disable_hostname": True},
        }
        server = {**base, "server": True, "bootstrap_expect": SERVERS, "performance": {"raft_multiplier": 1}}
        client = dict(base)
        if consul_version(consul_path()) >= STREAMS_FROM:
            # Older ones refuse to start with settings they do not know.
            server["rpc"] = {"enable_streaming": is_streaming}
            client["use_streaming_backend"] = server["use_streaming_backend"] = is_streaming
        self.servers = [self._member(work, f"server-{host}", host, server, dns=-1) for host in hosts[:SERVERS]]
        self.agents = [
            self._member(work, f"balancer-{host}", host, client, dns=self.dns_port) for host in hosts[SERVERS:]
        ]

    def _member(self, work: Path, name: str, host: str, settings: Mapping[str, Any], *, dns: int) -> Member:
        ports = {**settings["ports"], "dns": dns}
        return Member(work, name.replace(".", "-"), host, self.http_port, {**settings, "ports": ports})

    def __enter__(self) -> Self:
        """Start all and wait for a leader that every agent can reach; raises `TimeoutError`."""
        try:
            _at_once(self.members, start=True)
            wait_until(lambda: all(map(_is_reached_from, self.agents)), 60, "a leader that every agent reaches")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def members(self) -> Sequence[Member]:
        return (*self.servers, *self.agents)

    def kill(self) -> None:
        """End all with SIGKILL; harmless when repeated."""
        _at_once(self.members, start=False)

    def leader(self) -> Member:
        """The server that leads; LookupError when none does."""
        address = self.servers[0].request("GET", "/v1/status/leader").rpartition(":")[0]
        for server in self.servers:
            if server.host == address:
                return server
        raise LookupError("the servers have no leader")

    def version(self) -> str:
        """Consul's version, of its own saying."""
        told: dict[str, Any] = self.servers[0].request("GET", "/v1/agent/self")
        return str(told["Config"]["Version"])


def _is_reached_from(agent: Member) -> bool:
    try:
        return bool(agent.request("GET", "/v1/health/service/consul?consistent"))
    except ConsulError:
        return False


def _at_once(members: Sequence[Member], *, start: bool) -> None:
    with ThreadPoolExecutor(max_workers=len(members)) as threads:
        list(threads.map(Member.start if start else Member.kill, members))

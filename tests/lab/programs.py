"""The programs of the harness, each in the namespace of its own machine."""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness.cluster import Cluster, Member
from tests.harness.consul import Agent
from tests.harness.control import Helper
from tests.harness.haproxy import HAProxy
from tests.harness.origins import Origins
from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT, consul_path, unused_consul_ports
from tests.lab.network import Space

CONSUL_PORT, CONSUL_DNS_PORT = 8500, 8600
_SERF_PORT, _RAFT_PORT = 8301, 8300


class SpacedHelper(Helper):
    """A helper program in a namespace."""

    def __init__(self, space: Space, module: str, work: Path, *arguments: str) -> None:
        name = module.rpartition(".")[2]
        command = space.command(sys.executable, "-m", module, *arguments)
        self.process = Process(command, work / f"{name}.log", folder=ROOT, pipes=True)
        self._lock = threading.Lock()


class SpacedOrigins(Origins):
    """The lab's origins in a namespace, on whichever of its addresses each is opened."""

    def __init__(self, space: Space, work: Path) -> None:
        self._helper = SpacedHelper(space, "tests.lab.origins", work)


class SpacedMember(Member):
    """One agent of a cluster, in a namespace; it speaks to the others at `bind`, and to those who ask at `host`."""

    def __init__(
        self, space: Space, work: Path, name: str, settings: Mapping[str, object], *, bind: str, host: str
    ) -> None:
        self._space, self._bind = space, bind
        super().__init__(work, name, host, CONSUL_PORT, settings)

    def launch(self) -> None:
        self.command = self._space.command(
            *(consul_path(), "agent", f"-node={self.name}", f"-bind={self._bind}", f"-client={self.host}"),
            *("-config-format=json", f"-config-file={self.settings_path}"),
        )
        Agent.launch(self)

    @property
    def version(self) -> str:
        """Its version, of its own saying."""
        told: dict[str, Any] = self.request("GET", "/v1/agent/self")
        return str(told["Config"]["Version"])


class SpacedCluster(Cluster):
    """Servers on a machine of theirs, each on an address of its own, and `client`: the balancer's local agent.

    Nobody but the balancer asks the client, so that what it counts is the balancer's.
    """

    client: SpacedMember

    def __init__(self, servers: Space, agent: Space, work: Path, count: int) -> None:
        """Prepare `count` servers and the client, which keep data and logs in `work`."""
        hosts = servers.addresses[:count]
        base = {
            "ports": {"http": CONSUL_PORT, "dns": CONSUL_DNS_PORT, **unused_consul_ports("serf_wan")},
            "retry_join": [f"{host}:{_SERF_PORT}" for host in hosts],
            "retry_interval": "1s",
            "disable_update_check": True,
            "log_level": "warn",
        }
        # Elections are as fast as Consul allows, which is what it advises for servers that are not small.
        voter = {**base, "server": True, "bootstrap_expect": count, "performance": {"raft_multiplier": 1}}
        counting = {**base, "telemetry": {"prometheus_retention_time": "10m", "disable_hostname": True}}
        self._raft_addresses = {f"{host}:{_RAFT_PORT}": number for number, host in enumerate(hosts, 1)}
        self.servers = {
            number: SpacedMember(servers, work, f"server-{number}", voter, bind=host, host=host)
            for number, host in enumerate(hosts, 1)
        }
        bind, host = agent.addresses
        self.client = SpacedMember(agent, work, "client", counting, bind=bind, host=host)

    def entry(self) -> Member:
        """A server that runs, and does not lead where another runs: where the lab tells Consul what changes."""
        leader = self.leader()
        running = [number for number, server in self.servers.items() if server.is_running]
        return self.servers[next((number for number in running if number != leader), running[0])]

    def wait_for_another_leader(self, entry: Member, before: int, seconds: float) -> None:
        """Wait until the servers have one that is not `before`, as `entry` knows; `TimeoutError`."""

        def confirmed() -> bool:
            entry.request("GET", "/v1/health/service/consul?consistent")
            return self.leader() not in (None, before)

        wait_until(confirmed, seconds, "another leader")


class SpacedHAProxy(HAProxy):
    """An HAProxy in a namespace: master and workers, or without `is_master` one process alone."""

    def __init__(self, space: Space, program: str, config: Path, work: Path, *, is_master: bool) -> None:
        super().__init__(config, work)
        self._space = space
        self._program = program
        self._is_master = is_master

    def start(self, *options: str) -> None:
        """Start it with these `options` besides, and wait until it is the one that answers.

        Raises `ProcessDiedError`, with its log, when it ends instead.
        """
        master = ("-W", "-S", f"{self.master_path},level,admin") if self._is_master else ()
        command = (self._program, *master, "-db", "-f", str(self.config), *options)
        self._process = process = Process(self._space.command(*command), self.log)
        try:
            if self._is_master:
                wait_until(self.worker_pid, 10, "HAProxy's runtime socket", process=process)
                wait_until(self._master, 10, "HAProxy's master socket", process=process)
            else:
                # By its id: one before it, that is to stop, may answer still.
                wait_until(lambda: self.worker_pid() == process.pid, 10, "the new HAProxy", process=process)
        except BaseException:
            self.kill()
            raise

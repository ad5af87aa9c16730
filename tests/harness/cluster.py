"""A real Consul cluster on loopback: servers that vote, and one client agent, each on an address of its own."""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.consul import Agent, ConsulError
from tests.harness.ports import free_ports
from tests.harness.processes import wait_until
from tests.harness.tools import consul_path, unused_consul_ports

LEADER_TIMEOUT_SECONDS = 60.0
"""Members that were paused until the others gave them up need half a minute to be known again (measured)."""


class Member(Agent):
    """One agent of a cluster, with a folder of data that outlives its process."""

    def __init__(self, work: Path, name: str, host: str, port: int, settings: Mapping[str, object]) -> None:
        self.name = name
        self.data = work / f"consul-{name}-{port}"
        self.settings_path = work / f"consul-{name}-{port}.json"
        self.settings_path.write_text(json.dumps({**settings, "data_dir": str(self.data)}), encoding="utf-8")
        super().__init__((), work / f"consul-{name}-{port}.log", host=host, port=port)

    def launch(self) -> None:
        self.command = (
            *(consul_path(), "agent", f"-node={self.name}", f"-bind={self.host}", f"-client={self.host}"),
            *("-config-format=json", f"-config-file={self.settings_path}"),
        )
        super().launch()

    def wipe(self) -> None:
        """End it with SIGKILL and remove its data."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


class Cluster:
    """Servers, numbered from 1, and `client`, an agent that is no server: what a load balancer has beside it.

    `client` has the catalog's methods (`put`, `remove`, `health`, ...). Elections are as fast as Consul allows.
    All ports are the same on every member's address, 127.0.0.2 and up, which the kernel has on loopback.
    """

    client: Member

    def __init__(
        self,
        work: Path,
        servers: int = 3,
        *,
        client_config: Mapping[str, object] | None = None,
        is_joined: bool = False,
        beside: "Cluster | None" = None,
    ) -> None:
        """Prepare a cluster that keeps data and logs in `work`; `client_config` is merged over the client's.

        It is the datacenter "dc1". Where it `is_joined` it may be asked for "dc2" once a cluster runs `beside` it.
        """
        http, serf, server, wan = free_ports(4)
        is_joined = is_joined or beside is not None
        hosts = [f"127.0.{0 if beside is None else 1}.{number + 2}" for number in range(servers + 1)]
        ports = {"http": http, "serf_lan": serf, "server": server, "serf_wan": wan if is_joined else -1}
        unused = unused_consul_ports("dns")
        self.wan_address = f"{hosts[0]}:{wan}"
        base = {
            "datacenter": "dc1" if beside is None else "dc2",
            "ports": {**ports, **unused},
            "retry_join": [f"{host}:{serf}" for host in hosts[:-1]],
            "retry_interval": "1s",
            "disable_update_check": True,
            "log_level": "warn",
        }
        voter = {**base, "server": True, "bootstrap_expect": servers, "performance": {"raft_multiplier": 1}}
        if beside is not None:
            voter |= {"retry_join_wan": [beside.wan_address], "retry_interval_wan": "1s"}
        self._raft_addresses = {f"{host}:{server}": number for number, host in enumerate(hosts[:-1], 1)}
        self.servers = {
            number: Member(work, f"server-{number}", host, http, voter) for number, host in enumerate(hosts[:-1], 1)
        }
        self.client = Member(work, "client", hosts[-1], http, {**base, **(client_config or {})})

    @property
    def members(self) -> tuple[Member, ...]:
        return (*self.servers.values(), self.client)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start all members and wait for a leader (about two seconds)."""
        try:
            _at_once(self.members, Member.start)
            self.wait_for_leader()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End all members with SIGKILL; harmless when repeated."""
        _at_once(self.members, Member.kill)

    def leader(self) -> int | None:
        """The number of the server that leads, as far as the running ones know; None when none does.

        A killed leader is not one; a paused one is, until the others have noticed.
        """
        for server in self.servers.values():
            if server.is_running and not server.is_paused:
                number = self._raft_addresses.get(server.request("GET", "/v1/status/leader"))
                if number is not None and self.servers[number].is_running:
                    return number
        return None

    def wait_for_leader(self, timeout_seconds: float = LEADER_TIMEOUT_SECONDS) -> int:
        """Wait until the client gets an answer that a leader has confirmed; the leader's number.

        Raises `TimeoutError`.
        """

        def confirmed() -> int | None:
            try:
                self.client.request("GET", "/v1/health/service/consul?consistent")
            except ConsulError:
                return None
            return self.leader()

        leader = wait_until(confirmed, timeout_seconds, "the servers to have a leader", process=self.client.process)
        assert leader is not None
        return leader

    def kill_server(self, number: int) -> None:
        """End one server with SIGKILL; its data stays."""
        self.servers[number].kill()

    def start_server(self, number: int) -> None:
        """Start a server with the data it had and wait until it answers, which is before it has joined."""
        self.servers[number].start()

    def kill_all_servers(self) -> None:
        """End all servers with SIGKILL, together; the client lives on."""
        _at_once(tuple(self.servers.values()), Member.kill)

    def wipe_all_servers(self) -> None:
        """Kill all servers, together, and remove their data; `start_all_servers` then starts an empty catalog."""
        _at_once(tuple(self.servers.values()), Member.wipe)

    def start_all_servers(self) -> None:
        """Start the servers that do not run, and wait for a leader."""
        _at_once(tuple(server for server in self.servers.values() if not server.is_running), Member.start)
        self.wait_for_leader()


def _at_once(members: tuple[Member, ...], what: Callable[[Member], None]) -> None:
    with ThreadPoolExecutor(max_workers=max(1, len(members))) as threads:
        list(threads.map(what, members))

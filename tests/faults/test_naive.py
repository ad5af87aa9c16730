"""What each fault costs whoever believes every answer: the measure for what hapsync has to do better."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from tests.faults.naive import Naive
from tests.harness.chaos import HEALTH, Chaos
from tests.harness.cluster import Cluster
from tests.harness.consul import Agent, Consul, Status, acl_consul
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.load import Load
from tests.harness.origins import Origins
from tests.harness.ports import free_port, free_ports
from tests.harness.processes import wait_until

LOOPBACK = "127.0.0.1"
INSTANCES = 4
PLAIN = "near=_agent"
"""For queries that a Consul which streams answers like one that does not. Its view goes on showing what it did, for
longer than a test can wait, after a token has lost its rights and after the servers have lost their data."""


@frozen
class Scene:
    """Origins behind HAProxy behind clients, and in between the naive follower."""

    consul: Agent
    haproxy: HAProxy
    load: Load
    ports: tuple[int, ...]

    def put(self, *ports: int, status: Status = "passing") -> None:
        for port in ports:
            self.consul.put("web", f"web-{port}", node="n", address=LOOPBACK, port=port, status=status)

    def serving(self) -> int:
        return sum(not server.in_maintenance for server in self.haproxy.servers("web").values())

    def wait_for_losses(self) -> None:
        """Wait until more requests are lost than were; `TimeoutError` when none is."""
        before = self.load.snapshot().failed
        wait_until(lambda: self.load.snapshot().failed >= before + 20, 30, "requests to be lost")


@contextmanager
def scene(work: Path, consul: Agent, *, url: str = "", query: str = "") -> Iterator[Scene]:
    """Everything running, and nothing lost yet; the follower reads at `url`, which is Consul's own unless given."""
    with ExitStack() as stack:
        origins = stack.enter_context(Origins(work))
        ports = free_ports(INSTANCES)
        frontend = free_port()
        config = work / "haproxy.cfg"
        slots = [f"server srv{number} 127.0.0.1:1 disabled" for number in range(1, 9)]
        config.write_text(minimal_config(work / "admin.sock", frontend, {"web": slots}))
        haproxy = stack.enter_context(HAProxy(config, work))
        all_of_it = Scene(consul, haproxy, Load(work, frontend, rate=100, seconds=300), ports)
        for port in ports:
            origins.open(LOOPBACK, port)
        all_of_it.put(*ports)
        stack.enter_context(Naive(work, url or consul.url, haproxy.socket_path, "web", query=query))
        wait_until(lambda: all_of_it.serving() == INSTANCES, 20, "the follower to have followed")
        stack.enter_context(all_of_it.load)
        wait_until(lambda: all_of_it.load.snapshot().requests >= 50, 20, "the load to be under way")
        assert all_of_it.load.snapshot().failed == 0
        yield all_of_it


def test_an_empty_answer_loses_requests(work: Path) -> None:
    with (
        Consul(work) as consul,
        Chaos(work, consul.host, consul.port) as chaos,
        scene(work, consul, url=chaos.url) as naive,
    ):
        chaos.rewrite(body="[]", only=HEALTH + "web")
        chaos.reset_all()
        naive.wait_for_losses()


def test_a_token_that_loses_its_rights_loses_requests(work: Path) -> None:
    rights = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
    with acl_consul(work) as consul:
        consul.set_policy("readers", rights)
        token = consul.token("readers")
        with scene(work, consul, query=f"token={token}&{PLAIN}") as naive:
            consul.set_policy("readers", "")
            # Whatever wakes the blocked query: its answer is filtered as the rights are now.
            naive.put(free_port())
            naive.wait_for_losses()


def test_servers_that_come_back_without_their_data_lose_requests(work: Path) -> None:
    # Servers without their data may never reach the index that is waited for. Of two waits the first counts.
    with Cluster(work) as cluster, scene(work, cluster.client, query=f"{PLAIN}&wait=3s") as naive:
        cluster.wipe_all_servers()
        cluster.start_all_servers()
        naive.wait_for_losses()


def test_a_check_that_fails_for_all_instances_at_once_loses_requests(work: Path) -> None:
    with Consul(work) as consul, scene(work, consul) as naive:
        naive.put(*naive.ports, status="critical")
        naive.wait_for_losses()


def test_an_haproxy_that_restarts_loses_requests_until_consul_changes(work: Path) -> None:
    with Consul(work) as consul, scene(work, consul) as naive:
        naive.haproxy.kill()
        naive.haproxy.start()

        assert naive.serving() == 0

        naive.wait_for_losses()
        naive.put(free_port())
        wait_until(lambda: naive.serving() == INSTANCES + 1, 10, "the follower to have noticed")


def test_servers_without_a_leader_lose_nothing_even_here(work: Path) -> None:
    """The faults above lose requests for being believed, not for Consul being away."""
    with Cluster(work) as cluster, scene(work, cluster.client) as naive:
        cluster.kill_all_servers()
        before = naive.load.snapshot().requests
        wait_until(lambda: naive.load.snapshot().requests >= before + 300, 30, "more requests")
        cluster.start_all_servers()

        assert naive.load.snapshot().failed == 0

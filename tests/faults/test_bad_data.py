"""Whoever may register anything under a service's name, and what that costs those who are served by it."""

import time
from collections.abc import Iterable

import attrs
import pytest

from tests.demo.fleet import HOST
from tests.demo.stage import Stage
from tests.faults.scene import LowestCapacity, Scene, say_figure, scene
from tests.harness.ports import free_port
from tests.harness.processes import wait_until
from tests.harness.procfs import resident_mb

BATCH = 64
"""The most operations that Consul takes in one transaction."""


def register_many(stage: Stage, instances: Iterable[tuple[str, str, int]], *, node: str) -> None:
    """Register instances of "web", (id, host, port) each, all on one node; they have no checks, so they pass."""
    stage.consul.request("PUT", "/v1/catalog/register", {"Node": node, "Address": HOST})
    operations = [
        {
            "Service": {
                "Verb": "set",
                "Node": node,
                "Service": {
                    "Service": "web",
                    "ID": name,
                    "Address": host,
                    "Port": port,
                    "Weights": {"Passing": 10, "Warning": 3},
                },
            }
        }
        for name, host, port in instances
    ]
    for start in range(0, len(operations), BATCH):
        stage.consul.request("PUT", "/v1/txn", operations[start : start + BATCH])


def reasons_of(here: Scene) -> list[str]:
    """Why the quarantined ones are left out."""
    return [one["reason"] for one in here.stage.status()["backends"]["web"]["quarantined"]]


def test_instances_that_aim_elsewhere_are_left_out_and_cost_nothing() -> None:
    with scene(backend_options='networks = ["127.0.0.0/16"]') as here:
        before = here.serving()
        aims = (
            "10.9.9.9",
            "127.9.9.9",
            "169.254.169.254",
            "::1",
            "::ffff:8.8.8.8",
            "db.local",
        )
        register_many(here.stage, [(f"aim-{host}", host, 80) for host in aims], node="a-stranger")
        wait_until(lambda: len(reasons_of(here)) == len(aims), 20, "all of them to be quarantined")
        time.sleep(1)

        assert here.serving() == before
        assert sum("outside networks" in reason for reason in reasons_of(here)) == 4
        here.stage.consul.remove_node("a-stranger")
        here.ends()


MANY = 20
FIRST_CHECKS_SECONDS = 3
"""HAProxy sends to a newcomer until its own first checks have failed: three, half a second apart."""


@pytest.mark.quick
def test_strangers_above_max_servers_take_nothing_from_those_that_serve() -> None:
    with scene(slots=10, backend_options="max_servers = 8\nguard_window_seconds = 3") as here:
        good = here.serving()
        register_many(here.stage, dead(MANY), node="z-stranger")
        wait_until(lambda: len(reasons_of(here)) == MANY + 4 - 8, 20, "the rest to be quarantined")
        time.sleep(FIRST_CHECKS_SECONDS)
        wait_until(lambda: here.serving() == good, 20, "HAProxy to find the dead ones out")
        forced = here.lost()
        assert set(forced.by_reason) <= {"status 503"}
        time.sleep(5)
        say_figure(
            f"{MANY} dead strangers, max_servers 8: all of 4 good ones serve on; {forced.failed} of "
            f"{forced.requests} requests lost, all before HAProxy's first checks of the newcomers had failed"
        )
        assert here.serving() == good
        assert here.stage.status()["deferred"] == []
        here.stage.consul.remove_node("z-stranger")
        here.ends(forced=forced)


@pytest.mark.parametrize("node", ["a-stranger", "z-stranger"])
def test_strangers_push_nobody_out_wherever_they_sort_also_when_the_agent_starts_anew(node: str) -> None:
    with scene(slots=10, backend_options="max_servers = 8\nguard_window_seconds = 3") as here:
        good = here.serving()
        here.stage.kill_agent()
        register_many(here.stage, dead(MANY), node=node)
        here.stage.start_agent()
        wait_until(lambda: len(reasons_of(here)) == MANY + 4 - 8, 20, "the rest to be quarantined")
        time.sleep(FIRST_CHECKS_SECONDS)
        wait_until(lambda: here.serving() == good, 20, "HAProxy to find the dead ones out")
        forced = here.lost()
        assert set(forced.by_reason) <= {"status 503"}
        time.sleep(7)

        assert here.serving() == good
        assert here.stage.status()["deferred"] == []
        assert here.stage.hapsync("plan").returncode == 0
        here.stage.consul.remove_node(node)
        here.ends(forced=forced)


def dead(count: int) -> list[tuple[str, str, int]]:
    """Instances where nobody listens."""
    return [(f"dead-{number}", "127.0.7.7", 2000 + number) for number in range(count)]


def test_a_duplicate_that_is_critical_does_not_take_the_good_one_out() -> None:
    with scene() as here:
        before = here.serving()
        for number, member in enumerate(here.fleet.members.values()):
            here.stage.consul.put(
                "web", f"a-{number}", node="a-node", address=HOST, port=member.port, weights=(1, 1), status="critical"
            )
        wait_until(lambda: len(reasons_of(here)) == 4, 20, "the duplicates to be quarantined")
        time.sleep(1)

        assert here.serving() == before
        assert all("is that of" in reason for reason in reasons_of(here))
        assert {one.weight for one in here.stage.haproxy.servers("web").values() if not one.in_maintenance} == {10}
        here.ends()


def test_an_instance_registered_anew_with_another_port_moves_without_a_loss() -> None:
    with scene() as here:
        old = here.fleet.members["web-2"]
        new = attrs.evolve(old, port=here.fleet.start_server().port)
        with LowestCapacity(here.stage.haproxy) as seen:
            here.fleet.put(new)
            wait_until(lambda: old.port not in here.serving() and new.port in here.serving(), 20, "the move")
        here.stage.origins.close(HOST, old.port)

        assert seen.lowest >= 4
        here.ends()


def test_weights_of_0_and_65535_take_a_bounded_share_and_lose_nothing() -> None:
    with scene(slots=8, instances=4) as here:
        first, second, *_ = members = list(here.fleet.members.values())
        here.fleet.put(attrs.evolve(first, weights=(65535, 1)))
        # Consul makes a weight of 0 for passing 1; for warning it stays.
        nothing = {one.name: attrs.evolve(one, weights=(10, 0), status="warning") for one in members}
        here.fleet.put(nothing[second.name])
        here.wait_in_step()
        weights = {one.port: one.weight for one in here.stage.haproxy.servers("web").values() if one.running}
        assert [weights[one.port] for one in members] == [100, 0, 10, 10]

        for member in members:  # nobody wants any: as many as the guard keeps go on
            here.fleet.put(nothing[member.name])
        here.stage.wait_deferred("more than max_loss_fraction would be lost within the window", count=2)
        time.sleep(2)
        assert len(here.serving()) == 2
        for member in members:
            here.fleet.put(member)
        here.ends()


@pytest.mark.timeout(240)
def test_a_service_of_5000_instances_is_served_up_to_max_servers() -> None:
    with scene(instances=4, server_options="check inter 4s", check_timeout_seconds=60) as here:
        good = here.serving()
        port = free_port()
        here.stage.origins.open("0.0.0.0", port)  # all of 127.0.0.0/8 answers
        before = resident_mb(here.stage.agent.pid)
        begin = time.monotonic()
        register_many(
            here.stage,
            [(f"many-{number}", f"127.1.{number // 250}.{number % 250 + 1}", port) for number in range(5000)],
            node="z-many",
        )
        registered = time.monotonic()
        wait_until(
            lambda: (
                len([one for one in here.stage.haproxy.servers("web").values() if not one.in_maintenance]) >= 1000
            ),
            60,
            "a thousand servers",
            interval_seconds=0.2,
        )
        wait_until(lambda: len(reasons_of(here)) == 4004, 30, "the rest to be quarantined", interval_seconds=0.2)
        grown = time.monotonic()
        slots = len(here.stage.haproxy.servers("web"))
        say_figure(
            f"5,000 instances registered in {registered - begin:.1f} s: 1,000 servers in {slots} slots "
            f"{grown - registered:.1f} s later, {here.stage.reloads()} reloads; the agent holds "
            f"{resident_mb(here.stage.agent.pid):.0f} MB, {before:.0f} MB before"
        )
        assert set(reasons_of(here)) == {"the service has more than max_servers 1000"}
        assert good <= here.serving()
        assert resident_mb(here.stage.agent.pid) < 250
        result = here.load.stop()
        assert result.failed == 0, result
        assert "Traceback" not in here.log()


@pytest.mark.timeout(300)
def test_a_service_of_5000_instances_is_served_whole_where_max_servers_lets_it() -> None:
    with Stage({"web": 5000}, server_options="", backend_options="max_servers = 5000") as stage:
        port = free_port()
        stage.origins.open("0.0.0.0", port)  # all of 127.0.0.0/8 answers
        register_many(
            stage,
            [(f"many-{number}", f"127.1.{number // 250}.{number % 250 + 1}", port) for number in range(5000)],
            node="z-many",
        )
        wait_until(
            lambda: sum(not one.in_maintenance for one in stage.haproxy.servers("web").values()) == 5000,
            120,
            "five thousand servers",
            interval_seconds=0.5,
        )
        wait_until(lambda: stage.status()["agent"]["in_sync"], 60, "the agent to be in sync", interval_seconds=0.5)
        assert stage.status()["counts"] == {"deferred": 0, "quarantined": 0}
        assert stage.reloads() == 0


def test_a_node_in_maintenance_takes_half_of_the_backend_and_not_more() -> None:
    with scene(instances=6) as here:  # two on each of three nodes
        with LowestCapacity(here.stage.haproxy) as seen:
            here.fleet.maintain_node("node-a", on=True)
            here.wait_in_step()
            assert len(here.serving()) == 4
            here.fleet.maintain_node("node-b", on=True)
            here.stage.wait_deferred("more than max_loss_fraction would be lost within the window", count=1)
            time.sleep(2)
            assert len(here.serving()) == 3
            here.fleet.maintain_node("node-c", on=True)
            here.stage.wait_deferred("more than max_loss_fraction would be lost within the window", count=3)
            time.sleep(2)
            assert len(here.serving()) == 3

        assert seen.lowest == 3
        for node in ("node-a", "node-b", "node-c"):
            here.fleet.maintain_node(node, on=False)
        here.ends()

"""Killed at any moment, the agent and HAProxy come back to what Consul says, and nothing flaps on the way."""

import random
import time

from hapsync.haproxy.cfg import enabled_servers
from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.processes import wait_until


def test_an_agent_killed_again_and_again_in_the_middle_of_changes_always_converges() -> None:
    chance = random.Random(7)
    with Stage({"web": 12}) as stage, Fleet(stage) as fleet:
        for _ in range(4):
            fleet.add()
        stage.wait_equal()
        pid = stage.haproxy.worker_pid()
        with stage.load(rate=150) as load:
            for _ in range(8):
                fleet.add()
                fleet.remove(chance.choice(fleet.serving()).name)
                time.sleep(chance.uniform(0, 0.02))
                stage.kill_agent()
                time.sleep(0.1)
                stage.start_agent()
            stage.wait_equal(timeout_seconds=15)
            result = load.stop()

        assert (result.failed, result.failures) == (0, ())
        assert stage.haproxy.worker_pid() == pid
        assert stage.reloads() == 0


def test_a_restarted_agent_sends_nothing_when_nothing_changed() -> None:
    with Stage({"web": 6}) as stage, Fleet(stage) as fleet:
        for _ in range(4):
            fleet.add()
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 10, "status to say in sync")
        stage.kill_agent()
        lives = {name: one.fields["srv_time_since_last_change"] for name, one in stage.haproxy.servers("web").items()}
        time.sleep(1.5)
        stage.start_agent()
        wait_until(lambda: stage.status()["agent"]["in_sync"], 10, "the agent to say in sync")

        counters = stage.status()["agent"]["counters"]
        servers = stage.haproxy.servers("web")
        assert counters["changes"] == 0
        assert all(int(servers[name].fields["srv_time_since_last_change"]) > int(age) for name, age in lives.items())
        assert stage.reloads() == 0


def test_an_agent_killed_in_the_middle_of_a_reload_finishes_it_after_its_restart() -> None:
    chance = random.Random(11)
    with Stage({"web": 2}) as stage, Fleet(stage) as fleet:
        for _ in range(2):
            fleet.add()
        stage.wait_equal()
        with stage.load(rate=150) as load:
            for _ in range(3):
                room = len(stage.haproxy.servers("web"))
                while len(fleet.members) <= room:
                    fleet.add()
                time.sleep(0.2 + chance.uniform(0, 0.35))
                stage.kill_agent()
                stage.start_agent()
                stage.wait_equal(timeout_seconds=20)
            result = load.stop()

        assert (result.failed, result.failures) == (0, ())
        wait_until(lambda: stage.hapsync("status").returncode == 0, 10, "status to say in sync")


def test_a_killed_haproxy_starts_with_the_current_servers_and_is_in_step_at_once() -> None:
    with Stage({"web": 8}) as stage, Fleet(stage) as fleet:
        members = [fleet.add() for _ in range(5)]
        stage.wait_equal()
        fleet.remove(members[0].name)
        fleet.maintain_node("node-b", on=True)
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 10, "status to say in sync")

        stage.haproxy.kill()
        fleet.add()
        time.sleep(0.2)
        stage.haproxy.start()
        answered = time.monotonic()
        started_with = {one.port for one in stage.haproxy.servers("web").values() if one.running}
        stage.wait_equal()
        took_seconds = time.monotonic() - answered

        assert {member.port for member in members[2:] if member.node != "node-b"} <= started_with
        assert members[0].port not in started_with
        print(f"in sync {took_seconds:.2f} s after HAProxy answered")
        assert stage.reloads() == 0


def test_what_changes_while_haproxy_is_down_is_in_the_file_it_starts_with() -> None:
    with Stage({"web": 3}) as stage, Fleet(stage) as fleet:
        old = fleet.add()
        stage.wait_equal()
        wait_until(lambda: old.address in stage.haproxy.config.read_text(), 10, "the file to follow")
        stage.haproxy.kill()
        time.sleep(1)
        fleet.remove(old.name)
        new = [fleet.add() for _ in range(7)]

        def is_written() -> bool:
            text = stage.haproxy.config.read_text()
            return old.address not in text and all(one.address in text for one in new)

        wait_until(is_written, 20, "the file to follow")
        stage.haproxy.start()

        running = {one.port for one in stage.haproxy.servers("web").values() if one.running}
        assert running == {one.port for one in new}
        stage.wait_equal()
        assert stage.reloads() == 0


def test_a_file_that_apply_writes_while_haproxy_is_down_keeps_half_of_a_service_that_shrinks_to_one() -> None:
    with Stage({"web": 8}, agent=False) as stage, Fleet(stage) as fleet:
        members = [fleet.add() for _ in range(8)]
        assert stage.hapsync("apply").returncode == 0
        stage.haproxy.kill()
        for one in members[1:]:
            fleet.remove(one.name)

        for _ in range(2):
            assert stage.hapsync("apply").returncode == 1
            text = stage.haproxy.config.read_text()
            assert enabled_servers(text)["web"] == 4
            assert members[0].address in text


def test_a_consul_that_goes_away_changes_nothing_and_is_followed_again_when_it_is_back() -> None:
    with Stage({"web": 4}) as stage, Fleet(stage) as fleet:
        fleet.add()
        fleet.add()
        stage.wait_equal()
        before = stage.haproxy.servers("web")
        stage.consul.kill()
        wait_until(
            lambda: "refuses the connection" in str(stage.status()["agent"]["services"]["web"]["error"]),
            20,
            "the agent to tell that Consul is away",
        )
        time.sleep(2)

        during = stage.haproxy.servers("web")
        assert {n: (s.port, s.running) for n, s in during.items()} == {
            n: (s.port, s.running) for n, s in before.items()
        }

        stage.consul.start()
        for member in fleet.members.values():
            fleet.put(member)
        fleet.add()
        stage.wait_equal()
        assert stage.reloads() == 0


def test_the_agent_ends_at_once_on_sigterm() -> None:
    with Stage({"web": 4}) as stage:
        begin = time.monotonic()
        stage.agent.stop(timeout_seconds=5)

        assert time.monotonic() - begin < 3

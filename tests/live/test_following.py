"""A live HAProxy follows a live Consul under traffic, and its worker is never replaced."""

import random
import time
from contextlib import closing

import attrs

from tests.demo.fleet import Fleet, Member
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.consul import Status
from tests.harness.download import Download
from tests.harness.ports import free_port
from tests.harness.processes import wait_until

CHANGES = 300


def change_something(fleet: Fleet, slots: int, chance: random.Random) -> None:
    """Make one change that fits into the slots, and leave at least two instances serving."""
    members = sorted(fleet.members.values(), key=lambda member: member.name)
    serving = [member for member in members if member in fleet.serving()]
    one = chance.choice(members)
    may_lose = one not in serving or len(serving) > 2
    match chance.choice(("add", "remove", "status", "maintenance", "weight", "weight")):
        case "add" if len(members) < slots - 2:
            fleet.add()
        case "remove" if may_lose:
            fleet.remove(one.name)
        case "status" if may_lose or one.status != "passing":
            better_or_worse: Status = chance.choice(("passing", "warning", "critical")) if may_lose else "passing"
            fleet.put(attrs.evolve(one, status=better_or_worse))
        case "maintenance" if may_lose or one.maintenance:
            fleet.put(attrs.evolve(one, maintenance=not one.maintenance))
        case _:
            fleet.put(attrs.evolve(one, weights=(chance.randint(1, 256), chance.randint(1, 20))))


def test_300_random_changes_inside_the_slots_cost_no_request_and_no_worker() -> None:
    chance = random.Random(20260101)
    with Stage({"web": 16}, backend_options=NO_GUARD) as stage, Fleet(stage) as fleet:
        for _ in range(5):
            fleet.add()
        stage.wait_equal()
        pid = stage.haproxy.worker_pid()
        with stage.load(rate=200) as load:
            for _ in range(CHANGES):
                change_something(fleet, 16, chance)
                time.sleep(0.04)
            stage.wait_equal(timeout_seconds=15)
            result = load.stop()

        wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "status to say in sync")
        assert (result.failed, result.failures) == (0, ())
        assert result.requests > 1000
        assert stage.haproxy.worker_pid() == pid
        assert stage.reloads() == 0
        assert stage.differences() == []
        assert stage.hapsync("plan").returncode == 0


def test_each_row_of_the_table_is_what_haproxy_gets() -> None:
    with Stage({"web": 4}, backend_options=NO_GUARD) as stage, Fleet(stage, nodes=("node-a", "node-b")) as fleet:
        first, second = fleet.add(), fleet.add()
        stage.wait_equal()
        slot = {server.port: name for name, server in stage.haproxy.servers("web").items()}

        def becomes(member: Member, state: str, weight: int | None = None) -> None:
            fleet.put(member)
            stage.wait_equal()
            server = stage.haproxy.servers("web")[slot[member.port]]
            shown = "maint" if server.in_maintenance else "drain" if server.draining else "ready"
            assert (server.port, shown) == (member.port, state), "it keeps its slot"
            assert weight in (None, server.weight)

        becomes(attrs.evolve(first, status="warning"), "ready", 3)
        becomes(attrs.evolve(first, status="critical"), "maint")
        becomes(attrs.evolve(first, status="passing"), "ready", 10)
        becomes(attrs.evolve(first, maintenance=True), "drain")
        becomes(first, "ready", 10)
        becomes(attrs.evolve(first, weights=(1000, 3)), "ready", 256)
        assert stage.haproxy.servers("web")[slot[second.port]].weight == 3  # 256 * 10 / 1000, rounded
        becomes(attrs.evolve(first, weights=(10, 0), status="warning"), "ready", 0)
        fleet.maintain_node("node-b", on=True)
        stage.wait_equal()
        assert stage.haproxy.servers("web")[slot[second.port]].draining
        assert stage.reloads() == 0


def busy_slot(stage: Stage) -> str:
    """The slot of `web` on which a request runs; empty while there is none."""
    rows = stage.haproxy.stat("web").items()
    return next((name for name, row in rows if name != "BACKEND" and int(row["scur"])), "")


def test_a_slot_is_used_again_only_when_nothing_is_left_on_it() -> None:
    with Stage({"web": 2}) as stage, Fleet(stage, linger_seconds=60) as fleet:
        first, second = fleet.add(), fleet.add()
        stage.wait_equal()
        with closing(Download(stage.frontend_port, 12)) as download:
            busy = wait_until(lambda: busy_slot(stage), 10, "the download to run")
            held_by = stage.haproxy.servers("web")[busy].port
            gone = first if held_by == first.port else second
            fleet.remove(gone.name)
            wait_until(lambda: stage.haproxy.servers("web")[busy].in_maintenance, 5, "the server in maint")

            rows = {one["server"]: one for one in stage.status()["backends"]["web"]["servers"]}
            assert rows[busy]["use"] == "emptying"
            assert busy_slot(stage) == busy
            assert stage.haproxy.servers("web")[busy].port == held_by
            download.wait()
            assert download.is_whole

        counts = ("scur", "used_conn_cur", "idle_conn_cur")
        wait_until(
            lambda: not any(int(stage.haproxy.stat("web")[busy][one]) for one in counts), 15, "an empty server"
        )
        pid = stage.haproxy.worker_pid()
        replacement = fleet.add()
        stage.wait_equal()
        ports = {server.port for server in stage.haproxy.servers("web").values() if not server.in_maintenance}
        assert replacement.port in ports
        assert stage.haproxy.worker_pid() == pid


def test_ipv6_instances_are_served() -> None:
    with Stage() as stage:
        port = free_port()
        stage.origins.open("::1", port)
        stage.consul.put("web", "six", node="node-6", address="::1", port=port)
        stage.wait_equal()
        with stage.load(rate=50) as load:
            wait_until(lambda: load.snapshot().requests >= 20, 20, "the load to be under way")
            result = load.stop()

        assert result.failed == 0
        assert set(result.by_origin) == {f"[::1]:{port}"}
        wait_until(lambda: f"[::1]:{port}" in stage.haproxy.config.read_text(), 10, "the file to name it")


def test_foreign_servers_and_other_backends_are_never_touched() -> None:
    with Stage(agent=False) as stage, Fleet(stage) as fleet:
        config = stage.haproxy.config.read_text()
        template = stage.work / "haproxy.cfg.j2"
        foreign = "\n    server legacy 127.0.0.1:9 weight 7\nbackend other\n    server srv1 127.0.0.1:9 weight 5\n"
        template.write_text(template.read_text() + foreign)
        stage.haproxy.config.write_text(config + foreign)
        stage.haproxy.reload()
        before = (stage.haproxy.servers("web")["legacy"].fields, stage.haproxy.servers("other")["srv1"].fields)
        stage.start_agent()
        fleet.add()
        wait_until(lambda: not stage.haproxy.servers("web")["srv1"].in_maintenance, 20, "the instance")

        after = (stage.haproxy.servers("web")["legacy"].fields, stage.haproxy.servers("other")["srv1"].fields)
        timeless = {"srv_time_since_last_change", "srv_check_status", "srv_check_result", "srv_check_health"}
        assert [{k: v for k, v in one.items() if k not in timeless} for one in before] == [
            {k: v for k, v in one.items() if k not in timeless} for one in after
        ]
        assert "legacy" in stage.hapsync("status").stdout

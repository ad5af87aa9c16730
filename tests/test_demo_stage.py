"""The stage that the demo and the end-to-end tests play on, and the judge they believe."""

from pathlib import Path

import pytest
from attrs import evolve

from tests.demo.churn import Churn
from tests.demo.fleet import Fleet
from tests.demo.stage import SHIPPED, ShippedFileChangedError, Stage, adapted_template
from tests.demo.truth import Placed, differences, scaled, wanted
from tests.demo.watching import WorkerWatch, wait_shown
from tests.harness.haproxy import ServerState
from tests.harness.processes import wait_until


def test_a_stage_with_two_backends_follows_consul_also_after_the_agent_was_killed() -> None:
    with Stage({"web": 4, "api": 2}) as stage, Fleet(stage, "web") as web, Fleet(stage, "api") as api:
        first = web.add()
        drained = web.add()
        behind = api.add()
        stage.wait_equal("web")  # else the agent may be killed between its reading and its drain of the same server
        web.put(evolve(drained, maintenance=True))
        stage.wait_equal("web")
        stage.wait_equal("api")
        with (
            stage.load(clients=2, closing=1, rate=100) as to_web,
            stage.load(path="/api/", clients=1, closing=0, rate=50) as to_api,
        ):
            stage.kill_agent()
            web.put(evolve(first, weights=(7, 1)))
            [difference] = stage.differences()
            stage.start_agent()
            stage.wait_equal()
            wait_until(lambda: to_api.snapshot().requests >= 10, 10, "requests to api")
            seen = [load.stop() for load in (to_web, to_api)]
        reloads, work = stage.reloads(), stage.work
        in_sync = wait_until(lambda: stage.status()["sync"]["verdict"] == "in_sync", 10, "the file to be written")

    assert difference == f"{first.address} is ready, weight 10 instead of ready, weight 7"
    assert [(one.failed, one.failures) for one in seen] == [(0, ())] * 2
    assert [set(one.by_origin) for one in seen] == [{first.address}, {behind.address}]
    assert (reloads, in_sync) == (0, True)
    assert not work.exists()
    assert not any(process.running for process in (stage.agent, stage.haproxy.process, stage.consul.process))


def test_churn_needs_no_reload_and_shows_each_of_its_changes() -> None:
    with Stage({"web": 5}) as stage, Fleet(stage) as fleet, WorkerWatch(stage.haproxy) as workers:
        churn = Churn(fleet, stage.haproxy, smallest=2, largest=4, seed=1)
        for _ in range(3):
            fleet.add()
        wait_shown(stage.haproxy, "web", fleet.wanted())
        for _ in range(15):
            before = stage.haproxy.servers("web")
            churn.next_change().make()

            assert differences(fleet.wanted(), before)

            wait_shown(stage.haproxy, "web", fleet.wanted())
        wait_until(lambda: workers.pids, 5, "the worker to be seen")

        assert stage.differences() == []
        assert (stage.reloads(), workers.replacements) == (0, 0)


def test_a_stage_that_fails_on_the_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stage: Stage) -> None:
        works.append(stage)
        raise ZeroDivisionError

    works: list[Stage] = []
    monkeypatch.setattr(Stage, "start_agent", fail)
    with pytest.raises(ZeroDivisionError), Stage():
        pass
    [stage] = works

    assert not stage.work.exists()
    assert not stage.haproxy.process.running


def test_the_shipped_template_is_changed_in_ports_paths_and_users_only() -> None:
    shipped = (SHIPPED / "haproxy.cfg.j2").read_text(encoding="utf-8")
    adapted = adapted_template(shipped, admin_socket=Path("/x/admin.sock"), frontend_port=1001, statistics_port=1002)
    lines = shipped.splitlines()

    assert [line.strip() for line in adapted.splitlines() if line not in lines] == [
        "log stderr format raw local0",
        "stats socket /x/admin.sock mode 660 level admin",
        "bind 127.0.0.1:1001",
        "bind 127.0.0.1:1002",
    ]
    with pytest.raises(ShippedFileChangedError, match="bind :80"):
        adapted_template(
            shipped.replace("bind :80", "bind :443"),
            admin_socket=Path("/x"),
            frontend_port=1001,
            statistics_port=1002,
        )


def entry(port: int, *checks: tuple[str, str], address: str = "10.0.0.1") -> dict[str, object]:
    return {
        "Node": {"Address": "10.0.0.9"},
        "Service": {"Address": address, "Port": port, "Weights": {"Passing": 10, "Warning": 3}},
        "Checks": [{"CheckID": name, "Status": status} for name, status in checks],
    }


def test_what_consul_says_is_read_as_the_operator_expects() -> None:
    found = wanted(
        [
            entry(1, ("service:a", "passing")),
            entry(2, ("service:a", "warning"), ("serfHealth", "passing")),
            entry(3, ("service:a", "warning"), ("serfHealth", "critical")),
            entry(4, ("service:a", "critical"), ("_node_maintenance", "critical")),
            entry(5, ("_service_maintenance:a", "critical"), address=""),
            entry(6, address="::1"),
        ]
    )

    assert found == {
        "10.0.0.1:1": Placed("ready", 10),
        "10.0.0.1:2": Placed("ready", 3),
        "10.0.0.1:3": Placed("maint", 10),
        "10.0.0.1:4": Placed("drain", 10),
        "10.0.0.9:5": Placed("drain", 10),
        "[::1]:6": Placed("ready", 10),
    }
    assert scaled({name: Placed("ready", weight) for name, weight in (("a", 200), ("b", 1), ("c", 1))}) == {
        "a": Placed("ready", 10),
        "b": Placed("ready", 1),
        "c": Placed("ready", 1),
    }
    assert scaled({"a": Placed("ready", 512), "b": Placed("ready", 1), "c": Placed("ready", 0)}) == {
        "a": Placed("ready", 256),
        "b": Placed("ready", 1),
        "c": Placed("ready", 0),
    }


def test_an_address_in_two_serving_slots_is_a_difference() -> None:
    servers = {name: server(name, 1, administration=bits) for name, bits in (("srv1", 1), ("srv2", 0), ("srv3", 0))}

    assert differences({"10.0.0.1:1": Placed("ready", 10)}, servers) == [
        "srv3 10.0.0.1:1 is ready, weight 10, but another server should have it"
    ]


def server(name: str, port: int, *, operation: int = 2, administration: int = 0, weight: int = 10) -> ServerState:
    return ServerState(name, 1, "10.0.0.1", port, operation, administration, weight, 1, {})


@pytest.mark.parametrize(
    ("port", "live", "difference"),
    [
        (1, server("srv1", 1), None),
        (1, server("srv1", 1, weight=9), "10.0.0.1:1 is ready, weight 9 instead of ready, weight 10"),
        (1, server("srv1", 1, operation=0), "10.0.0.1:1 is down instead of ready, weight 10"),
        (1, server("srv1", 1, administration=8), "10.0.0.1:1 is drain instead of ready, weight 10"),
        (1, server("srv1", 2, administration=1, operation=0), "10.0.0.1:1 is in no slot instead of ready, weight 10"),
        (2, server("srv2", 2, administration=8, weight=1), None),
        (2, server("srv2", 2), "10.0.0.1:2 is ready, weight 10 instead of drain"),
        (2, server("srv2", 9, administration=1, operation=0), None),
        (3, server("srv3", 3, administration=1, operation=0), None),
        (3, server("srv3", 3), "10.0.0.1:3 is ready, weight 10 instead of maint"),
        (3, server("srv3", 4), "srv3 10.0.0.1:4 is ready, weight 10, but Consul does not have it"),
    ],
)
def test_a_server_that_is_not_as_wanted_is_a_difference(port: int, live: ServerState, difference: str | None) -> None:
    want = {1: Placed("ready", 10), 2: Placed("drain", 10), 3: Placed("maint", 10)}[port]

    assert differences({f"10.0.0.1:{port}": want}, {live.name: live}) == ([difference] if difference else [])

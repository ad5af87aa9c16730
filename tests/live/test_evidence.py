"""A Consul whose state went back takes no living server away, and the agent does not forget that it did."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from hapsync.changes import Reason
from hapsync.memory import Memory
from hapsync.worker.acts import Acts
from hapsync.worker.settings import read_settings
from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.edge.fake_consul import fake_consul
from tests.harness.chaos import Chaos
from tests.harness.consul import Consul
from tests.harness.processes import wait_until

SERVERS = "/v1/catalog/service/consul"


def ready_ports(stage: Stage) -> set[int]:
    servers = stage.haproxy.servers("web").values()
    return {one.port for one in servers if not one.in_maintenance and not one.draining and one.weight > 0}


@pytest.mark.parametrize("consistency", ["cached", "stale"])
def test_a_snapshot_restored_into_a_running_consul_takes_no_server_away(work: Path, consistency: str) -> None:
    with (
        Consul(work) as consul,
        Chaos(work, consul.host, consul.port) as chaos,
        Stage(
            {"web": 12},
            backend_options="guard_window_seconds = 2",
            consul_options=f'consistency = "{consistency}"',
            consul=lambda _work: nullcontext(consul),
            consul_url=lambda _stage: chaos.url,
        ) as stage,
        Fleet(stage) as fleet,
    ):
        members = [fleet.add() for _ in range(4)]
        snapshot = stage.consul.snapshot()
        members += [fleet.add() for _ in range(4)]
        stage.wait_equal()
        wait_until(lambda: chaos.seen().asked.get(SERVERS, 0) > 1, 20, "Consul's servers to be watched")

        stage.consul.restore(snapshot)
        wait_until(lambda: len(stage.status()["held"]) == 4, 20, "what is missing to be held")
        fleet.remove(members[0].name)

        wait_until(lambda: len(stage.status()["held"]) == 5, 20, "what left since to be held, too")
        assert {one["reason"] for one in stage.status()["held"]} == {Reason.REFILLING.value}
        assert ready_ports(stage) == {one.port for one in members}
        for one in members[4:]:
            fleet.put(one)
        wait_until(lambda: not stage.differences(), 20, "what left to go, for all others are back")


def test_that_consul_went_back_is_not_forgotten_because_somebody_asks_what_it_says() -> None:
    ten, five = range(1, 11), range(1, 6)
    with fake_consul(*ten) as fake, Stage({"web": 12}, agent=False, consul_url=lambda _stage: fake.url) as stage:
        settings = read_settings(str(stage.config_path))
        acts = Acts(settings, lambda: settings, Memory(), lambda _service: None)
        acts._following.start()
        try:

            def read_at(index: int) -> bool:
                state = acts._following.states().get("web")
                return state is not None and state.index == index and state.reading is not None

            fake.show(*ten, at=300)
            wait_until(lambda: read_at(300), 20, "the first state")
            acts._dues.add(["web"])
            assert acts._pass(is_full=True) is not None
            assert len(ready_ports(stage)) == 10

            fake.show(*five, at=5)
            wait_until(lambda: read_at(5), 20, "the older state")
            for _ in range(3):
                acts._desired()
            fake.show(*five, 11, at=6)
            wait_until(lambda: read_at(6), 20, "the state after it")
            acts._dues.add(["web"])
            outcome = acts._pass(is_full=False)

            assert outcome is not None
            assert ready_ports(stage) == {*ten, 11}
            assert {one.reason for one in outcome.last.plan.held} == {Reason.REFILLING}
        finally:
            acts._following.stop()
            acts._discovering.stop()

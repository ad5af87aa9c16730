"""A Consul whose state went back takes no living server away, and the agent does not forget that it did."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import pytest

import hapsync.agent.reconcile
from hapsync.agent.agent import Agent
from hapsync.agent.reconcile import Outcome, run_pass
from hapsync.agent.settings import read_settings
from hapsync.model.changes import Reason
from hapsync.model.overrides import SavedState
from hapsync.model.server import Observed
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
        Fleet(stage, linger_seconds=60) as fleet,
    ):
        members = [fleet.add() for _ in range(4)]
        snapshot = stage.consul.snapshot()
        members += [fleet.add() for _ in range(4)]
        stage.wait_equal()
        wait_until(lambda: chaos.seen().asked.get(SERVERS, 0) > 1, 20, "Consul's servers to be watched")

        stage.consul.restore(snapshot)
        wait_until(lambda: len(stage.status()["deferred"]) == 4, 20, "what is missing to be held")
        fleet.remove(members[0].name)

        stage.wait_deferred(Reason.REFILLING.value, count=5)
        assert ready_ports(stage) == {one.port for one in members}
        for one in members[4:]:
            fleet.put(one)
        wait_until(lambda: not stage.differences(), 20, "what left to go, for all others are back")


TEN, FIVE = range(1, 11), range(1, 6)


@contextmanager
def acting() -> Iterator[tuple[Agent, Stage, Callable[[int, Iterable[int]], None]]]:
    """What an agent does, step by step, and a Consul whose state can be set, with its index, and is read at once.

    A first pass has brought TEN in, at the index 300.
    """
    with fake_consul(*TEN) as fake, Stage({"web": 12}, agent=False, consul_url=lambda _stage: fake.url) as stage:
        settings = read_settings(str(stage.config_path))
        agent = Agent(settings, lambda: settings, SavedState())
        agent._following.use(settings.config)

        def show(index: int, numbers: Iterable[int]) -> None:
            def is_read() -> bool:
                state = agent._following.states().get("web")
                return state is not None and state.index == index and state.reading is not None

            fake.show(*numbers, at=index)
            wait_until(is_read, 20, f"the state at {index}")

        try:
            show(300, TEN)
            make_pass(agent)
            assert len(ready_ports(stage)) == 10
            yield agent, stage, show
        finally:
            agent._following.stop()
            agent._discovering.stop()


def make_pass(agent: Agent) -> Outcome:
    agent._passes.schedule.add(["web"])
    outcome = agent._passes.make(is_full=True)
    assert outcome is not None
    return outcome


def test_that_consul_went_back_is_not_forgotten_because_somebody_asks_what_it_says() -> None:
    with acting() as (agent, stage, show):
        show(5, FIVE)
        for _ in range(3):
            agent._reconciler.desired()
        show(6, [*FIVE, 11])
        outcome = make_pass(agent)

        assert ready_ports(stage) == {*TEN, 11}
        assert {one.reason for one in outcome.last.plan.deferred} == {Reason.REFILLING}


def test_that_consul_went_back_is_not_forgotten_by_a_pass_that_could_not_read_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unread(*arguments: Any) -> Outcome:
        made = run_pass(*arguments)
        return attrs.evolve(made, last=attrs.evolve(made.last, observed=Observed({}, {"web": "odd"})))

    with acting() as (agent, stage, show):
        show(5, FIVE)
        monkeypatch.setattr(hapsync.agent.reconcile, "run_pass", unread)
        make_pass(agent)
        monkeypatch.undo()
        show(6, [*FIVE, 11])
        outcome = make_pass(agent)

        assert ready_ports(stage) == {*TEN, 11}
        assert {one.reason for one in outcome.last.plan.deferred} == {Reason.REFILLING}

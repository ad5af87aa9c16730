"""A balancer that reloads waits for its turn within its group; nothing but the reload does."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.semaphore import Permit, acquire_permit, release
from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.processes import wait_until

SLOTS = 'scaling = "slots"'


@contextmanager
def staged(acquire_timeout_seconds: float) -> Iterator[tuple[Stage, Fleet]]:
    with Stage({"web": 2}, backend_options=SLOTS, agent=False) as stage, Fleet(stage) as fleet:
        text = stage.config_path.read_text()
        stage.config_path.write_text(
            f'{text}\n[fleet]\ngroup = "lbs"\nacquire_timeout_seconds = {acquire_timeout_seconds}\n'
        )
        fleet.add()
        stage.start_agent()
        stage.wait_equal()
        yield stage, fleet


@contextmanager
def another_reloads(stage: Stage) -> Iterator[None]:
    """Another balancer of the group holds its only slot meanwhile."""
    with ConsulClient(ConsulConfig(address=stage.consul.url)) as agent:
        permit = acquire_permit(agent, "lbs", 1, "lb9 pid 7: more slots")
        assert isinstance(permit, Permit)
        try:
            yield
        finally:
            release(agent, permit)


def test_a_reload_waits_for_its_turn_while_changes_go_on_and_status_says_for_whom() -> None:
    with staged(60) as (stage, fleet):
        [first] = fleet.members.values()
        with another_reloads(stage):
            fleet.add_at_once(4)
            wait_until(lambda: stage.status()["agent"]["reload_waits_for"], 10, "the reload to wait")
            fleet.put(attrs.evolve(first, weights=(7, 1)))
            wait_until(lambda: {one.weight for one in stage.haproxy.servers("web").values()} >= {7}, 5, "the weight")
            time.sleep(2)

            assert stage.reloads() == 0
            assert "a reload permit of group lbs held by lb9 pid 7: more slots" in stage.hapsync("status").stdout

        stage.wait_equal(timeout_seconds=20)
        assert stage.reloads() == 1
        wait_until(lambda: stage.status()["agent"]["reload_waits_for"] is None, 10, "the wait to be over")
        with ConsulClient(ConsulConfig(address=stage.consul.url)) as agent:
            wait_until(
                lambda: isinstance(acquire_permit(agent, "lbs", 1, "lb9"), Permit), 20, "the slot to be given back"
            )


def test_a_reload_is_made_without_a_turn_when_patience_ends() -> None:
    with staged(2) as (stage, fleet), another_reloads(stage):
        fleet.add_at_once(4)
        stage.wait_equal(timeout_seconds=20)

        assert stage.reloads() == 1
        assert "reload without a permit of group lbs" in (stage.work / "agent.log").read_text()


def test_a_group_of_one_reloads_at_once() -> None:
    with staged(60) as (stage, fleet):
        fleet.add_at_once(4)
        stage.wait_equal(timeout_seconds=15)

        assert stage.reloads() == 1

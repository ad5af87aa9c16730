"""Instances that come and go: few commands, no request lost, and back in once they stay."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import pytest

from tests.demo.fleet import Fleet, Member
from tests.faults.scene import LowestCapacity, Scene, say_figure, scene
from tests.harness.processes import wait_until


@contextmanager
def flapping(turn: Callable[[int], None], period_seconds: float) -> Iterator[list[int]]:
    """Call `turn` with 0, 1, 2 ... twice a period while the block runs; what is given counts the turns."""
    turns = [0]
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(period_seconds / 2):
            turn(turns[0])
            turns[0] += 1

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield turns
    finally:
        stopped.set()
        thread.join()


def changes_of(here: Scene, member: Member) -> int:
    """How many changes of this instance the agent has made."""
    return sum(" change " in line and member.address in line for line in here.log().splitlines())


def fails_and_passes(fleet: Fleet, members: list[Member]) -> Callable[[int], None]:
    """Its check fails in Consul and passes again."""

    def turn(number: int) -> None:
        for member in members:
            fleet.put(attrs.evolve(member, status="passing" if number % 2 else "critical"))

    return turn


def leaves_and_returns(fleet: Fleet, members: list[Member]) -> Callable[[int], None]:
    """It is deregistered and registered again; its server goes on."""

    def turn(number: int) -> None:
        for member in members:
            if number % 2:
                fleet.put(member)
            else:
                fleet._stage.consul.remove(member.node, member.name)

    return turn


@pytest.mark.timeout(240)
def test_one_of_five_that_flaps_each_second_costs_few_commands_and_is_back_once_it_stays() -> None:
    with scene(instances=5, backend_options="damping_seconds = 20") as here:
        one = here.fleet.members["web-3"]
        before = changes_of(here, one)
        with flapping(fails_and_passes(here.fleet, [one]), 1.0) as turns, LowestCapacity(here.stage.haproxy) as seen:
            time.sleep(60)
            status = here.stage.status()
        commands = changes_of(here, one) - before
        here.fleet.put(one)
        begin = time.monotonic()
        wait_until(lambda: one.port in here.serving(), 70, "the instance to be back")
        back = time.monotonic() - begin
        say_figure(
            f"one of five flaps at 1 Hz for 60 s: {turns[0]} changes in Consul, {commands} in HAProxy, "
            f"never fewer than {seen.lowest} serve; back {back:.0f} s after it stays"
        )
        assert turns[0] > 100
        assert commands <= 12
        assert seen.lowest == 4
        reasons = {deferred["reason"] for deferred in status["deferred"]}
        assert reasons <= {"it comes and goes; damped until it stays"}
        assert "deferred backend web: 1 change, it comes and goes; damped until it stays" in here.log()
        here.ends()


@pytest.mark.parametrize("turn", [fails_and_passes, leaves_and_returns])
def test_one_that_flaps_five_times_a_second_costs_few_commands_and_is_back_once_it_stays(
    turn: Callable[[Fleet, list[Member]], Callable[[int], None]],
) -> None:
    with scene(instances=5, backend_options="damping_seconds = 8") as here:
        one = here.fleet.members["web-3"]
        before = changes_of(here, one)
        with flapping(turn(here.fleet, [one]), 0.2) as turns, LowestCapacity(here.stage.haproxy) as seen:
            time.sleep(12)
        commands = changes_of(here, one) - before
        here.fleet.put(one)
        begin = time.monotonic()
        wait_until(lambda: one.port in here.serving(), 20, "the instance to be back")
        back = time.monotonic() - begin
        say_figure(
            f"one of five flaps at 5 Hz for 12 s ({turn.__name__}): {turns[0]} changes in Consul, "
            f"{commands} in HAProxy, never fewer than {seen.lowest} serve; back {back:.1f} s after it stays"
        )
        assert turns[0] > 60
        assert commands <= 12
        assert seen.lowest == 4
        here.ends()


@pytest.mark.parametrize("turn", [fails_and_passes, leaves_and_returns])
def test_a_backend_whose_instances_all_flap_together_stays_at_its_guard(
    turn: Callable[[Fleet, list[Member]], Callable[[int], None]],
) -> None:
    with scene(instances=4, backend_options="damping_seconds = 4") as here:
        members = list(here.fleet.members.values())
        with flapping(turn(here.fleet, members), 1.0) as turns, LowestCapacity(here.stage.haproxy) as seen:
            time.sleep(12)
        for member in members:
            here.fleet.put(member)
        commands = sum(changes_of(here, one) for one in members) - len(members)
        say_figure(
            f"all four flap at 1 Hz for 12 s ({turn.__name__}): {turns[0] * 4} changes in Consul, "
            f"{commands} in HAProxy, never fewer than {seen.lowest} serve"
        )
        assert seen.looks > 100
        assert seen.lowest >= 2
        wait_until(lambda: len(here.serving()) == 4, 20, "all to be back")
        here.ends()

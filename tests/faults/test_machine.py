"""Anything may happen at any moment, in any order: Hypothesis chooses what, and hapsync must keep its laws."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from attrs import evolve
from hypothesis import HealthCheck, Phase, seed, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults.machine import DEFECT, LARGEST, Violation, World, open_world
from tests.harness.consul import Status
from tests.harness.processes import wait_until

SEED = int(os.environ.get("MACHINE_SEED", "20"))
"""Another one is another run; the same one chooses the same, though programs have moments of their own."""
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "20"))
STEPS = 16

which = st.integers(0, 99)
services = st.sampled_from(["web", "web", "api"])
pauses = st.sampled_from([0.0, 0.0, 0.1, 0.4, 1.0])
worse: st.SearchStrategy[Status] = st.sampled_from(["critical", "critical", "warning"])


def machine(world: World) -> type[RuleBasedStateMachine]:
    """The state machine in `world`."""

    def has_consul(_machine: object) -> bool:
        return world.is_consul_up

    def has_agent(_machine: object) -> bool:
        return world.is_agent_up

    class Machine(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            world.reset()

        @invariant()
        def keeps_its_laws(self) -> None:
            world.check()

        def teardown(self) -> None:
            if world.failure is None:
                world.finish()

        @rule(seconds=pauses)
        def wait(self, seconds: float) -> None:
            time.sleep(seconds)

        # Consul and the instances

        @precondition(has_consul)
        @rule(service=services, count=st.integers(1, 3), pause=pauses)
        def register(self, service: str, count: int, pause: float) -> None:
            for _ in range(count):
                if len(world.fleets[service].members) < LARGEST:
                    world.register(service)
            time.sleep(pause)

        @precondition(has_consul)
        @rule(service=services)
        def register_dead(self, service: str) -> None:
            world.register(service, is_dead=True)

        @precondition(has_consul)
        @rule(service=services)
        def register_odd(self, service: str) -> None:
            world.register_odd(service)

        @precondition(has_consul)
        @rule(service=services, one=which, count=st.integers(1, 3), pause=pauses)
        def deregister(self, service: str, one: int, count: int, pause: float) -> None:
            for _ in range(count):
                world.deregister(service, one)
            time.sleep(pause)

        @precondition(has_consul)
        @rule(service=services, one=which, count=st.integers(1, 4), status=worse)
        def worsen(self, service: str, one: int, count: int, status: Status) -> None:
            for number in range(one, one + count):
                world.set_status(service, number, status)

        @precondition(has_consul)
        @rule(service=services, one=which, count=st.integers(1, 4))
        def heal(self, service: str, one: int, count: int) -> None:
            for number in range(one, one + count):
                world.set_status(service, number, "passing")

        @precondition(has_consul)
        @rule(service=services, one=which)
        def maintain(self, service: str, one: int) -> None:
            world.put(service, one, lambda member: evolve(member, maintenance=not member.maintenance))

        @precondition(has_consul)
        @rule(service=services, one=which, weight=st.integers(0, 300))
        def weigh(self, service: str, one: int, weight: int) -> None:
            world.put(service, one, lambda member: evolve(member, weights=(weight, max(1, weight // 3))))

        @precondition(has_consul)
        @rule(service=services, pause=pauses)
        def vanish(self, service: str, pause: float) -> None:
            world.vanish(service)
            time.sleep(pause)

        @precondition(has_consul)
        @rule()
        def come_back(self) -> None:
            world.come_back()

        # Programs

        @precondition(has_consul)
        @rule(is_paused=st.booleans())
        def lose_consul(self, is_paused: bool) -> None:  # noqa: FBT001
            (world.pause_consul if is_paused else world.kill_consul)()

        @rule()
        def restore_consul(self) -> None:
            world.restore_consul()

        @precondition(has_consul)
        @rule(pause=pauses)
        def forget(self, pause: float) -> None:
            world.forget()
            time.sleep(pause)

        @precondition(has_consul)
        @rule(pause=pauses)
        def rewind(self, pause: float) -> None:
            world.rewind(pause)

        @precondition(has_agent)
        @rule(is_killed=st.booleans(), is_back=st.booleans())
        def end_agent(self, is_killed: bool, is_back: bool) -> None:  # noqa: FBT001
            (world.kill_agent if is_killed else world.stop_agent)()
            if is_back:
                world.start_agent()

        @precondition(lambda _: not world.is_agent_up)
        @rule()
        def start_agent(self) -> None:
            world.start_agent()

        @rule()
        def restart_haproxy(self) -> None:
            world.restart_haproxy()

        @rule()
        def reload_haproxy(self) -> None:
            world.reload_haproxy()

        # People

        @rule(backend=services, one=which, state=st.sampled_from(["maint", "drain"]))
        def set_override(self, backend: str, one: int, state: str) -> None:
            world.set_override(backend, one, state)

        @rule(backend=services, one=which)
        def set_ready(self, backend: str, one: int) -> None:
            world.set_ready(backend, one)

        @rule(backend=services, one=which, weight=st.integers(0, 256))
        def set_weight(self, backend: str, one: int, weight: int) -> None:
            world.set_weight(backend, one, weight)

        @rule(backend=services)
        def point(self, backend: str) -> None:
            world.point(backend)

        @rule(backend=services, one=which, command=st.sampled_from(["hold", "drain"]))
        def hold(self, backend: str, one: int, command: str) -> None:
            world.hold(backend, one, command)

        @rule(one=which)
        def release(self, one: int) -> None:
            world.release_some(one)

        @rule(backend=services)
        def release_backend(self, backend: str) -> None:
            world.release_backend(backend)

        @rule()
        def freeze(self) -> None:
            world.freeze()

        @rule()
        def thaw(self) -> None:
            world.thaw()

        # Traffic

        @rule(backend=services, count=st.integers(1, 4))
        def request_slowly(self, backend: str, count: int) -> None:
            for _ in range(count):
                world.request_slowly(backend)

    return Machine


def play(world: World, *, examples: int, steps: int, chosen_by: int) -> None:
    """Let Hypothesis play; raises the first `Violation`, and how to play the same again."""
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # what is real cannot be shrunk: it does not happen twice the same
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    print(f"MACHINE_SEED={chosen_by}")
    try:
        run_state_machine_as_test(seed(chosen_by)(machine(world)), settings=limits)
    except BaseException:
        if world.failure is None:
            raise
        raise Violation(f"MACHINE_SEED={chosen_by}\n{world.failure}") from None


@pytest.mark.timeout(900)
def test_whatever_happens_the_laws_are_kept_and_all_ends_as_consul_says() -> None:
    with open_world() as world:
        play(world, examples=EXAMPLES, steps=STEPS, chosen_by=SEED)


@pytest.mark.quick
def test_a_little_of_what_may_happen_keeps_the_laws() -> None:
    with open_world() as world:
        play(world, examples=2, steps=8, chosen_by=SEED + 1)


# The machine can fail: without a precaution it does.

COUNTS_SECONDS = 2.6
"""What has stood for so long is a capacity that counts."""


def vanish(world: World) -> None:
    time.sleep(COUNTS_SECONDS)
    world.vanish("web")


def deregister_most(world: World) -> None:
    time.sleep(COUNTS_SECONDS)
    for _ in range(2):
        world.deregister("web", 0)
        time.sleep(0.5)
    world.deregister("web", 0)


def set_override(world: World) -> None:
    world.set_override("web", 0, "maint")


def hold(world: World) -> None:
    world.hold("web", 1, "drain")


def point_a_free_slot(world: World) -> None:
    world.point("web")
    world.register("web")  # the slot is not free any more


def fill_a_busy_slot(world: World) -> None:
    for _ in range(8):
        world.request_slowly("web")
    time.sleep(0.2)
    for _ in range(2):
        world.deregister("web", 0)
    time.sleep(0.3)
    for _ in range(3):
        world.register("web")


def change_while_frozen(world: World) -> None:
    world.freeze()
    world.register("web")


def freeze_while_it_grows(world: World) -> None:
    for _ in range(4):
        world.register("web")
    time.sleep(0.1)  # the need has to settle for 0.2 s before it is acted on
    world.freeze_at_once()
    time.sleep(1)


def lose_what_is_held(world: World) -> None:
    """HAProxy starts from a file that knows neither the server nor that it is held."""
    world.hold("api", 0, "hold")
    world.restart_haproxy()
    time.sleep(0.5)


def register(world: World) -> None:
    world.register("web")


BROKEN = [
    ("guard", vanish, "capacity"),
    ("guard", deregister_most, "capacity"),
    ("floor", deregister_most, "capacity"),
    ("hands", set_override, "by hand"),
    ("hands", point_a_free_slot, "by hand"),
    ("idleness", fill_a_busy_slot, "busy"),
    ("freeze", change_while_frozen, "frozen"),
    ("halt", freeze_while_it_grows, "frozen"),
    ("aim", register, "address"),
    ("source", register, "address"),
]
"""The precaution that a build of hapsync is without, what happens, and the law that it would break."""
UNABLE_TO_BEGIN = frozenset({"aim", "source"})
"""Without these not even the first servers are right."""


@pytest.mark.parametrize(("precaution", "happens", "law"), BROKEN)
def test_without_a_precaution_and_the_promises_a_law_is_broken_and_seen(
    precaution: str, happens: Callable[[World], None], law: str
) -> None:
    with open_world(broken=f"{precaution},promises") as world:

        def is_seen() -> bool:
            return any(f" {law}: " in one for one in world.watcher.violations)

        for _ in range(3):  # a slow machine may be late with what has to come within a moment
            world.reset(is_sound=precaution not in UNABLE_TO_BEGIN)
            happens(world)
            with suppress(TimeoutError):
                wait_until(is_seen, 6, law)
                return
        pytest.fail(f"{law} is not broken: {world.watcher.violations}, {world.trace.lines}")


@pytest.mark.parametrize(("precaution", "happens", "law"), BROKEN)
def test_without_a_precaution_the_promises_stop_hapsync_and_status_says_so(
    precaution: str, happens: Callable[[World], None], law: str
) -> None:
    with open_world(broken=precaution) as world:
        log = world.stage.work / "agent.log"

        def is_told() -> bool:
            if DEFECT not in log.read_text():
                return False
            told = world.stage.status()["sync"]
            return told["verdict"] != "in_sync" and any(DEFECT in reason for reason in told["reasons"])

        for _ in range(3):
            world.reset(is_sound=precaution not in UNABLE_TO_BEGIN)
            happens(world)
            with suppress(TimeoutError):
                wait_until(is_told, 6, law, interval_seconds=0.2)
                break
        else:
            pytest.fail(f"nothing is told: {world.trace.lines} {log.read_text()[-3000:]}")
        time.sleep(2)

        assert world.watcher.violations == []
        with pytest.raises(Violation, match=DEFECT):
            world.check()


@pytest.fixture(scope="module")
def sound() -> Iterator[World]:
    with open_world() as world:
        yield world


@pytest.mark.parametrize(
    "happens",
    [
        vanish,
        deregister_most,
        set_override,
        hold,
        point_a_free_slot,
        fill_a_busy_slot,
        change_while_frozen,
        freeze_while_it_grows,
        lose_what_is_held,
        register,
    ],
)
def test_with_all_precautions_the_same_breaks_none(sound: World, happens: Callable[[World], None]) -> None:
    sound.reset()
    happens(sound)
    time.sleep(1.5)
    sound.check()
    sound.finish()

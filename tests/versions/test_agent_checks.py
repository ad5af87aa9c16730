"""Servers with `agent-check`: the agent leads a server that serves, and never one that hapsync has taken out."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.demo.fleet import HOST, Fleet, Member
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.agents import Agents, agents
from tests.harness.haproxy import ServerState
from tests.harness.processes import wait_until

ENABLED = 0x04


@contextmanager
def playing(slots: int, backend_options: str = "") -> Iterator[tuple[Stage, Fleet, Agents]]:
    with agents() as (told, port):
        options = f"check inter 200ms agent-check agent-addr {HOST} agent-port {port} agent-inter 100ms"
        with (
            Stage(
                {"web": slots},
                server_options=options,
                backend_options=f"{NO_GUARD}\n{backend_options}",
                agent_options="resync_seconds = 1",
            ) as stage,
            Fleet(stage, linger_seconds=60) as fleet,
        ):
            yield stage, fleet, told


def server_of(stage: Stage, member: Member) -> ServerState:
    """The server at a member's address; `LookupError` where there is none."""
    for one in stage.haproxy.servers("web").values():
        if one.port == member.port:
            return one
    raise LookupError(member.address)


def is_led(server: ServerState) -> bool:
    return bool(int(server.fields["srv_agent_state"]) & ENABLED)


def wait_serving(stage: Stage, member: Member, weight: int) -> None:
    def serves() -> bool:
        one = server_of(stage, member)
        return one.running and not one.in_maintenance and one.weight == weight and is_led(one)

    wait_until(serves, 15, f"{member.address} to serve with weight {weight}")


def is_in(stage: Stage, member: Member, state: str) -> bool:
    return bool(getattr(server_of(stage, member), state))


def is_taken_out(stage: Stage, member: Member) -> bool:
    there = [one for one in stage.haproxy.servers("web").values() if one.port == member.port]
    return all(one.in_maintenance and one.weight == 0 and not is_led(one) for one in there)


def wait_in_step(stage: Stage) -> None:
    wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "status to say that all is in sync")


@pytest.mark.parametrize("means", ["slots", "dynamic"])
def test_an_agent_gives_weights_and_cannot_bring_back_a_server_that_left(means: str) -> None:
    with playing(3, f'scaling = "{means}"') as (stage, fleet, told):
        first, second = fleet.add(), fleet.add()
        for one in (first, second):
            wait_serving(stage, one, 50)
        told.says = "up 20%"
        for one in (first, second):
            wait_serving(stage, one, 20)
        wait_in_step(stage)

        told.says = "up ready 70%"
        fleet.remove(first.name)

        wait_until(lambda: is_taken_out(stage, first), 15, "the server that left to be taken out")
        wait_serving(stage, second, 70)
        asked = told.asked
        wait_until(lambda: told.asked > asked + 5, 15, "the agents to be asked again")
        assert is_taken_out(stage, first)
        wait_in_step(stage)
        fleet.put(first)
        wait_serving(stage, first, 70)
        log = (stage.work / "agent.log").read_text(encoding="utf-8")
        assert ("drift" in log, stage.reloads()) == (False, 0)


def test_a_server_that_a_person_holds_is_not_brought_back_by_its_agent_and_is_led_again_once_released() -> None:
    with playing(2) as (stage, fleet, told):
        told.says = "up ready 70%"
        first, second = fleet.add(), fleet.add()
        wait_serving(stage, first, 70)
        wait_serving(stage, second, 70)
        assert stage.hapsync("hold", f"web/{first.address}").returncode == 0
        asked = told.asked
        wait_until(lambda: told.asked > asked + 10, 15, "the agents to be asked again")
        deferred = server_of(stage, first)
        assert (deferred.in_maintenance, is_led(deferred)) == (True, False)
        wait_in_step(stage)
        assert stage.hapsync("release", f"web/{first.address}").returncode == 0
        wait_serving(stage, first, 70)


@pytest.mark.parametrize("word", ["drain", "maint"])
def test_a_slot_whose_agent_drained_it_before_its_instance_left_is_used_again_without_a_reload(word: str) -> None:
    with playing(2, 'scaling = "slots"') as (stage, fleet, told):
        told.says = "up ready 100%"
        one = fleet.add()
        fleet.add()
        for _ in range(2):
            wait_serving(stage, one, 100)
            told.says = word
            state = "draining" if word == "drain" else "in_maintenance"
            wait_until(partial(is_in, stage, one, state), 15, f"the agent to {word} it")
            assert "enable" not in stage.hapsync("plan").stdout
            fleet.remove(one.name)
            wait_until(partial(is_taken_out, stage, one), 15, "the server that left to be taken out")
            told.says = "up ready 100%"
            one = fleet.add()
        wait_serving(stage, one, 100)
        wait_in_step(stage)
        assert stage.reloads() == 0


def test_what_an_agent_said_is_neither_in_the_file_nor_does_it_fail_a_reload() -> None:
    with playing(1, 'scaling = "slots"') as (stage, fleet, told):
        told.says = "drain"
        first = fleet.add()
        wait_until(lambda: server_of(stage, first).draining, 15, "the agent to drain it")
        second = fleet.add()
        wait_until(lambda: stage.reloads() == 1, 20, "the reload for another slot")
        wait_until(lambda: server_of(stage, second).draining, 15, "the agent to drain the newcomer, too")
        wait_until(lambda: "the agents of" in stage.hapsync("status").stdout, 15, "status to say that nothing serves")
        lines = [
            line for line in stage.haproxy.config.read_text(encoding="utf-8").splitlines() if "  server srv" in line
        ]

        assert all("weight 100 " in one and "disabled" not in one for one in lines[:2])
        free = [one for one in stage.haproxy.servers("web").values() if one.port == 1]
        assert free
        assert all(one.in_maintenance and not is_led(one) for one in free)
        told.says = "ready"
        wait_in_step(stage)

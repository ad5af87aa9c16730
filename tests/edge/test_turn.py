"""Turns to reload within a group, at a real Consul: never two at once, and never waited for without end."""

from hapsync.config import ConsulConfig
from hapsync.edge.consul import Agent, endpoint
from hapsync.edge.fleet import key_of
from hapsync.worker.turn import Turn
from tests.harness.consul import Consul
from tests.harness.ports import free_port
from tests.harness.processes import wait_until


def turn(url: str, group: str, *, name: str = "lb1", patience_seconds: float = 30) -> Turn:
    made = Turn(
        ConsulConfig(address=url, timeout_seconds=5),
        group,
        1,
        value=name,
        patience_seconds=patience_seconds,
        when_come=lambda: None,
    )
    made.start()
    return made


def test_three_balancers_never_reload_two_at_once(shared_consul: Consul) -> None:
    most = 0
    turns = [turn(shared_consul.url, "three", name=f"lb{number}") for number in range(3)]
    left = list(turns)
    while left:
        wait_until(lambda: any(one.is_come.is_set() for one in left), 25, "a turn")
        come = [one for one in left if one.is_come.is_set()]
        most = max(most, len(come))
        for one in come:
            assert not one.waits_for, "it came by patience alone"
            one.give_back()
            left.remove(one)

    assert most == 1


def test_who_waits_says_for_whom_and_goes_on_when_patience_ends(shared_consul: Consul) -> None:
    first = turn(shared_consul.url, "patience", name="lb1")
    assert first.is_come.wait(10)
    second = turn(shared_consul.url, "patience", name="lb2", patience_seconds=1)

    assert second.is_come.wait(10)
    assert second.waits_for == "a reload slot of group patience held by lb1"
    first.give_back()


def test_without_consul_a_reload_is_made_when_patience_ends() -> None:
    alone = turn(f"http://127.0.0.1:{free_port()}", "away", patience_seconds=0.5)

    assert alone.is_come.wait(10)
    assert "refuses the connection" in alone.waits_for
    assert not alone.is_lost


def test_a_turn_that_was_lost_says_so(shared_consul: Consul) -> None:
    held = turn(shared_consul.url, "lost")
    assert held.is_come.wait(10)
    config = ConsulConfig(address=shared_consul.url)
    agent = Agent(config, endpoint(config), "")
    agent.kv.delete(key_of("lost", 0))
    agent.close()

    wait_until(lambda: held.is_lost, 10, "the loss to be noticed")

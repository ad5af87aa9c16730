"""Turns to reload within a group, at a real Consul: never two at once, and never waited for without end."""

import time

import pytest

from hapsync.config.schema import ConsulConfig, FleetConfig
from hapsync.consul.semaphore import LONGEST, SPREAD, PermitRequest, Waiting, key_of
from tests.harness.consul import Consul
from tests.harness.ports import free_port
from tests.harness.processes import wait_until


def turn(url: str, group: str, *, name: str = "lb1", acquire_timeout_seconds: float = 30) -> PermitRequest:
    made = PermitRequest(
        ConsulConfig(address=url, timeout_seconds=5),
        FleetConfig(group=group, acquire_timeout_seconds=acquire_timeout_seconds),
        value=name,
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


def test_turns_follow_each_other_for_longer_than_patience_and_all_get_one(shared_consul: Consul) -> None:
    """Each reload takes two seconds; what one waits for the five before it is longer than its patience ever is."""
    waiting = [turn(shared_consul.url, "six", name=f"lb{number}", acquire_timeout_seconds=6) for number in range(6)]
    while waiting:
        wait_until(lambda: any(one.is_come.is_set() for one in waiting), 60, "a turn")
        come = [one for one in waiting if one.is_come.is_set()]
        assert len(come) == 1
        assert not come[0].waits_for, "it came by patience alone"
        time.sleep(2)
        come[0].give_back()
        waiting.remove(come[0])


def test_patience_begins_anew_while_turns_move_on_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    acquire_timeout = Waiting(60)
    assert 60 <= acquire_timeout.left_seconds <= 60 * (1 + SPREAD)
    acquire_timeout.held_by(frozenset({"a"}))
    now += 50
    left = acquire_timeout.left_seconds
    acquire_timeout.held_by(frozenset({"a"}))
    acquire_timeout.held_by(frozenset())
    acquire_timeout.held_by(frozenset({"a"}))
    assert acquire_timeout.left_seconds == left  # the same holder: nothing moves

    acquire_timeout.held_by(frozenset({"b"}))
    assert acquire_timeout.left_seconds >= 60
    for number in range(100):
        now += 30
        acquire_timeout.held_by(frozenset({str(number)}))
    assert acquire_timeout.is_over
    assert LONGEST * 60 < 100 * 30


def test_who_waits_for_the_same_slot_does_not_give_up_at_the_same_moment() -> None:
    assert len({round(Waiting(60).left_seconds) for _ in range(100)}) > 10


def test_who_waits_says_for_whom_and_goes_on_when_patience_ends(shared_consul: Consul) -> None:
    first = turn(shared_consul.url, "patience", name="lb1")
    assert first.is_come.wait(10)
    second = turn(shared_consul.url, "patience", name="lb2", acquire_timeout_seconds=1)

    assert second.is_come.wait(10)
    assert second.waits_for == "a reload permit of group patience held by lb1"
    first.give_back()


def test_without_consul_a_reload_is_made_when_patience_ends() -> None:
    alone = turn(f"http://127.0.0.1:{free_port()}", "away", acquire_timeout_seconds=0.5)

    assert alone.is_come.wait(10)
    assert "refuses the connection" in alone.waits_for
    assert not alone.is_lost


def test_a_turn_that_was_lost_says_so(shared_consul: Consul) -> None:
    permit = turn(shared_consul.url, "lost")
    assert permit.is_come.wait(10)

    shared_consul.request("DELETE", f"/v1/kv/{key_of('lost', 0)}")

    wait_until(lambda: permit.is_lost, 10, "the loss to be noticed")

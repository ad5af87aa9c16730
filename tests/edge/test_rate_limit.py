"""The budget on Consul is fair: by service, and services without instances last."""

import functools
import math
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.connection import Answer
from hapsync.consul.query import Query
from hapsync.consul.rate_limit import ALL_PER_SECOND, LAST_IN_WINDOW, Budget
from hapsync.consul.watch import Watches
from tests.harness.consul import Consul
from tests.harness.processes import wait_until


def taken(budget: Budget, wanted: Mapping[str, bool]) -> list[str]:
    """Have all of `wanted` (service: whether it is empty) ask once, in this order; return who may read."""
    return [who for who, is_last in wanted.items() if not budget.take_or_delay_seconds(who, is_last=is_last)]


def shows(watches: Watches, service: str, port: int) -> bool:
    return any(instance.address.port == port for instance in watches.catalog().readings[service].instances)


def test_services_without_instances_have_a_part_of_the_budget_only() -> None:
    budget = Budget()

    empty = taken(budget, {f"empty{number}": True for number in range(100)})
    full = taken(budget, {f"full{number}": False for number in range(100)})

    assert (len(empty), len(full)) == (LAST_IN_WINDOW, ALL_PER_SECOND - LAST_IN_WINDOW)


def test_where_all_is_used_up_the_service_that_was_read_longest_ago_is_next_and_empty_ones_are_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = Budget()
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 0.0)
    assert len(taken(budget, dict.fromkeys([f"s{number}" for number in range(ALL_PER_SECOND)], False))) == 50
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 1.0)
    waiting = {"empty": True, "s7": False, "new": False, "s3": False}
    assert taken(budget, waiting) == []

    delays = {who: budget.take_or_delay_seconds(who, is_last=is_last) for who, is_last in waiting.items()}
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 1.3)

    assert set(delays.values()) == {0.25}
    assert taken(budget, waiting) == list(waiting)


def test_who_waits_goes_before_whoever_asks_later_and_was_read_since(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget()
    for at in range(ALL_PER_SECOND):
        monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda at=at: at * 0.01)
        assert not budget.take_or_delay_seconds(f"s{at}")
    assert budget.take_or_delay_seconds("s1") == pytest.approx(1.25 - 0.49)
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 1.255)  # one may read

    assert budget.take_or_delay_seconds("s40") > 0
    assert budget.take_or_delay_seconds("empty", is_last=True) > 0
    assert not budget.take_or_delay_seconds("s1")


def test_who_leaves_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget()
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 0.0)
    for number in range(ALL_PER_SECOND):
        budget.take_or_delay_seconds(f"s{number}")
    gone = [f"gone{number}" for number in range(ALL_PER_SECOND)]
    for who in gone:
        assert budget.take_or_delay_seconds(who) == 1.25
    assert budget.take_or_delay_seconds("s0") == 1.25
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 1.3)
    assert budget.take_or_delay_seconds("s0") > 0

    for who in gone:
        budget.leave(who)

    assert not budget.take_or_delay_seconds("s0")


def test_a_hundred_services_without_instances_hold_up_none_of_those_that_have_some(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, full = [f"empty{number}" for number in range(100)], [f"full{number}" for number in range(5)]
    lock = threading.Lock()
    asked_at: dict[str, int] = {}
    reads: list[str] = []
    behind: list[int] = []
    opened, read = ConsulClient.open, ConsulClient.read_health

    def open_(agent: ConsulClient, timeout_seconds: float = math.inf) -> None:
        opened(agent, timeout_seconds)
        with lock:
            asked_at[threading.current_thread().name] = len(reads)

    def read_health(agent: ConsulClient, service: str, query: Query, max_servers: int | None = None) -> Answer:
        with lock:
            if service in full:
                behind.append(len(reads) - asked_at[threading.current_thread().name])
            reads.append(service)
        return read(agent, service, query, max_servers)

    with Consul(work) as consul:
        for service in full:
            consul.put(service, f"{service}-1", node="n1", address="10.0.0.1", port=1)
        watches = Watches(ConsulConfig(address=consul.url), lambda _: None)
        watches.follow([*empty, *full])
        try:
            wait_until(lambda: len(watches.catalog().readings) == 105, 30, "all of them")
            monkeypatch.setattr(ConsulClient, "open", open_)
            monkeypatch.setattr(ConsulClient, "read_health", read_health)
            for number in range(2, 22):
                service = full[number % len(full)]
                consul.put(f"other{number}", "o1", node="n1", address="10.0.0.1", port=1)
                consul.put(service, f"{service}-{number}", node="n1", address="10.0.0.1", port=number)
                consul.remove("n1", "o1")
                wait_until(functools.partial(shows, watches, service, number), 60, "the change")
        finally:
            watches.stop()

    assert len(behind) >= 10
    assert max(behind) <= LAST_IN_WINDOW

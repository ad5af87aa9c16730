"""Measure one strategy on a real cluster, with rising numbers of balancers: at rest, then with changes."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from attrs import field, frozen

from tests.harness.processes import short_folder, wait_until
from tests.lab.scale.catalog import change, load, service_name
from tests.lab.scale.cluster import FleetCluster
from tests.lab.scale.gauge import Gauge, Look
from tests.lab.scale.players import Tally
from tests.lab.scale.strategies import Playing, Strategy

Phase = Literal["rest", "changes"]
SETTLE_SECONDS = 1.5
WAKE_SECONDS = 10.0
STARTING_SECONDS = 60.0
HELD_FRACTION = 0.9
"""Some are just being asked again."""
AFTERWARDS_SECONDS = 0.5
"""After the last change, for those it woke to ask again."""


class MeasurementError(Exception):
    """What was played was not what was meant, so there are no figures."""


@frozen
class Plan:
    """How much is played: balancers, in rising numbers; services; agents; and for how long each is measured."""

    counts: Sequence[int]
    services: int
    agents: int
    seconds: float
    changes_per_second: float


@frozen
class Point:
    """What was measured with so many balancers; rates are over all servers, in a window of `seconds`.

    `cpu_seconds`, `leader_cpu_seconds`, `requests` (queries that servers answered or began to hold), `sent_bytes`,
    `received_bytes` (to and from the balancers' machines), `between_bytes` (servers' to each other), `answers` and
    `wakes` (as the players saw them) are sums over the window. `blocked`, `connections`, `goroutines` and
    `rss_bytes` are what is there at its end. `woken_seconds` is how long after each change the last was awake.
    """

    strategy: str
    phase: Phase
    balancers: int
    services: int
    seconds: float
    changes: int
    cpu_seconds: float
    leader_cpu_seconds: float
    requests: float
    sent_bytes: int
    received_bytes: int
    between_bytes: int
    blocked: float
    connections: int
    goroutines: float
    rss_bytes: int
    answers: int
    wakes: int
    woken_seconds: Sequence[float] = field(converter=tuple[float, ...], kw_only=True)
    agent_cpu_seconds: float
    agent_rss_bytes: int
    consul: str


def measure(name: str, strategy: Strategy, plan: Plan, phase: Phase) -> Iterator[Point]:
    """Play `plan` on a cluster of its own; a point for each number of balancers, as soon as it is measured.

    Every phase has a cluster of its own, for the garbage of changes would be taken for memory of those that wait.

    Raises MeasurementError when a player failed, fewer queries than meant are held, or a change woke too few.
    """
    services = [service_name(number) for number in range(plan.services)]
    tally, playing = Tally(), list[Playing]()
    with short_folder() as work, FleetCluster(work, plan.agents, is_streaming=strategy.is_streaming) as cluster:
        load(cluster.leader(), plan.services)
        gauge, version = Gauge(cluster), 1
        try:
            for count in plan.counts:
                playing += [strategy.play(cluster, number, services, tally) for number in range(len(playing), count)]
                _wait_until_begun(tally, strategy, count * plan.services)
                begin, before = gauge.begin(), (tally.answers, tally.wakes)
                woken: list[float] = []
                if phase == "rest":
                    time.sleep(plan.seconds)
                else:
                    woken = _change(cluster, plan, version, tally, count)
                    version += len(woken)
                end = gauge.end()
                if tally.errors:
                    raise MeasurementError(f"{name}, {count} balancers: {'; '.join(tally.errors)}")
                held, meant = sum(end.blocked), count * plan.services
                if strategy.watches and not strategy.is_streaming and held < HELD_FRACTION * meant:
                    raise MeasurementError(f"{name}, {count} balancers: {held:.0f} of {meant} queries are held")
                leader = cluster.servers.index(cluster.leader())
                yield Point(
                    strategy=name,
                    phase=phase,
                    balancers=count,
                    services=plan.services,
                    changes=len(woken),
                    woken_seconds=woken,
                    answers=tally.answers - before[0],
                    wakes=tally.wakes - before[1],
                    consul=cluster.version(),
                    **_between(begin, end, leader),
                )
        finally:
            for one in playing:
                one.stop()


def _wait_until_begun(tally: Tally, strategy: Strategy, count: int) -> None:
    """Until every service was seen once, and some time more; raises `TimeoutError`."""
    if strategy.watches:
        wait_until(lambda: tally.wakes >= count or tally.errors, STARTING_SECONDS, "all watches to have begun")
    time.sleep(SETTLE_SECONDS)


def _change(cluster: FleetCluster, plan: Plan, version: int, tally: Tally, balancers: int) -> list[float]:
    """Make changes, one at a time, each of another service; how long after each the last balancer was awake.

    Raises MeasurementError when one does not wake all of them.
    """
    leader, woken = cluster.leader(), list[float]()
    period_seconds = 1.0 / plan.changes_per_second
    due = time.monotonic()
    for number in range(round(plan.seconds * plan.changes_per_second)):
        time.sleep(max(0.0, due - time.monotonic()))
        expected, begun = tally.wakes + balancers, time.monotonic()
        change(leader, number % plan.services, version + number)
        try:
            wait_until(lambda: tally.wakes >= expected, WAKE_SECONDS, "a wake", interval_seconds=0.005)  # noqa: B023
        except TimeoutError as error:
            seen = tally.wakes - expected + balancers
            raise MeasurementError(f"a change woke {seen} of {balancers} balancers") from error
        woken.append(tally.woken_at - begun)
        due = max(due + period_seconds, begun + woken[-1])
    time.sleep(AFTERWARDS_SECONDS)
    return woken


def _between(begin: Look, end: Look, leader: int) -> dict[str, Any]:
    """What a point says of the time between two looks, by its attributes' names."""
    cpu = [after - before for before, after in zip(begin.cpu_seconds, end.cpu_seconds, strict=True)]
    return {
        "seconds": end.at_seconds - begin.at_seconds,
        "cpu_seconds": sum(cpu),
        "leader_cpu_seconds": cpu[leader],
        "requests": sum(end.queries) - sum(begin.queries),
        "sent_bytes": end.traffic.sent - begin.traffic.sent,
        "received_bytes": end.traffic.received - begin.traffic.received,
        "between_bytes": end.traffic.between - begin.traffic.between,
        "blocked": sum(end.blocked),
        "connections": end.connections,
        "goroutines": sum(end.goroutines),
        "rss_bytes": sum(end.rss_bytes),
        "agent_cpu_seconds": end.agent_cpu_seconds - begin.agent_cpu_seconds,
        "agent_rss_bytes": end.agent_rss_bytes,
    }

"""Laws of the model: what more of something does to the load, whatever a watcher costs."""

import pytest
from attrs import evolve
from hypothesis import given, strategies as st

from tests.lab.scale.model import Costs, Fleet, Habits, herd, load

RATES = st.floats(0, 10)
SMALL = st.floats(0, 1e6)
HABITS = st.builds(Habits, st.sampled_from([0.0, 1.0]), RATES, RATES, RATES, RATES, RATES)
COSTS = st.builds(Costs, *[SMALL] * 9, leader_fraction=st.floats(0, 1))
FLEETS = st.builds(Fleet, st.integers(1, 1000), st.integers(1, 500))
CHANGES = st.floats(0, 100)


@given(HABITS, COSTS, FLEETS, CHANGES, st.integers(2, 50))
def test_so_many_times_the_balancers_are_so_many_times_the_load_but_for_the_changes_themselves(
    habits: Habits, costs: Costs, fleet: Fleet, changes: float, times: int
) -> None:
    costs = evolve(costs, change_cpu_seconds=0.0)
    one = load(habits, costs, fleet, changes)
    many = load(habits, costs, evolve(fleet, balancers=fleet.balancers * times), changes)

    assert many.requests == pytest.approx(one.requests * times)
    assert many.bytes == pytest.approx(one.bytes * times)
    assert many.cores == pytest.approx(one.cores * times)
    assert many.blocked == one.blocked * times
    assert many.connections_per_balancer == one.connections_per_balancer


@given(HABITS, COSTS, FLEETS, CHANGES)
def test_changes_add_a_herd_each_and_hold_nothing(habits: Habits, costs: Costs, fleet: Fleet, changes: float) -> None:
    rest, busy = load(habits, costs, fleet), load(habits, costs, fleet, changes)
    one = herd(habits, costs, fleet)

    assert busy.bytes == pytest.approx(rest.bytes + changes * one.bytes)
    assert busy.cores == pytest.approx(rest.cores + changes * (one.cpu_seconds + costs.change_cpu_seconds))
    assert (busy.blocked, busy.memory_bytes, busy.connections) == (rest.blocked, rest.memory_bytes, rest.connections)


@given(HABITS, COSTS, FLEETS)
def test_a_change_wakes_each_balancer_that_watches_once_however_many_services_there_are(
    habits: Habits, costs: Costs, fleet: Fleet
) -> None:
    watching = evolve(habits, blocked_per_service=1.0)
    polling = evolve(habits, blocked_per_service=0.0)

    assert herd(watching, costs, fleet).answers == fleet.balancers
    assert herd(watching, costs, evolve(fleet, services=fleet.services + 1)) == herd(watching, costs, fleet)
    assert herd(polling, costs, fleet).answers == 0


@given(HABITS, COSTS, FLEETS, CHANGES)
def test_the_leader_has_a_third_of_the_work_at_least_and_never_more_than_all(
    habits: Habits, costs: Costs, fleet: Fleet, changes: float
) -> None:
    found = load(habits, costs, fleet, changes)

    assert found.cores / 3 * 0.999 <= found.leader_cores <= found.cores * 1.001


def test_a_hundred_balancers_that_read_fifty_services_and_two_lists_each_second_make_5200_reads_a_second() -> None:
    habits = Habits(0, 0, reads_per_service=1.0, reads=2.0, connections=1, connections_per_service=0)
    costs = Costs(
        9,
        9,
        9,
        read_cpu_seconds=0.001,
        read_bytes=20_000,
        wake_requests=9,
        wake_cpu_seconds=9,
        wake_bytes=9,
        change_cpu_seconds=0.0,
        leader_fraction=0.5,
    )
    found = load(habits, costs, Fleet(100, 50), changes_per_second=7)

    assert found.requests == pytest.approx(5_200)
    assert found.bytes == pytest.approx(104e6)
    assert found.cores == pytest.approx(5.2)
    assert found.leader_cores == pytest.approx(2.6)
    assert found.connections == 100
    assert found.blocked == 0


def test_two_balancers_that_watch_three_services_hold_six_queries_with_what_each_of_them_takes() -> None:
    habits = Habits(1.0, 0.5, 0, 0, connections=4, connections_per_service=1)
    costs = Costs(
        idle_cores=0.01,
        memory_bytes=1000,
        goroutines=2,
        read_cpu_seconds=0,
        read_bytes=10,
        wake_requests=3,
        wake_cpu_seconds=0.5,
        wake_bytes=100,
        change_cpu_seconds=0.25,
        leader_fraction=0,
    )
    found = load(habits, costs, Fleet(2, 3), changes_per_second=7)

    assert (found.blocked, found.memory_bytes, found.goroutines) == (6, 6000, 12)
    assert (found.connections_per_balancer, found.connections) == (7, 14)
    assert found.requests == 6 * 0.5 + 7 * 2 * 3
    assert found.bytes == 6 * 0.5 * 10 + 7 * 2 * 100
    assert found.cores == pytest.approx(6 * 0.01 + 7 * (2 * 0.5 + 0.25))

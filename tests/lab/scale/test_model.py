"""The model of two fleets, one that polls and one that watches, is what is counted by hand."""

import pytest

from tests.lab.scale.model import Costs, Fleet, Habits, load


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
    assert found.leader_cores == pytest.approx(found.cores / 3)  # of three servers, however little is told

"""From points to costs: lines say how good they are, and what is foretold was not among what they were made from."""

import pytest
from attrs import evolve

from tests.lab.scale.costs import all_costs, all_fits, checks_of, waiting, without_most
from tests.lab.scale.fit import fitted
from tests.lab.scale.measure import Phase, Point
from tests.lab.scale.model import Habits
from tests.lab.scale.strategies import CHECK, CHECK_NAME, MANY_NAME, STRATEGIES, played

SERVICES = 50
BASE_CORES, IDLE_CORES, WAKE_SECONDS, CHANGE_SECONDS, WAKE_BYTES = 0.02, 1e-6, 0.001, 0.003, 20_000
READ_SECONDS, READ_BYTES = 0.0008, 19_000


def watching(balancers: int, phase: Phase, name: str = "hapsync") -> Point:
    """A point of a cluster in which everything is a line."""
    seconds, held = 5.0, balancers * SERVICES
    changes = 40 if phase == "changes" else 0
    return Point(
        strategy=name,
        phase=phase,
        balancers=balancers,
        services=SERVICES,
        seconds=seconds,
        changes=changes,
        cpu_seconds=seconds * (BASE_CORES + IDLE_CORES * held)
        + changes * (CHANGE_SECONDS + WAKE_SECONDS * balancers),
        leader_cpu_seconds=0.01,
        requests=changes * balancers,
        sent_bytes=changes * balancers * WAKE_BYTES,
        received_bytes=0,
        between_bytes=0,
        blocked=held,
        connections=4,
        goroutines=300 + 2 * held,
        rss_bytes=200_000_000 + 60_000 * held,
        answers=0,
        wakes=changes * balancers,
        woken_seconds=[0.01, 0.01, 0.5] * changes,
        agent_cpu_seconds=0.1,
        agent_rss_bytes=200_000_000,
        consul="1.8.7",
    )


def polling(balancers: int, name: str = "cron") -> Point:
    reads = balancers * SERVICES * 5
    return evolve(
        watching(balancers, "rest", name),
        cpu_seconds=5 * BASE_CORES + reads * READ_SECONDS,
        leader_cpu_seconds=(5 * BASE_CORES + reads * READ_SECONDS) * 0.6,
        requests=reads,
        answers=reads,
        sent_bytes=reads * READ_BYTES,
    )


PHASES: tuple[Phase, ...] = ("rest", "changes")
POINTS = [
    *(
        watching(count, phase, name)
        for name in ("hapsync", "consul-template")
        for phase in PHASES
        for count in (1, 2, 4, 8)
    ),
    *(polling(count) for count in (1, 2, 4)),
    *(polling(count, "Data Plane API, 10 s") for count in (1, 2, 4)),
]


def test_a_line_says_what_it_misses_and_how_much_of_the_spread_it_explains() -> None:
    exact = fitted([(1, 5), (2, 7), (4, 11)])
    rough = fitted([(1, 5), (2, 9), (3, 7)])

    assert (exact.slope, exact.intercept) == pytest.approx((2, 3))
    assert exact.worst_residual == pytest.approx(0, abs=1e-9)
    assert exact.r_squared == pytest.approx(1)
    assert rough.residuals == pytest.approx((-1, 2, -1))
    assert rough.worst_residual == pytest.approx(2)
    assert rough.slope_error == pytest.approx(3**0.5)
    assert exact.is_told_from_noise
    assert not rough.is_told_from_noise
    assert rough.r_squared == pytest.approx(0.25)
    assert fitted([(1, 5), (2, 5)]).r_squared == 1


def test_costs_are_what_each_watcher_adds_apart_from_what_the_servers_do_anyway() -> None:
    cost = all_costs(POINTS)["hapsync"]

    assert cost.idle_cores == pytest.approx(IDLE_CORES)
    assert cost.wake_cpu_seconds == pytest.approx(WAKE_SECONDS)
    assert cost.change_cpu_seconds == pytest.approx(CHANGE_SECONDS)
    assert cost.wake_bytes == pytest.approx(WAKE_BYTES)
    assert cost.memory_bytes == pytest.approx(60_000)
    assert cost.goroutines == pytest.approx(2)
    assert cost.read_cpu_seconds == cost.wake_cpu_seconds


def test_a_poll_costs_what_each_of_its_answers_does() -> None:
    cost = all_costs(POINTS)

    assert cost["cron"].read_cpu_seconds == pytest.approx(READ_SECONDS)
    assert cost["cron"].read_bytes == pytest.approx(READ_BYTES)
    assert cost["cron"].leader_fraction == pytest.approx(1 / 3)
    assert cost["Data Plane API, 1 s"] == cost["Data Plane API, 10 s"]
    assert cost["Data Plane API, 1 s"].leader_fraction == pytest.approx(0.6)


def test_what_streams_pays_for_its_reads_what_others_read_for() -> None:
    streaming = [watching(count, phase, "hapsync, streaming") for phase in PHASES for count in (1, 2, 4, 8)]
    cost = all_costs([*POINTS, *streaming])["hapsync, streaming"]

    assert cost.read_cpu_seconds == pytest.approx(READ_SECONDS)
    assert cost.wake_cpu_seconds == pytest.approx(WAKE_SECONDS)
    assert "hapsync, streaming" not in all_costs(streaming)


def test_a_cost_below_nothing_is_noise() -> None:
    falling = [evolve(point, rss_bytes=10**9 - point.rss_bytes) for point in POINTS if point.strategy == "hapsync"]

    assert all_costs(falling)["hapsync"].memory_bytes == 0


def test_what_is_not_told_from_noise_costs_nothing_and_says_how_much_it_might() -> None:
    noise = {1: 0.004, 2: -0.003, 4: 0.002}
    noisy = [
        evolve(point, cpu_seconds=point.cpu_seconds + 5 * noise.get(point.balancers, 0.0))
        if point.strategy == "hapsync" and point.phase == "rest"
        else point
        for point in POINTS
    ]
    exact, rough = waiting(POINTS, is_streaming=False), waiting(noisy, is_streaming=False)

    assert exact is not None
    assert exact.slope == pytest.approx(IDLE_CORES)
    assert exact.is_told_from_noise
    assert rough is not None
    assert not rough.is_told_from_noise
    assert rough.slope_error > 1e-6
    assert all_costs(noisy)["hapsync"].idle_cores == 0
    assert waiting(POINTS, is_streaming=True) is None


def test_many_that_wait_are_among_the_points_that_tell_what_waiting_costs() -> None:
    dear = 5e-5
    many = evolve(watching(100, "rest", MANY_NAME), cpu_seconds=5 * (BASE_CORES + dear * 100 * SERVICES))
    found = waiting([*POINTS, many], is_streaming=False)

    assert found is not None
    assert found.slope == pytest.approx(dear, rel=0.1)
    assert MANY_NAME not in all_costs([*POINTS, many])


def test_no_line_knows_the_point_with_the_most_balancers() -> None:
    mine = [point for point in POINTS if point.strategy == "hapsync"]
    absurd = [evolve(point, cpu_seconds=1e9, sent_bytes=10**15) if point.balancers == 8 else point for point in mine]

    assert all_fits(absurd) == all_fits(mine)
    assert all_costs(absurd) == all_costs(mine)
    assert {point.balancers for point in without_most(mine)} == {1, 2, 4}
    two = [point for point in mine if point.balancers < 4]
    assert without_most(two) == two


def test_what_is_foretold_of_a_world_of_lines_is_right_and_of_another_world_wrong_by_as_much() -> None:
    def errors(points: list[Point]) -> dict[tuple[str, str, str], float]:
        return {(one.strategy, one.what, one.unit): one.error_fraction for one in checks_of(points)}

    right = errors(POINTS)
    doubled = [
        evolve(point, cpu_seconds=2 * point.cpu_seconds) if point.balancers == 8 else point for point in POINTS
    ]

    assert {name for name, _, _ in right} == {"hapsync", "consul-template", "cron", "Data Plane API, 10 s"}
    assert all(abs(error) < 1e-6 for (name, _, _), error in right.items() if "Plane" not in name)
    assert errors(doubled)["hapsync", "8 balancers, 8.0 changes/s", "cores"] == pytest.approx(-0.5)


def test_queries_that_end_by_themselves_are_foretold_from_what_changes_cost() -> None:
    returns = 10 * SERVICES * CHECK.habits.returns_per_service
    short = evolve(
        watching(10, "rest", CHECK_NAME),
        cpu_seconds=5 * (BASE_CORES + 10 * SERVICES * IDLE_CORES + returns * WAKE_SECONDS),
        requests=5 * returns,
        sent_bytes=round(5 * returns * WAKE_BYTES),
    )
    found = [one for one in checks_of([*POINTS, short]) if one.strategy == CHECK_NAME]

    assert {one.unit for one in found} >= {"cores", "requests/s", "bytes/s"}
    assert all(one.error_fraction == pytest.approx(0, abs=1e-3) for one in found)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_that_is_played_for_another_only_reads_at_another_rate(name: str) -> None:
    strategy = STRATEGIES[name]
    if strategy.is_same_as is not None:
        other = STRATEGIES[strategy.is_same_as]
        assert played(other) == played(strategy)
        assert strategy.play == other.play
    else:
        assert isinstance(played(strategy), Habits)

"""What one watcher costs, from measured points; and the model beside points it was not made from. Pure."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from tests.lab.scale.fit import Line, fitted
from tests.lab.scale.measure import Point
from tests.lab.scale.model import SERVERS, Costs, Fleet, Habits, load
from tests.lab.scale.strategies import CHECK, CHECK_NAME, MANY_NAME, PLAIN_READS, STRATEGIES, Strategy, played


@frozen
class Fits:
    """The lines of one strategy, without the point with the most balancers.

    Over what a balancer watches (balancers times services): `cores`, `memory_bytes`, `goroutines`, at rest. Over
    balancers, of one change: `wake_requests`, `wake_bytes`, and `wake_cpu_seconds` beyond what is there at rest. Over
    answers in a second: `read_cores` and `read_bytes`, of a strategy that polls. The other ones are None.
    `base_cores` is what the servers do with nobody watching.
    """

    leader_fraction: float
    base_cores: float
    cores: Line | None = None
    memory_bytes: Line | None = None
    goroutines: Line | None = None
    wake_requests: Line | None = None
    wake_bytes: Line | None = None
    wake_cpu_seconds: Line | None = None
    read_cores: Line | None = None
    read_bytes: Line | None = None

    def lines(self) -> Iterator[tuple[str, Line]]:
        """Those there are, by name."""
        for name in FITTED:
            if (line := getattr(self, name)) is not None:
                yield name, line


FITTED: Mapping[str, str] = {
    "cores": "cores at rest, by blocked query",
    "memory_bytes": "resident bytes, by blocked query",
    "goroutines": "goroutines, by blocked query",
    "wake_requests": "queries of a change, by balancer",
    "wake_bytes": "bytes sent for a change, by balancer",
    "wake_cpu_seconds": "CPU seconds of a change, by balancer",
    "read_cores": "cores, by read in a second",
    "read_bytes": "bytes sent in a second, by read in a second",
}


@frozen
class Check:
    """One figure of a measured point that no line was made from, beside what the model foretells; in its unit."""

    strategy: str
    what: str
    unit: str
    measured: float
    foretold: float

    @property
    def error_fraction(self) -> float:
        """How far off the model is, as a fraction of what was measured; above 0 it foretells too much."""
        return self.foretold / self.measured - 1.0 if self.measured else float(self.foretold != 0)


def waiting(points: Sequence[Point], *, is_streaming: bool) -> Line | None:
    """The line of cores over what is watched at rest, of all strategies together; None where none was played.

    A query that waits is the same to a server whoever asked it, and costs so little that one strategy's points alone
    do not tell it from noise.
    """
    rest = [
        (watched(point), point.cpu_seconds / point.seconds)
        for name, strategy in STRATEGIES.items()
        if strategy.watches and strategy.is_streaming == is_streaming
        for point in without_most([point for point in points if point.strategy == name])
        if point.phase == "rest"
    ]
    if not is_streaming:
        rest += [(watched(one), one.cpu_seconds / one.seconds) for one in points if one.strategy == MANY_NAME]
    return fitted(rest) if rest else None


def _idle_cores(line: Line | None) -> float:
    """What a watched service costs at rest, 0 where that is not told from noise."""
    return line.slope if line is not None and line.is_told_from_noise else 0.0


def fits_of(points: Sequence[Point], strategy: Strategy, idle_cores: float) -> Fits:
    """The lines of one strategy's `points`; `statistics.StatisticsError` where there are too few."""
    used = without_most(points)
    rest = [point for point in used if point.phase == "rest"]
    most = max(points, key=lambda point: (point.balancers, point.phase == "rest"))
    leader = most.leader_cpu_seconds / most.cpu_seconds if strategy.is_leader_bound else 1 / SERVERS
    if not strategy.watches:
        rate = [point.answers / point.seconds for point in rest]
        cores = fitted([(x, point.cpu_seconds / point.seconds) for x, point in zip(rate, rest, strict=True)])
        return Fits(
            leader,
            max(0.0, cores.intercept),
            read_cores=cores,
            read_bytes=fitted([(x, point.sent_bytes / point.seconds) for x, point in zip(rate, rest, strict=True)]),
        )
    base = statistics.fmean(point.cpu_seconds / point.seconds - idle_cores * watched(point) for point in rest)
    changed = [point for point in used if point.phase == "changes"]
    return Fits(
        leader,
        base,
        cores=fitted([(watched(point), point.cpu_seconds / point.seconds) for point in rest]),
        memory_bytes=fitted([(watched(point), point.rss_bytes) for point in rest]),
        goroutines=fitted([(watched(point), point.goroutines) for point in rest]),
        wake_requests=fitted([(point.balancers, point.requests / point.changes) for point in changed]),
        wake_bytes=fitted([(point.balancers, point.sent_bytes / point.changes) for point in changed]),
        wake_cpu_seconds=fitted(
            [(point.balancers, _cpu_of_a_change(point, base + idle_cores * watched(point))) for point in changed]
        ),
    )


def costs_of(fits: Fits, idle_cores: float, plain_reads: Fits | None) -> Costs:
    """What one watcher costs; a cost below 0 is noise and becomes 0.

    A blocking query that ends by itself is taken to cost what a wake-up does, for the servers do the same. With
    `plain_reads` reads cost what they do there.
    """
    reads = fits if plain_reads is None else plain_reads
    return Costs(
        idle_cores=idle_cores if fits.cores else 0.0,
        memory_bytes=_slope(fits.memory_bytes),
        goroutines=_slope(fits.goroutines),
        read_cpu_seconds=_slope(reads.read_cores or reads.wake_cpu_seconds),
        read_bytes=_slope(reads.read_bytes or reads.wake_bytes),
        wake_requests=_slope(fits.wake_requests),
        wake_cpu_seconds=_slope(fits.wake_cpu_seconds),
        wake_bytes=_slope(fits.wake_bytes),
        change_cpu_seconds=max(0.0, fits.wake_cpu_seconds.intercept) if fits.wake_cpu_seconds else 0.0,
        leader_fraction=fits.leader_fraction,
    )


def all_fits(points: Sequence[Point]) -> Mapping[str, Fits]:
    """The lines of each strategy that was played, in the order of `STRATEGIES`."""
    idle = {is_streaming: _idle_cores(waiting(points, is_streaming=is_streaming)) for is_streaming in (False, True)}
    return {
        name: fits_of(mine, strategy, idle[strategy.is_streaming])
        for name, strategy in STRATEGIES.items()
        if (mine := [point for point in points if point.strategy == name])
    }


def all_costs(points: Sequence[Point]) -> Mapping[str, Costs]:
    """What a watcher costs, by strategy, those included that another was played for.

    A strategy whose reads are not its wake-ups is left out where the one that is like its reads was not played.
    """
    fits, costs = all_fits(points), {}
    for name, strategy in STRATEGIES.items():
        like = strategy.is_same_as or name
        if like in fits and (not strategy.is_streaming or PLAIN_READS in fits):
            idle = _idle_cores(waiting(points, is_streaming=strategy.is_streaming))
            costs[name] = costs_of(fits[like], idle, fits[PLAIN_READS] if strategy.is_streaming else None)
    return costs


def checks_of(points: Sequence[Point]) -> Sequence[Check]:
    """The model beside each strategy's point with the most balancers, and beside queries that end by themselves."""
    found: list[Check] = []
    fits, costs = all_fits(points), all_costs(points)
    for name, strategy in STRATEGIES.items():
        mine = [point for point in points if point.strategy == name]
        if name in costs and mine:
            used = without_most(mine)
            for point in mine:
                if point not in used:
                    found += _beside(point, name, played(strategy), fits[name], costs[name])
    like = CHECK.is_same_as
    if like is not None and like in costs:
        for point in points:
            if point.strategy == CHECK_NAME:
                found += _beside(point, CHECK_NAME, CHECK.habits, fits[like], costs[like])
    return found


def without_most(points: Sequence[Point]) -> Sequence[Point]:
    """Without those with the most balancers, which the model is to foretell; all where there are only two numbers."""
    numbers = {point.balancers for point in points}
    return [point for point in points if point.balancers < max(numbers) or len(numbers) < 3]


def watched(point: Point) -> int:
    """Services times balancers: what is blocked, or subscribed to."""
    return point.balancers * point.services


def _beside(point: Point, name: str, habits: Habits, fits: Fits, costs: Costs) -> Iterator[Check]:
    rate = point.changes / point.seconds
    foretold = load(habits, costs, Fleet(point.balancers, point.services), rate)
    what = f"{point.balancers} balancers, " + (f"{rate:.1f} changes/s" if point.changes else "at rest")
    measured_cores = point.cpu_seconds / point.seconds
    # A loaded cluster has its own work; what is foretold is what the watchers add to it.
    yield Check(name, what, "cores", measured_cores, foretold.cores + fits.base_cores)
    if foretold.requests:
        yield Check(name, what, "requests/s", point.requests / point.seconds, foretold.requests)
    if foretold.bytes:
        yield Check(name, what, "bytes/s", point.sent_bytes / point.seconds, foretold.bytes)
    if not point.changes and fits.memory_bytes:
        memory = foretold.memory_bytes + fits.memory_bytes.intercept
        yield Check(name, what, "resident bytes", point.rss_bytes, memory)


def _cpu_of_a_change(point: Point, cores_at_rest: float) -> float:
    return (point.cpu_seconds - cores_at_rest * point.seconds) / point.changes


def _slope(line: Line | None) -> float:
    return max(0.0, line.slope) if line else 0.0


def median_woken_seconds(point: Point) -> float:
    """How long after a change the last balancer was awake, the median of all changes."""
    return statistics.median(point.woken_seconds)

"""Measured points as JSON lines; fits, checks and the model's tables as Markdown."""

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from tests.lab import lines
from tests.lab.scale.costs import FITTED, Check, Fits, all_costs, all_fits, checks_of, median_woken_seconds, waiting
from tests.lab.scale.measure import Point
from tests.lab.scale.model import Costs, Fleet, herd, load
from tests.lab.scale.strategies import STRATEGIES

SERVICES = 500
BALANCERS = (1, 10, 100, 1000)
CHANGES_PER_SECOND = (0.0, 1.0, 10.0)


@frozen
class Run:
    """What all points of a run have in common; `unavailable` are the strategies left out, and why."""

    command: str
    machine: str
    started: str
    hapsync: str
    agents: int
    instances: int
    unavailable: Mapping[str, str]


@frozen
class Record:
    """One line: a point, and the run it is of."""

    run: Run
    point: Point


def line(record: Record) -> str:
    return lines.line(record)


def parsed(text: str) -> list[Record]:
    """The records of lines; `LinesError` where a line is none."""
    return lines.parsed(text, Record)


def report(records: Sequence[Record]) -> str:
    """Everything, in Markdown: the model, what it stands on, the measured points. Needs a record at least."""
    points = [record.point for record in records]
    costs = all_costs(points)
    parts = (
        _model(costs),
        _herd(costs),
        _checks(checks_of(points)),
        _fits(all_fits(points), points),
        _words(records, costs),
        _points(points),
    )
    return "\n".join("\n".join((*part, "")) for part in parts)


def _model(costs: Mapping[str, Costs]) -> Iterator[str]:
    for rate in CHANGES_PER_SECOND:
        yield f"### {words_of(rate)}, {SERVICES} services"
        yield ""
        yield from _row("strategy", *(counted(number, "balancer") for number in BALANCERS))
        yield _rule(1 + len(BALANCERS))
        for name, cost in costs.items():
            yield from _row(name, *_loads(name, cost, rate))
        yield ""
    yield f"### What is held, {SERVICES} services"
    yield ""
    yield from _row("strategy", "connections of one balancer", *(counted(number, "balancer") for number in BALANCERS))
    yield _rule(2 + len(BALANCERS))
    for name, cost in costs.items():
        loads = [load(STRATEGIES[name].habits, cost, Fleet(number, SERVICES)) for number in BALANCERS]
        yield from _row(
            name,
            f"{loads[0].connections_per_balancer:,.0f}",
            *(f"{one.blocked:,.0f} watched, {sized(one.memory_bytes)}" for one in loads),
        )


def _loads(name: str, cost: Costs, changes_per_second: float) -> Iterator[str]:
    """The load of one strategy, for each number of balancers."""
    strategy = STRATEGIES[name]
    for number in BALANCERS:
        one = load(strategy.habits, cost, Fleet(number, SERVICES), changes_per_second)
        leader = f" (leader {amount(one.leader_cores)})" if strategy.is_leader_bound else ""
        yield f"{amount(one.requests)} req/s, {sized(one.bytes)}/s, {amount(one.cores)} cores{leader}"


def _herd(costs: Mapping[str, Costs]) -> Iterator[str]:
    yield "### The herd: one change of one service"
    yield ""
    yield from _row("strategy", *(counted(number, "balancer") for number in BALANCERS))
    yield _rule(1 + len(BALANCERS))
    for name, cost in costs.items():
        if not cost.wake_bytes:
            continue
        herds = [herd(STRATEGIES[name].habits, cost, Fleet(number, SERVICES)) for number in BALANCERS]
        yield from _row(
            name,
            *(
                f"{counted(round(one.answers), 'answer')}, {sized(one.bytes)}, {one.cpu_seconds * 1e3:,.1f} ms CPU"
                for one in herds
            ),
        )


def _checks(checks: Sequence[Check]) -> Iterator[str]:
    yield "### The model beside points it was not made from"
    yield ""
    yield from _row("strategy", "point", "what", "measured", "foretold", "off by")
    yield _rule(6)
    for one in checks:
        write = sized if "bytes" in one.unit else amount
        yield from _row(
            one.strategy, one.what, one.unit, write(one.measured), write(one.foretold), f"{one.error_fraction:+.0%}"
        )


def _fits(fits: Mapping[str, Fits], points: Sequence[Point]) -> Iterator[str]:
    yield "### Fitted lines"
    yield ""
    yield from _row("strategy", "what", "of each one", "with none", "R²", "worst residual")
    yield _rule(6)
    for name, mine in fits.items():
        for which, one in mine.lines():
            values = (f"{one.slope:.4g}", f"{one.intercept:.4g}", f"{one.r_squared:.3f}", f"{one.worst_residual:.3g}")
            yield from _row(name, FITTED[which], *values)
    for is_streaming, what in ((False, "A blocked query"), (True, "A subscription")):
        if (idle := waiting(points, is_streaming=is_streaming)) is not None:
            most = max(0.0, idle.slope + 2 * idle.slope_error)
            told = "more than noise" if idle.is_told_from_noise else "not told from noise, and so 0 in the model"
            yield ""
            yield f"{what} that waits costs {idle.slope:.2g} ± {2 * idle.slope_error:.2g} cores (all strategies"
            yield f"together), {told}; {1000 * SERVICES:,} of them at most {amount(most * 1000 * SERVICES)} cores."


def _points(points: Sequence[Point]) -> Iterator[str]:
    yield "### Measured"
    yield ""
    yield from _row(
        *(
            "strategy",
            "phase",
            "balancers",
            "cores",
            "leader's",
            "requests/s",
            "sent/s",
            "got/s",
            "server to server/s",
        ),
        *(
            "held",
            "connections",
            "goroutines",
            "memory",
            "a change: last awake, ms",
            "agents' cores",
            "agents' memory",
        ),
    )
    yield _rule(16)
    for one in points:
        woken = (
            f"{median_woken_seconds(one) * 1e3:.0f}, max {max(one.woken_seconds) * 1e3:.0f}" if one.changes else "-"
        )
        yield from _row(
            one.strategy,
            f"{one.changes / one.seconds:.1f} changes/s" if one.changes else "rest",
            str(one.balancers),
            f"{one.cpu_seconds / one.seconds:.3f}",
            f"{one.leader_cpu_seconds / one.seconds:.3f}",
            f"{one.requests / one.seconds:.1f}",
            sized(one.sent_bytes / one.seconds),
            sized(one.received_bytes / one.seconds),
            sized(one.between_bytes / one.seconds),
            f"{one.blocked:.0f}",
            str(one.connections),
            f"{one.goroutines:.0f}",
            sized(one.rss_bytes),
            woken,
            f"{one.agent_cpu_seconds / one.seconds:.3f}",
            sized(one.agent_rss_bytes),
        )


def _words(records: Sequence[Record], costs: Mapping[str, Costs]) -> Iterator[str]:
    """What the strategies are, and of each run the machine, the versions and the command."""
    for name in costs:
        yield f"- *{name}*: {STRATEGIES[name].describe}"
    runs = list({record.run.started: record.run for record in records}.values())
    for run in runs:
        for name, why in run.unavailable.items():
            if name not in costs:  # another run may have had it
                yield f"- *{name}* is left out: {why}"
    for run in runs:
        mine = [record.point for record in records if record.run == run]
        versions = ", ".join(sorted({point.consul for point in mine}))
        services = ", ".join(sorted({f"{point.services}" for point in mine}))
        yield ""
        yield f"Measured {run.started} by `{run.command}` on {run.machine}; hapsync {run.hapsync}, Consul {versions};"
        yield f"3 servers and {run.agents} client agents on loopback, {services} services of {run.instances}"
        yield "instances."


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|---" * columns + "|"


def words_of(changes_per_second: float) -> str:
    return f"{counted(round(changes_per_second), 'change')} a second" if changes_per_second else "At rest"


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def amount(value: float) -> str:
    """A number with three digits that count, and without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or not value else f"{value:.5f}"


def sized(count: float) -> str:
    """A number of bytes in words."""
    for unit in ("B", "KB", "MB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:,.3g} GB" if count < 1000 else f"{count:,.0f} GB"

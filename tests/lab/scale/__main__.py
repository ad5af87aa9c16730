"""Measure what each strategy costs a real Consul cluster, and compute from it what a fleet would cost."""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hapsync
from tests.harness.tools import ROOT
from tests.lab.__main__ import machine
from tests.lab.lines import LinesError, read
from tests.lab.scale.catalog import INSTANCES
from tests.lab.scale.costs import all_costs
from tests.lab.scale.measure import Phase, Plan, measure
from tests.lab.scale.plot import plot
from tests.lab.scale.report import Record, Run, line, report
from tests.lab.scale.strategies import CHECK, CHECK_NAME, MANY, MANY_NAME, STRATEGIES, Strategy
from tests.lab.scale.streaming import NoStreamingError, consul_of, streaming_consul

OUT = ROOT / "build" / "lab-scale"
WATCHING, POLLING, CHECKED, MANY_WAITING = (1, 4, 8, 16, 32), (1, 2, 4, 8), (4, 16), (4, 80)
"""How many balancers are played: that hold queries, that poll, to check the model, and to tell what idling costs."""
BESIDE_TIMES = 3
"""What is played beside the strategies is measured so many times as long: idling costs little, and queries that were
begun together end together, so that a short window has one return too many."""
PLAYED = {
    **{name: one for name, one in STRATEGIES.items() if one.is_same_as is None},
    CHECK_NAME: CHECK,
    MANY_NAME: MANY,
}


def main() -> int:
    usage = "%(prog)s [--help] [options]"
    parser = argparse.ArgumentParser(prog="python -m tests.lab.scale", usage=usage, description=__doc__)
    parser.add_argument("--strategies", nargs="+", choices=PLAYED, default=tuple(PLAYED), metavar="NAME")
    parser.add_argument("--services", type=int, default=50, help="each of 20 instances")
    parser.add_argument("--agents", type=int, default=4, help="client agents, which share the balancers")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each number of balancers is measured")
    parser.add_argument("--changes", type=float, default=10.0, metavar="RATE", help="changes a second")
    parser.add_argument("--add", action="store_true", help="add to the points that are there, of other strategies")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="FOLDER", help="where points.jsonl and the report go"
    )
    parser.add_argument("--report", action="store_true", help="only make the report, of the points that are there")
    asked = parser.parse_args()
    if min(asked.services, asked.agents, asked.seconds, asked.changes) <= 0:
        parser.error("--services, --agents, --seconds and --changes must be above 0")
    asked.out.mkdir(parents=True, exist_ok=True)
    lines: Path = asked.out / "points.jsonl"
    if not asked.report:
        play(
            {name: PLAYED[name] for name in asked.strategies},
            lines,
            services=asked.services,
            agents=asked.agents,
            seconds=asked.seconds,
            changes_per_second=asked.changes,
            is_added=asked.add,
        )
    try:
        records = read(lines, Record)
    except LinesError as error:
        parser.error(str(error))
    text = report(records)
    (asked.out / "report.md").write_text(text, encoding="utf-8")
    costs = all_costs([record.point for record in records])
    (asked.out / "report.svg").write_text(plot(costs), encoding="utf-8")
    print(f"\n{text}\nwritten to {asked.out}: points.jsonl, report.md, report.svg")
    return 0


def play(
    strategies: dict[str, Strategy],
    lines: Path,
    *,
    services: int,
    agents: int,
    seconds: float,
    changes_per_second: float,
    is_added: bool,
) -> None:
    """Measure each strategy; every point is a line of the file as soon as it is known."""
    unavailable = {}
    if any(one.is_streaming for one in strategies.values()):
        try:
            streaming_consul()
        except NoStreamingError as error:
            unavailable = {name: str(error) for name, one in strategies.items() if one.is_streaming}
    run = Run(
        command=shlex.join(["python", "-m", "tests.lab.scale", *sys.argv[1:]]),
        machine=machine(),
        started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        hapsync=hapsync.__version__,
        agents=agents,
        instances=INSTANCES,
        unavailable=unavailable,
    )
    with lines.open("a" if is_added else "w", encoding="utf-8") as file:
        for name, strategy in strategies.items():
            if name in unavailable:
                print(f"{name} is left out: {unavailable[name]}", flush=True)
                continue
            for phase in phases(strategy):
                window = seconds * (1 if strategy in STRATEGIES.values() else BESIDE_TIMES)
                plan = Plan(counts(strategy), services, agents, window, changes_per_second)
                with consul_of(is_streaming=strategy.is_streaming):
                    for point in measure(name, strategy, plan, phase):
                        print(line(Record(run, point)), file=file, flush=True)
                        cores = point.cpu_seconds / point.seconds
                        print(f"{name}, {phase}, {point.balancers} balancers: {cores:.3f} cores", flush=True)


def phases(strategy: Strategy) -> Sequence[Phase]:
    """Changes move nobody who polls, and what is played beside the strategies is about those at rest."""
    return ("rest", "changes") if strategy.watches and strategy in STRATEGIES.values() else ("rest",)


def counts(strategy: Strategy) -> Sequence[int]:
    if strategy is CHECK:
        return CHECKED
    if strategy is MANY:
        return MANY_WAITING
    return WATCHING if strategy.watches else POLLING


if __name__ == "__main__":
    sys.exit(main())

"""Our figures beside the floor's, their ratio, and the aim."""

import math
import statistics
from collections.abc import Sequence

from attrs import frozen


@frozen
class Spread:
    """What many measurements of one thing come to, in seconds; of fewer than 100 `p99` is the largest."""

    count: int
    least: float
    median: float
    p99: float


def spread(seconds: Sequence[float]) -> Spread:
    ranked = sorted(seconds)
    return Spread(len(ranked), ranked[0], statistics.median(ranked), ranked[math.ceil(0.99 * len(ranked)) - 1])


def title(text: str) -> None:
    print(text, flush=True)


def print_spreads(ours: Sequence[float], floor: Sequence[float], *, aim_median: float, aim_p99: float | None) -> None:
    """Print both in milliseconds, and how they stand to each other."""
    we, they = spread(ours), spread(floor)
    last = "p99" if we.count >= 100 else "max"
    print(f"{'':14}{'n':>5}{'min':>10}{'median':>10}{last:>10}")
    for name, one in (("hapsync", we), ("floor", they)):
        cells = "".join(f"{1000 * value:>10.2f}" for value in (one.least, one.median, one.p99))
        print(f"  {name:12}{one.count:>5}{cells}  ms")
    median, p99 = we.median / they.median, we.p99 / they.p99
    print(f"  {'ratio':12}{'':5}{we.least / they.least:>10.2f}{median:>10.2f}{p99:>10.2f}")
    print(f"  {'aim':12}{'':5}{'':10}{_aim(aim_median):>10}{_aim(aim_p99):>10}", end="")
    is_met = median <= aim_median and (aim_p99 is None or p99 <= aim_p99)
    print(f"  {_met(is_met)}", flush=True)


def print_against(what: str, ours: float, floor: float, *, unit: str, aim: float) -> None:
    """Print two figures where the aim is set for ours alone."""
    ratio = f"{ours / floor:.2f}" if floor else "-"
    print(
        f"  {what:30}{ours:>10.2f} {unit}   floor {floor:.2f} {unit}   ratio {ratio}   "
        f"aim {_aim(aim)} {unit}  {_met(ours <= aim)}",
        flush=True,
    )


def note(text: str) -> None:
    print(f"  {text}", flush=True)


def _aim(limit: float | None) -> str:
    return "" if limit is None else f"<= {limit:g}"


def _met(is_met: bool) -> str:  # noqa: FBT001
    return "met" if is_met else "MISSED"

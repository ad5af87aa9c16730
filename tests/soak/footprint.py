"""What a process holds, over time, and whether it grows."""

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from tests.harness.looks import Looks
from tests.harness.procfs import resident_mb, status

WARM_UP_FRACTION = 0.2
"""A part of the whole time in which memory may grow as it likes: caches fill, the allocator settles."""
MOST_GROWTH_FRACTION = 0.05
MOST_GROWTH_MB = 2.0


@frozen
class Footprint:
    """A process at one moment; `at` is in seconds of the monotonic clock."""

    at: float
    memory_mb: float
    threads: int
    descriptors: int

    def __str__(self) -> str:
        return f"{self.memory_mb:.1f} MB, {self.threads} threads, {self.descriptors} descriptors"


def footprint(pid: int) -> Footprint:
    """Look at a process; `OSError` when it is not there."""
    return Footprint(
        time.monotonic(), resident_mb(pid), int(status(pid)["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir()))
    )


class Samples(Looks):
    """Looks at a process every few seconds."""

    every_seconds = 2.0

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.all: list[Footprint] = []
        self._pid = pid

    def note(self) -> None:
        with suppress(OSError):
            self.all.append(footprint(self._pid))


def at_rest(pid: int) -> Footprint:
    """Look at a process with nothing to do: of a second's looks, the numbers that were seen most often."""
    looks = []
    for _ in range(20):
        looks.append(footprint(pid))
        time.sleep(0.05)
    return Footprint(
        looks[-1].at,
        statistics.median(one.memory_mb for one in looks),
        statistics.mode(one.threads for one in looks),
        statistics.mode(one.descriptors for one in looks),
    )


def after_warm_up(samples: Sequence[Footprint]) -> Sequence[Footprint]:
    begin = samples[0].at + WARM_UP_FRACTION * (samples[-1].at - samples[0].at)
    return [one for one in samples if one.at >= begin]


def slope_kb_per_minute(samples: Sequence[Footprint]) -> float:
    """How memory grows, by a straight line through all of them."""
    line = statistics.linear_regression([one.at for one in samples], [one.memory_mb for one in samples])
    return line.slope * 1024 * 60


def grown_mb(samples: Sequence[Footprint]) -> tuple[float, bool]:
    """How much more memory there is in the last fifth than in the first, by their medians; and whether it is a leak.

    A few percent are the allocator's, and a small process has pages that come late: a leak is more than both.
    """
    fifth = max(1, len(samples) // 5)
    first = statistics.median(one.memory_mb for one in samples[:fifth])
    last = statistics.median(one.memory_mb for one in samples[-fifth:])
    grown = last - first
    return grown, grown > MOST_GROWTH_MB and grown > MOST_GROWTH_FRACTION * first


def unequal(rests: Sequence[Footprint]) -> list[str]:
    """What was not always the same with nothing to do."""
    return [
        f"{what} at rest: {', '.join(map(str, counts))}"
        for what, counts in (
            ("threads", [one.threads for one in rests]),
            ("descriptors", [one.descriptors for one in rests]),
        )
        if len(set(counts)) > 1
    ]

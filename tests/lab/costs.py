"""What a way takes of the machine: its processes' CPU time and memory, and HAProxy's workers, counted from beside.

CPU time is of /proc/PID/stat: of each process that runs its own, and that of the children it has waited for. So
what comes and goes (`haproxy -c`) counts, once, as soon as its parent has waited for it. Memory is the proportional
set size of /proc/PID/smaps_rollup, in which pages that processes share are divided among them.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from tests.harness.looks import Looks
from tests.harness.procfs import TICKS_PER_SECOND, stat

MEMORY_EVERY = 3
"""Counts from one sum of the memory to the next: it takes the kernel longer."""

Pids = Callable[[], frozenset[int]]


@frozen
class Costs:
    """What it took, from `begin` to `stop`."""

    tool_cpu_seconds: float
    tool_peak_bytes: int
    workers_peak_bytes: int
    """Of all workers together, those that are stopping as well."""
    workers_peak: int
    workers_replaced: int
    """Those that were not there when it began."""
    workers_end: int


class Counter(Looks):
    """Counts from `__enter__` on until `stop`."""

    every_seconds = 0.1

    def __init__(self, workers: Pids, tools: Pids) -> None:
        super().__init__()
        self._workers, self._tools = workers, tools
        self._number = 0
        self._first = self._seen = workers()
        self._peak = len(self._first)
        self._tool_bytes = self._worker_bytes = 0
        self._cpu_before = cpu_seconds(tools())

    def stop(self) -> Costs:
        """Count no more; what it took."""
        self.end()
        return Costs(
            tool_cpu_seconds=round(max(cpu_seconds(self._tools()) - self._cpu_before, 0.0), 3),
            tool_peak_bytes=self._tool_bytes,
            workers_peak_bytes=self._worker_bytes,
            workers_peak=self._peak,
            workers_replaced=len(self._seen - self._first),
            workers_end=len(self._workers()),
        )

    def note(self) -> None:
        workers = self._workers()
        self._peak = max(self._peak, len(workers))
        self._seen |= workers
        if self._number % MEMORY_EVERY == 0:
            self._worker_bytes = max(self._worker_bytes, memory_bytes(workers))
            self._tool_bytes = max(self._tool_bytes, memory_bytes(self._tools()))
        self._number += 1


def cpu_seconds(pids: Collection[int]) -> float:
    """What they have used, and what the children that they have waited for had; an ended one adds nothing."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            ticks += sum(map(int, stat(pid)[11:15]))
    return ticks / TICKS_PER_SECOND


def memory_bytes(pids: Collection[int]) -> int:
    """The memory they hold together; an ended one adds nothing."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total

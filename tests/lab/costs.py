"""What a way takes of the machine: its processes' CPU time and memory, and HAProxy's workers, counted from beside.

CPU time is of /proc/PID/stat: of each process that runs its own, and that of the children it has waited for. So
what comes and goes (`haproxy -c`) counts, once, as soon as its parent has waited for it. Memory is the proportional
set size of /proc/PID/smaps_rollup, in which pages that processes share are divided among them.
"""

import os
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

SAMPLE_SECONDS = 0.1
"""From one count of the processes to the next."""
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


class Counter:
    """Counts from `__enter__` on, in a thread of its own, until `stop`."""

    def __init__(self, workers: Pids, tools: Pids) -> None:
        self._workers, self._tools = workers, tools
        self._first = self._seen = workers()
        self._peak = len(self._first)
        self._tool_bytes = self._worker_bytes = 0
        self._cpu_before = cpu_seconds(tools())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def stop(self) -> Costs:
        """Count no more; what it took."""
        self._ending.set()
        self._thread.join()
        return Costs(
            tool_cpu_seconds=round(max(cpu_seconds(self._tools()) - self._cpu_before, 0.0), 3),
            tool_peak_bytes=self._tool_bytes,
            workers_peak_bytes=self._worker_bytes,
            workers_peak=self._peak,
            workers_replaced=len(self._seen - self._first),
            workers_end=len(self._workers()),
        )

    def _count(self) -> None:
        number = 0
        while True:
            workers = self._workers()
            self._peak = max(self._peak, len(workers))
            self._seen |= workers
            if number % MEMORY_EVERY == 0:
                self._worker_bytes = max(self._worker_bytes, memory_bytes(workers))
                self._tool_bytes = max(self._tool_bytes, memory_bytes(self._tools()))
            number += 1
            if self._ending.wait(SAMPLE_SECONDS):
                return


def cpu_seconds(pids: Collection[int]) -> float:
    """What they have used, and what the children that they have waited for had; an ended one adds nothing."""
    ticks = 0
    for pid in pids:
        with suppress(OSError, ValueError):
            # After "pid (name) ", where a name may hold anything, the fields from the third on: see proc(5).
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(pids: Collection[int]) -> int:
    """The memory they hold together; an ended one adds nothing."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total

"""Plays the cells one after the other, writes a JSON line for each, and makes the report of them."""

import json
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cattrs
from attrs import asdict

import hapsync
from tests.harness.tools import ToolMissingError, consul_path
from tests.lab.cell import LEAST_INTERVALS, Measured, Order, play
from tests.lab.client import Traffic
from tests.lab.events import EVENTS
from tests.lab.lines import LinesError
from tests.lab.network import NetworkError, open_network
from tests.lab.options import options
from tests.lab.overview import broken
from tests.lab.report import Cell, Run, line, read, written
from tests.lab.tables import delays
from tests.lab.traffic.sent import DEFAULT, QUICK
from tests.lab.ways import WAYS, UnavailableError, Way
from tests.matrix.cell import keep_orphans, played

QUICK_WAYS = ("restart", "seamless reload", "hapsync, slots", "hapsync, dynamic")
QUICK_EVENTS = ("deploy",)
CELL_SECONDS = 120.0
"""How long a cell may take, beside what it waits for ways that go by the clock."""


def main() -> int:
    asked = options(sys.argv[1:], WAYS)
    if asked.play is not None:
        return play_here(cattrs.structure(json.loads(asked.play), Order))
    begun = time.monotonic()
    cells: list[Cell] = []
    cells_path: Path = asked.out / "cells.jsonl"
    stop_on_signals()
    try:
        if asked.report is not None:
            cells = [cell for file in asked.report for cell in read(file)]
        else:
            for cell in run(
                asked.ways or (QUICK_WAYS if asked.quick else tuple(WAYS)),
                asked.traffic or (QUICK if asked.quick else DEFAULT),
                asked.events or (QUICK_EVENTS if asked.quick else tuple(EVENTS)),
                asked.interval,
                asked.rate,
                asked.consul_servers,
                cells_path,
            ):
                cells.append(cell)
        report = written(cells, asked.out)
    except (LinesError, NetworkError, ToolMissingError) as error:
        return said(str(error), 2)
    except OSError as error:
        return said(f"{error}; what was measured is in {cells_path}, for --report", 2)
    except StoppedError as stopped:
        return said(f"stopped by {stopped}; {counted(cells)} in {cells_path}, for --report", stopped.code)
    print(f"\n{report}\nwritten to {asked.out}, in {time.monotonic() - begun:.0f} s in all")
    return 1 if any(cell.error for cell in cells) or not cells or broken([cell.row for cell in cells]) else 0


class StoppedError(BaseException):
    """A signal that asks to stop; all that the lab made is removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def stop_on_signals() -> None:
    """From now on these signals raise `StoppedError`, but in what is forked from this process."""
    mine = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() == mine:
            raise StoppedError(number)
        signal.signal(number, signal.SIG_DFL)  # pyroute2 forks, and ends its children by SIGTERM
        signal.raise_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)


def said(problem: str, code: int) -> int:
    """Say what went wrong, and return `code`."""
    print(f"python -m tests.lab: {problem}", file=sys.stderr)
    return code


def counted(cells: Sequence[Cell]) -> str:
    return "1 cell is" if len(cells) == 1 else f"{len(cells)} cells are"


def run(
    ways: Sequence[str],
    traffic: Sequence[Traffic],
    events: Sequence[str],
    interval: float,
    rate: float,
    consul_servers: int,
    lines: Path,
) -> Iterator[Cell]:
    """Play every way through every event, under all the traffic; each cell is a line of the file once it is over.

    Raises `NetworkError`, and `ToolMissingError` without HAProxy or Consul.
    """
    consul_path()  # what every cell needs is missed at once
    programs: dict[str, str] = {}
    unavailable: dict[str, str] = {}
    for name in ways:
        try:
            programs[name] = WAYS[name].program()
        except UnavailableError as error:
            unavailable[name] = str(error)
            print(f"{name} is left out: {error}", flush=True)
    about = Run(
        command=shlex.join(["python", "-m", "tests.lab", *sys.argv[1:]]),
        machine=machine(),
        started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        hapsync=hapsync.__version__,
        interval_seconds=interval,
        rate_fraction=rate,
        ways={name: described(WAYS[name], interval) for name in programs},
        unavailable=unavailable,
    )
    keep_orphans()
    with open_network() as network, lines.open("w", encoding="utf-8") as file:
        for event in events:
            for name, program in programs.items():
                order = Order(name, traffic, event, interval, program, network, random.random(), consul_servers, rate)
                told = play_there(order)
                cell = cell_of(name, event, about, told)
                print(line(cell), file=file, flush=True)
                print(f"{name}, {event}: {words(cell)}", flush=True)
                yield cell


def described(way: type[Way], interval: float) -> str:
    """What it does, and which traffic it cannot carry."""
    return "; ".join(
        (way.describe(interval), *(f"without the traffic {kind}: {why}" for kind, why in way.left_out.items()))
    )


def play_there(order: Order) -> Mapping[str, object]:
    """Have a process of its own play it on the lab's own machine in the network; what it told, or an "error"."""
    command = order.network.control.command(
        sys.executable, "-m", "tests.lab", "--play", json.dumps(cattrs.unstructure(order))
    )
    return played(command, os.environ, CELL_SECONDS + (LEAST_INTERVALS + 1) * order.interval_seconds)


def play_here(order: Order) -> int:
    """Play it in this process, and print what was measured, as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of a terminal: who asked for it says so
    try:
        told = asdict(play(order))
    except Exception:  # noqa: BLE001  # whatever went wrong is what the cell says
        print(json.dumps({"error": traceback.format_exc()}))
        return 1
    print(json.dumps(told))
    return 0


def cell_of(way: str, event: str, about: Run, told: Mapping[str, object]) -> Cell:
    if "error" in told:
        return Cell(way, event, about, None, str(told["error"]))
    return Cell(way, event, about, cattrs.structure(told, Measured))


def words(cell: Cell) -> str:
    """A cell in a few words, for who waits."""
    if cell.measured is None:
        return f"WENT WRONG\n{cell.error}"
    row = cell.row
    failed = ", ".join(f"{kind} {one.failed}" for kind, one in cell.measured.accounts.items() if one.failed)
    return (
        f"{row.failed} of {row.requests:,} failed{f' ({failed})' if failed else ''}; "
        f"live {delays(cell.measured.live)}; gone {delays(cell.measured.gone)}; {cell.measured.whole_seconds:.0f} s"
    )


def machine() -> str:
    """What it is measured on, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    emulated = " emulated by software" if is_emulated() else ""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}){emulated}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} before"
    )


def is_emulated() -> bool:
    """Whether it is a virtual one whose processor is emulated by QEMU (TCG), so far as systemd can tell."""
    try:
        told = subprocess.run(("systemd-detect-virt", "--vm"), capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return False
    # With KVM it says "kvm" (systemd-detect-virt(1)).
    return told.strip() == "qemu"


if __name__ == "__main__":
    sys.exit(main())

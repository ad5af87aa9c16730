"""Plays the cells one after the other, writes a JSON line for each, and makes the report of them."""

import argparse
import json
import os
import platform
import random
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import cattrs
from attrs import asdict

import hapsync
from tests.harness.tools import ROOT
from tests.lab.cell import Measured, Order, play
from tests.lab.client import TRAFFIC, Traffic
from tests.lab.events import EVENTS
from tests.lab.network import CONSUL_SERVERS, open_network
from tests.lab.overview import broken
from tests.lab.report import Cell, Run, line, parsed, placed, written
from tests.lab.tables import delays
from tests.lab.traffic.sent import DEFAULT, QUICK
from tests.lab.ways import WAYS, UnavailableError, Way
from tests.matrix.cell import keep_orphans, played

OUT = ROOT / "build" / "lab"
INTERVAL_SECONDS = 3.0
"""A policy of a minute, compressed 20 times."""
QUICK_WAYS = ("restart", "seamless reload", "hapsync, slots", "hapsync, dynamic")
QUICK_EVENTS = ("deploy",)
CELL_SECONDS = 120.0


def main() -> int:
    asked = parser().parse_args()
    if asked.play is not None:
        return play_here(cattrs.structure(json.loads(asked.play), Order))
    begun = time.monotonic()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.report is not None:
        cells = [cell for file in asked.report for cell in parsed(file.read_text(encoding="utf-8"))]
    else:
        cells = run(
            asked.ways or (QUICK_WAYS if asked.quick else tuple(WAYS)),
            asked.traffic or (QUICK if asked.quick else DEFAULT),
            asked.events or (QUICK_EVENTS if asked.quick else tuple(EVENTS)),
            asked.interval or INTERVAL_SECONDS,
            asked.rate,
            asked.consul_servers,
            asked.out / "cells.jsonl",
        )
    report = written(cells, asked.out, "")
    (asked.out / "report.md").write_text(report, encoding="utf-8")
    if asked.document is not None:
        put_into(asked.document, cells)
    print(f"\n{report}\nwritten to {asked.out}, in {time.monotonic() - begun:.0f} s in all")
    return 1 if any(cell.error for cell in cells) or not cells or broken([cell.row for cell in cells]) else 0


def parser() -> argparse.ArgumentParser:
    """Of the program's arguments."""
    made = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    made.add_argument("--quick", action="store_true", help="few ways and one event, in under three minutes")
    made.add_argument("--ways", nargs="+", choices=WAYS)
    made.add_argument("--traffic", nargs="+", choices=TRAFFIC)
    made.add_argument("--events", nargs="+", choices=EVENTS)
    made.add_argument("--interval", type=float, metavar="SECONDS", help="how often ways that go by the clock act")
    made.add_argument(
        "--rate",
        type=fraction,
        default=1.0,
        metavar="FRACTION",
        help="how much traffic, of the usual clients and requests of each kind, for a machine that is slow",
    )
    made.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="where cells.jsonl and the report go")
    made.add_argument(
        "--consul-servers",
        type=int,
        default=1,
        choices=range(1, CONSUL_SERVERS + 1),
        help="how many, unless the event needs more",
    )
    made.add_argument(
        "--report", type=Path, nargs="+", metavar="FILE", help="only make the report, of the cells in these files"
    )
    made.add_argument(
        "--document",
        type=Path,
        metavar="FILE",
        help="put the report into it, between its markers, and plots beside it",
    )
    made.add_argument("--play", metavar="ORDER", help=argparse.SUPPRESS)
    return made


def fraction(text: str) -> float:
    """Above 0, and 1 at most; `ArgumentTypeError`."""
    with suppress(ValueError):
        if 0 < (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not above 0, and 1 at most")


def put_into(document: Path, cells: Sequence[Cell]) -> None:
    """Put the report into a document, and its plots into a folder beside it that has its name; `DocumentError`."""
    pictures = document.with_suffix("")
    report = written(cells, pictures, f"{pictures.name}/")
    document.write_text(placed(document.read_text(encoding="utf-8"), report), encoding="utf-8")


def run(
    ways: Sequence[str],
    traffic: Sequence[Traffic],
    events: Sequence[str],
    interval: float,
    rate: float,
    consul_servers: int,
    lines: Path,
) -> list[Cell]:
    """Play every way through every event, under all the traffic; each cell is a line of the file once it is over."""
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
    cells = []
    with open_network() as network, lines.open("w", encoding="utf-8") as file:
        for event in events:
            for name, program in programs.items():
                order = Order(name, traffic, event, interval, program, network, random.random(), consul_servers, rate)
                told = play_there(order)
                cells.append(cell := cell_of(name, event, about, told))
                print(line(cell), file=file, flush=True)
                print(f"{name}, {event}: {words(cell)}", flush=True)
    return cells


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
    return played(command, os.environ, CELL_SECONDS)


def play_here(order: Order) -> int:
    """Play it in this process, and print what was measured, as JSON."""
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

"""What the lab is asked for, and whether it can be done here: all that is wrong is said before anything is played."""

import argparse
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.harness.tools import ROOT
from tests.lab.client import TRAFFIC
from tests.lab.events import EVENTS
from tests.lab.network import CONSUL_SERVERS
from tests.lab.ways import Way

OUT = ROOT / "build" / "lab"
INTERVAL_SECONDS = 3.0
"""A policy of a minute, compressed 20 times."""
_LEAST_SECONDS, _MOST_SECONDS = 0.1, 60.0


def options(arguments: Sequence[str], ways: Mapping[str, type[Way]]) -> argparse.Namespace:
    """What the arguments of the command line ask for.

    Ends the program with 2, and a line that says why, where they are wrong or cannot be done here.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab",
        usage="%(prog)s [--help] [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_choices(way=ways, kind=TRAFFIC, event=EVENTS),
        description="Plays ways of keeping HAProxy in sync through events, under traffic, and makes the report.",
    )
    parser.add_argument("--quick", action="store_true", help="few ways and one event, in under three minutes")
    parser.add_argument("--ways", nargs="+", choices=ways, metavar="WAY", help="all unless given")
    parser.add_argument("--traffic", nargs="+", choices=TRAFFIC, metavar="KIND", help="all but wrk unless given")
    parser.add_argument("--events", nargs="+", choices=EVENTS, metavar="EVENT", help="all unless given")
    parser.add_argument(
        "--interval",
        type=_interval_seconds,
        default=INTERVAL_SECONDS,
        metavar="SECONDS",
        help="how often ways that go by the clock act",
    )
    parser.add_argument(
        "--rate",
        type=fraction,
        default=1.0,
        metavar="FRACTION",
        help="how much traffic, of the usual clients and requests of each kind, for a machine that is slow",
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="where cells.jsonl and the report go")
    parser.add_argument(
        "--consul-servers",
        type=int,
        default=1,
        choices=range(1, CONSUL_SERVERS + 1),
        help="how many, unless the event needs more",
    )
    parser.add_argument(
        "--report", type=Path, nargs="+", metavar="FILE", help="only make the report, of the cells in these files"
    )
    parser.add_argument("--play", metavar="ORDER", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.play is None:
        if asked.report is None and os.geteuid() != 0:
            parser.error("playing needs root, for network namespaces: run it with sudo")
        if why := _unwritable(asked.out):
            parser.error(f"--out {asked.out}: {why}")
    return asked


def _choices(**names: Iterable[str]) -> str:
    """What there is to choose from, as it is typed in a shell."""
    return "\n".join(
        f"{what.upper()} is one of: {' '.join(map(shlex.quote, known))}" for what, known in names.items()
    )


def _interval_seconds(text: str) -> float:
    with suppress(ValueError):
        if _LEAST_SECONDS <= (value := float(text)) <= _MOST_SECONDS:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from {_LEAST_SECONDS:g} to {_MOST_SECONDS:g}")


def fraction(text: str) -> float:
    """Above 0, and 1 at most; `ArgumentTypeError`."""
    with suppress(ValueError):
        if 0 < (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not above 0, and 1 at most")


def _unwritable(folder: Path) -> str:
    """Make it where it is missing; why nothing can be written there, or nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot be made ({error.strerror}); name a folder that can"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "this user may not write there; name another folder"

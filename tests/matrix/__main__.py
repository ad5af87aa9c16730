"""Plays the stories on each version and prints one table; ends with 1 where one of them went wrong."""

import argparse
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import asdict
from rich.console import Console
from rich.table import Table

from tests.harness.tools import ROOT
from tests.matrix.cell import played, players
from tests.matrix.scenarios import LONG_STORIES, STORIES

VERSIONS = ("2.6", "2.8", "3.0", "3.2", "3.4")
STORY_SECONDS = 120
LONG_STORY_SECONDS = 420
CLEAR_AWAY_SECONDS = 30
"""A story whose time is over takes its stage down itself; after this it is ended from outside."""


class OverTimeError(BaseException):
    """A story took too long; raised wherever it is, and not an `Exception`, which waiting takes for "not yet"."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument("--stories", nargs="+", choices=[*STORIES, *LONG_STORIES], default=[*STORIES])
    parser.add_argument("--json", type=Path, help="also write a JSON line for each cell to this file")
    parser.add_argument("--jobs", type=int, default=1, help="play so many at a time; they mostly wait")
    parser.add_argument("--fresh", action="store_true", help="fetch each HAProxy anew")
    parser.add_argument(
        "--play",
        nargs=2,
        metavar=("STORY", "VERSION"),
        help="play one story here, with the HAProxy of the environment, and print how it went, as JSON",
    )
    asked = parser.parse_args()
    if asked.play is not None:
        return play(*asked.play)
    cells = []
    for cell in play_all(asked):
        cells.append(cell)
        print(f"{cell['version']} {cell['story']}: {words(cell)}", flush=True)
        if asked.json is not None:
            with asked.json.open("a", encoding="utf-8") as file:
                print(json.dumps(cell), file=file)
    print_table(asked.versions, asked.stories, cells)
    failed = [cell for cell in cells if "error" in cell]
    for cell in failed:
        print(f"\n{cell['version']} {cell['story']} went wrong:\n{cell['error']}")
    print(f"\n{len(cells) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def play_all(asked: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Each cell of the table, in its order, as its story is over."""
    with players(asked.jobs) as at_work:
        playing = []
        for version in asked.versions:
            command = [ROOT / "tests" / "roots.sh", *(["--fresh"] if asked.fresh else []), version]
            haproxy = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
            for story in asked.stories:
                play_it = [sys.executable, "-m", "tests.matrix", "--play", story, version]
                environment = {**os.environ, "HAPROXY": haproxy}
                limit = limit_seconds(story) + CLEAR_AWAY_SECONDS
                playing.append((version, story, at_work.submit(played, play_it, environment, limit)))
        for version, story, told in playing:
            yield {"version": version, "story": story, **told.result()}


def limit_seconds(story: str) -> float:
    """How long a story may take: four times what the longest one does on two cores."""
    return LONG_STORY_SECONDS if story in LONG_STORIES else STORY_SECONDS


def play(story: str, version: str) -> int:
    """Play one story in this process, with the HAProxy of the environment, which must be of `version`."""
    limit = limit_seconds(story)

    def over(*_: object) -> None:
        raise OverTimeError(f"not over after {limit:g} s")

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        told = {**STORIES, **LONG_STORIES}[story](version)
    except (Exception, OverTimeError):  # noqa: BLE001  # whatever went wrong is what the cell says
        print(json.dumps({"error": traceback.format_exc()}))
        return 1
    print(json.dumps(asdict(told)))
    return 0


def words(cell: dict[str, object]) -> str:
    """What stands in a cell of the table."""
    if "error" in cell:
        return "WENT WRONG"
    note = f"; {cell['note']}" if cell["note"] else ""
    return f"{cell['failed']} of {cell['requests']} lost{note}"


def print_table(versions: Sequence[str], stories: Sequence[str], cells: Sequence[dict[str, object]]) -> None:
    """Print stories down, versions across."""
    ran = {cell["version"]: cell["haproxy"] for cell in cells if "haproxy" in cell}
    columns = [f"{version} ({ran[version]})" if version in ran else version for version in versions]
    table = Table("story", *columns, title="requests lost, and what was done")
    for story in stories:
        row = [
            words(cell)
            for version in versions
            for cell in cells
            if (cell["version"], cell["story"]) == (version, story)
        ]
        table.add_row(story, *row)
    Console(width=None if sys.stdout.isatty() else 220).print(table)


if __name__ == "__main__":
    sys.exit(main())

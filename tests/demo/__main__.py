"""`python -m tests.demo [--keep] [--logs FOLDER] [--picture FILE]`."""

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tests.demo.fleet import Fleet
from tests.demo.picture import picture
from tests.demo.screen import Screen
from tests.demo.stage import HAPSYNC, Stage
from tests.demo.story import BACKEND, Story
from tests.demo.summary import Summary
from tests.demo.watching import WorkerWatch

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Tell the story; 0 when it went as promised, 1 when it did not, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=main.__doc__)
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, for a visitor, until Ctrl-C")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="leave the programs' logs there at the end")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="put the SVG of README.md there (docs/demo.svg)")
    arguments = parser.parse_args()
    for number in ENDING:
        signal.signal(number, _interrupt_once)
    screen = Screen()
    try:
        code = _run(screen, keep=arguments.keep, logs=arguments.logs)
    except KeyboardInterrupt:
        screen.plain("\nInterrupted; everything has been stopped.")
        return 130
    if arguments.picture and code == 0:
        arguments.picture.write_text(picture(screen.scenes), encoding="utf-8")
    return code


def _run(screen: Screen, *, keep: bool, logs: Path | None) -> int:
    screen.line("demo", "starts Consul, HAProxy, servers and the agent on loopback")
    with (
        # Within a minute the story takes out and lets flap what no operator would.
        Stage({BACKEND: 8}, backend_options="max_loss_fraction = 1.0\ndamping_seconds = 0") as stage,
        _logs_kept(stage, logs),
        Fleet(stage, BACKEND) as fleet,
        WorkerWatch(stage.haproxy) as workers,
    ):
        story = Story(stage, fleet, screen, workers)
        summary = story.tell()
        _print_end(screen, stage, summary)
        if keep:
            _print_invitation(screen, stage)
            try:
                story.go_on()
            except KeyboardInterrupt:
                screen.plain()
        traffic = story.end_traffic()
    new_failures = traffic.failures[len(summary.failures) :]
    for failure in new_failures:
        screen.plain(f"FAILED: a request failed after the summary: {failure}")
    screen.line("demo", f"{traffic.requests} requests in all, {traffic.failed} failed; everything is stopped")
    return 1 if summary.problems() or traffic.failed else 0


def _print_end(screen: Screen, stage: Stage, summary: Summary) -> None:
    for line in summary.lines():
        screen.plain(line)
    screen.heading("$ hapsync status")
    stage.hapsync("status", capture=False)
    screen.plain()
    for problem in summary.problems():
        screen.plain(f"FAILED: {problem}")


def _print_invitation(screen: Screen, stage: Stage) -> None:
    hapsync = HAPSYNC.relative_to(Path.cwd()) if HAPSYNC.is_relative_to(Path.cwd()) else HAPSYNC
    screen.plain("Traffic and small changes go on until Ctrl-C. Meanwhile, from another terminal:")
    screen.plain(f"  {hapsync} status --config {stage.config_path}")
    screen.plain(f"  {hapsync} plan --config {stage.config_path}")
    screen.plain(f"  HAProxy's statistics: {stage.statistics_url}")
    screen.plain(f"  Consul:               {stage.consul.url}/ui\n")


@contextmanager
def _logs_kept(stage: Stage, folder: Path | None) -> Iterator[None]:
    try:
        yield
    finally:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for path in (*stage.work.glob("*.log"), *stage.work.glob("haproxy.cfg*"), stage.config_path):
                shutil.copy(path, folder)


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """End the story; a second signal must not disturb the clearing up."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

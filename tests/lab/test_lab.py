"""The whole lab: what it leaves out, what it writes, and what is left of it when it is killed."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness.processes import wait_until
from tests.harness.tools import ROOT
from tests.lab.report import parsed
from tests.lab.sweeper import FOLDER, inside

PLAYING = {"consul", "haproxy", "hapsync"}


def test_a_way_that_cannot_run_here_is_left_out_with_its_reason_and_the_others_are_written(tmp_path: Path) -> None:
    code = """
        import sys
        from tests.lab import __main__ as lab
        from tests.lab.ways import WAYS, Restart, UnavailableError

        class Unavailable(Restart):
            name = "unavailable"

            @classmethod
            def program(cls):
                raise UnavailableError("it is of another world")

        lab.WAYS = {"unavailable": Unavailable, **WAYS}
        sys.exit(lab.main())
    """
    asked = ("--ways", "unavailable", "hapsync, slots", "--traffic", "new", "--events", "steady", "--interval", "1")
    lower = ("--rate", "0.5")
    said = run("-c", textwrap.dedent(code), *asked, *lower, "--out", str(tmp_path))

    [cell] = parsed((tmp_path / "cells.jsonl").read_text())
    assert cell.way == "hapsync, slots"
    assert cell.measured is not None
    assert cell.measured.accounts["new"].requests > 0
    assert cell.run.rate_fraction == 0.5
    assert cell.run.unavailable == {"unavailable": "it is of another world"}
    report = (tmp_path / "report.md").read_text()
    assert "- *unavailable* is left out: it is of another world" in report
    assert "unavailable is left out: it is of another world" in said
    assert "Traffic at 0.5 of the usual rate" in report
    assert report in said
    assert (tmp_path / "live.svg").read_text().startswith("<svg")
    assert "s in all" in said

    (tmp_path / "report.md").unlink()
    run("-m", "tests.lab", "--report", str(tmp_path / "cells.jsonl"), "--out", str(tmp_path))
    assert (tmp_path / "report.md").read_text() == report


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_lab_that_is_stopped_in_the_middle_of_a_cell_leaves_nothing_and_says_so(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = (
        *(sys.executable, "-m", "tests.lab", "--out", str(tmp_path)),
        *("--ways", "hapsync, slots", "--traffic", "new", "--events", "steady"),
    )
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        try:
            wait_until(lambda: set(programs(inside(spaces(running.pid)))) >= PLAYING, 30, "all to run")
            playing = inside(spaces(running.pid))
            assert list(Path("/tmp").glob(f"hslab-{running.pid}-*"))
        finally:
            os.killpg(running.pid, number)  # as a terminal does it
        _, said = running.communicate(timeout=30)

    wait_until(lambda: not spaces(running.pid), 10, "its namespaces to go")
    wait_until(lambda: not list(Path("/tmp").glob(f"hslab-{running.pid}-*")), 5, "its folder to go")
    wait_until(lambda: not programs(playing), 5, "its programs to end")
    assert running.returncode == code
    if number != signal.SIGKILL:
        told = f"stopped by {number.name}; 0 cells are in {tmp_path}/cells.jsonl"
        assert said == f"python -m tests.lab: {told}, for --report\n"


def run(*arguments: str) -> str:
    return subprocess.run(
        (sys.executable, *arguments), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=100
    ).stdout


def spaces(lab_pid: int) -> list[str]:
    return [path.name for path in FOLDER.glob(f"hslab-{lab_pid}-*")]


def programs(pids: set[int]) -> list[str]:
    """The names of those that have not ended."""
    found = []
    for pid in pids:
        with suppress(OSError):
            process = Path(f"/proc/{pid}")
            if (process / "cmdline").read_bytes():
                found.append((process / "comm").read_text().strip())
    return found

"""What `make matrix` does with a story that hangs, leaves something running, or runs on another HAProxy."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.harness.tools import ROOT, haproxy_path
from tests.matrix.__main__ import VERSIONS
from tests.matrix.cell import played, players

T = TypeVar("T")

HANGS = "while True: time.sleep(1)"


def cell(tmp_path: Path, story: str, seconds: float) -> Mapping[str, Any]:
    """What a cell says of a `story`, Python code that may write to the file `pids`, bounded to some seconds."""
    begin = f"import os, signal, subprocess, sys, time\npids = {str(tmp_path / 'pids')!r}\n"
    code = textwrap.dedent(f"""
        import json, os, sys
        from tests.matrix.cell import keep_orphans, played
        keep_orphans()
        print(json.dumps(played([sys.executable, "-c", {begin + story!r}], os.environ, {seconds})))
    """)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    told: Mapping[str, Any] = json.loads(ended.stdout)
    return told


def once_it_has_begun(tmp_path: Path, play: Callable[[int], T], seconds: int) -> tuple[int, T]:
    """Play, bounded to some seconds, and again with more where a busy machine had not begun to hang; what is told."""
    told = play(seconds)
    pids = tmp_path / "pids"
    if pids.exists() and pids.read_text():
        return seconds, told
    return 6 * seconds, play(6 * seconds)


def running(tmp_path: Path) -> list[str]:
    """Those of the processes named in `pids` that have not ended."""
    named = [Path("/proc", word, "cmdline") for word in (tmp_path / "pids").read_text().split() if word.isdigit()]
    return [str(one) for one in named if one.exists() and one.read_bytes()]


def test_a_story_that_hangs_is_ended_with_programs_that_nobody_waits_for_any_more(tmp_path: Path) -> None:
    orphan = """
        subprocess.run(["sh", "-c", f"setsid sh -c 'trap : TERM HUP; while :; do sleep 1; done' & echo $! > {pids}"])
    """
    _, told = once_it_has_begun(tmp_path, lambda seconds: cell(tmp_path, textwrap.dedent(orphan) + HANGS, seconds), 2)

    assert "error" in told
    assert running(tmp_path) == []


def test_a_story_that_leaves_a_program_running_is_a_story_that_went_wrong(tmp_path: Path) -> None:
    leaves = """
        left = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
        print(left.pid, file=open(pids, "w"))
        print('{"requests": 1}')
    """
    told = cell(tmp_path, textwrap.dedent(leaves), 20)

    assert told == {"error": f"left running: sleep ({(tmp_path / 'pids').read_text().strip()})"}
    assert running(tmp_path) == []


def test_a_story_that_is_cleared_away_leaves_the_one_beside_it_alone() -> None:
    """The one hangs until it is ended, with what it started; the other goes on for as long, and then ends well."""
    other = "import subprocess, time; child = subprocess.Popen(['sleep', '600']); time.sleep(3); "
    other += "assert child.poll() is None; child.kill(); child.wait(); print('{}')"
    hangs = "import subprocess; subprocess.Popen(['sleep', '600']).wait()"

    with players(2) as at_work:
        ended = at_work.submit(played, [sys.executable, "-c", hangs], os.environ.copy(), 1.0)
        went_on = at_work.submit(played, [sys.executable, "-c", other], os.environ.copy(), 60.0)

        assert ended.result() == {"error": "not over after 1 s, so it was ended"}
        assert went_on.result() == {}


def test_a_story_that_ends_by_itself_says_how_it_went(tmp_path: Path) -> None:
    assert cell(tmp_path, """print('{"requests": 1}')""", 20) == {"requests": 1}


def test_a_story_on_another_haproxy_than_its_column_s_went_wrong() -> None:
    said = subprocess.run([haproxy_path(), "-v"], stdout=subprocess.PIPE, text=True, check=True).stdout
    other = next(version for version in VERSIONS if f"HAProxy version {version}." not in said)

    ended = subprocess.run(
        [sys.executable, "-m", "tests.matrix", "--play", "weight", other],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert f"runs, not {other}" in json.loads(ended.stdout)["error"]


def test_a_story_that_takes_too_long_takes_its_stage_down_and_says_where_it_was(tmp_path: Path) -> None:
    code = """
        import sys
        import time
        from tests.demo.stage import Stage
        from tests.harness.processes import wait_until
        from tests.matrix import __main__ as matrix

        def hangs(version):
            with Stage() as stage:
                print(stage.haproxy.worker_pid(), stage.agent.pid, stage.work, file=open(sys.argv[2], "w"))
                wait_until(lambda: time.sleep(60), 600, "it")

        matrix.STORIES = {"hangs": hangs}
        matrix.STORY_SECONDS = int(sys.argv[1])
        sys.exit(matrix.play("hangs", "2.6"))
    """

    def play(seconds: int) -> str:
        command = [sys.executable, "-c", textwrap.dedent(code), str(seconds), str(tmp_path / "pids")]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        error: str = json.loads(ended.stdout)["error"]
        return error

    seconds, error = once_it_has_begun(tmp_path, play, 12)
    assert "in wait_until" in error
    assert f"OverTimeError: not over after {seconds} s" in error
    *_, work = (tmp_path / "pids").read_text().split()
    assert not Path(work).exists()
    assert running(tmp_path) == []

"""A story in a process of its own: bounded in time, and nothing that it started goes on, however it ends."""

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from tests.harness.procfs import below
from tests.harness.tools import ROOT

_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_LEAVE_SECONDS = 3.0
_END_SECONDS = 10.0


def keep_orphans() -> None:
    """Have what a child started, and did not end, become this process's own child instead of init's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def players(jobs: int) -> ProcessPoolExecutor:
    """Processes in which `jobs` stories are `played` at a time.

    Each ends whatever its story leaves running below it, and so nothing of the stories beside it.
    """
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=keep_orphans)


def played(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> dict[str, object]:
    """Run `command` for `seconds` at most; the JSON of the last line it wrote, or an "error".

    What it leaves running is ended, and an error, too. Needs `keep_orphans`.
    """
    mine = below(os.getpid())
    story = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = story.communicate(timeout=seconds)
        told = _told(said, story.returncode)
    except subprocess.TimeoutExpired:
        told = {"error": f"not over after {seconds:g} s, so it was ended"}
    except BaseException:
        end_below(os.getpid(), mine)
        raise
    deadline = time.monotonic() + _LEAVE_SECONDS
    while story.returncode is not None and below(os.getpid()) - mine and time.monotonic() < deadline:
        time.sleep(0.05)
    left = end_below(os.getpid(), mine)
    story.communicate()
    if left and "error" not in told:
        told = {"error": f"left running: {', '.join(left)}"}
    return told


def _told(said: str, code: int) -> dict[str, object]:
    try:
        told: dict[str, object] = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": f"ended with {code}, said {said[-500:]!r}"}
    return told


def end_below(parent: int, keep: set[int]) -> list[str]:
    """End what runs below `parent`, `keep` left out, with SIGKILL; what that was, by name and process id.

    Raises `TimeoutError` when some of it is still there after 10 s.
    """
    ended: dict[int, str] = {}
    deadline = time.monotonic() + _END_SECONDS
    # Again and again, for what is being ended may have started others meanwhile.
    while due := below(parent) - keep:
        for pid in due:
            with suppress(OSError):
                ended[pid] = f"{Path(f'/proc/{pid}/comm').read_text().strip()} ({pid})"
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ended by SIGKILL: {', '.join(ended.values())}")
        time.sleep(0.01)
    return list(ended.values())

"""Processes as the kernel shows them in /proc: see proc(5). A process that is not there is an `OSError`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def stat(pid: int) -> Sequence[str]:
    """The fields of its `stat` from the third on: state, parent, group, and so on."""
    # They come after "pid (name) ", where a name may hold anything.
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def status(pid: int) -> Mapping[str, str]:
    """Its `status`, by field."""
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def resident_mb(pid: int) -> float:
    """What it holds in memory."""
    return int(status(pid)["VmRSS"].split()[0]) / 1024


def has_ended(pid: int) -> bool:
    """Whether it is gone, or only what its parent has not waited for."""
    try:
        return stat(pid)[0] == "Z"
    except OSError:
        return True


def running() -> Iterator[tuple[int, Sequence[str]]]:
    """Every process that has not ended, with its `stat`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (fields := stat(int(folder.name)))[0] != "Z":
                yield int(folder.name), fields


def below(parent: int) -> set[int]:
    """The processes that `parent` started, those that they started, and so on; ended ones left out."""
    of: dict[int, list[int]] = {}
    for pid, (_, its_parent, *_) in running():
        of.setdefault(int(its_parent), []).append(pid)
    found: set[int] = set()
    due = [parent]
    while due:
        due += (fresh := of.get(due.pop(), []))
        found.update(fresh)
    return found

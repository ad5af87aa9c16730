"""Removes network namespaces, all that runs in them, and a folder, when standard input closes.

Its other end is held by whoever made them, and the kernel closes it however that process ends: by SIGKILL, too.
"""

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pyroute2 import netns

FOLDER = Path("/run/netns")
"""Where `ip netns` and pyroute2 keep namespaces by name."""
PREFIX = "hslab-"
"""Of all names of namespaces and of folders in /tmp; the number of the process they are of follows."""
_END_SECONDS = 10.0


def sweep(names: Sequence[str], folder: Path) -> None:
    """End what runs in the namespaces `names` with SIGKILL, then remove them and `folder`; harmless when repeated.

    Raises `TimeoutError` when a process is still there after 10 s; the namespaces are removed all the same.
    """
    present = [name for name in names if (FOLDER / name).exists()]
    try:
        _end(present)
    finally:
        for name in present:
            with suppress(FileNotFoundError):  # another sweeper was faster
                netns.remove(name)
        shutil.rmtree(folder, ignore_errors=True)


def sweep_left_behind() -> None:
    """Sweep what labs left whose sweeper was killed with them: neither of them holds the folder, nor is there."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        prefix, _, _ = folder.name.rpartition("-")
        names = [path.name for path in FOLDER.glob(f"{prefix}-*")]
        if not names or Path(f"/proc/{prefix.split('-')[1]}").exists():
            continue
        with suppress(FileNotFoundError, BlockingIOError), held(folder):
            sweep(names, folder)


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Hold a folder, by a lock on it; the descriptor, with which the lock goes over to whoever inherits it.

    `BlockingIOError` when another holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def inside(names: Sequence[str]) -> set[int]:
    """The ids of the processes in these namespaces."""
    spaces = set()
    for name in names:
        with suppress(OSError):
            spaces.add(_identity(FOLDER / name))
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if _identity(entry / "ns" / "net") in spaces:
                found.add(int(entry.name))
    return found


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _end(names: Sequence[str]) -> None:
    deadline = time.monotonic() + _END_SECONDS
    # Again and again, for what is being ended may have started others meanwhile.
    while due := inside(names) - {os.getpid()}:
        for pid in due:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ended by SIGKILL: {sorted(due)}")
        time.sleep(0.01)


def main() -> None:
    folder, *names = sys.argv[1:]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends the lab must not end this
    sys.stdin.buffer.read()
    sweep(names, Path(folder))


if __name__ == "__main__":
    main()

"""The agent's own process (heap, garbage collection, descriptors), and the search for the programs that it runs."""

import ctypes
import gc
import os
import resource
import shutil

from hapsync.text import quoted

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Constants of glibc's <malloc.h>, mallopt(3)."""
_SPARE_FILES = 16
"""The descriptors for all but Consul: HAProxy's sockets, written files, the check command, a few requests."""


SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""The folders of the superuser's programs, haproxy among them. The PATH of cron and of most users leaves them out."""


def program_path(name: str) -> str | None:
    """Return the absolute path of the program `name`, searched in PATH and then in `SBIN`; None without one."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(SBIN))
    return os.path.abspath(found) if found is not None else None  # noqa: PTH100


def no_program(name: str) -> str:
    """Return the message that `program_path` found no program `name`."""
    where = "" if "/" in name else f" in PATH, nor in {', '.join(SBIN)}; give its whole path"
    return f"there is no program {quoted(name)}{where}"


def return_free_heap() -> None:
    """Return freed memory to the kernel; does nothing with a C library without `mallopt`.

    Otherwise a hundred threads with occasional answers leave their arenas full of holes: 65 MB instead of 57 with 100
    services of 50 instances, measured after 200 changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 64 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 128 * 1024)


def collect_seldom() -> None:
    """Let the collector of reference cycles run once for each 50,000 new objects instead of each 700.

    hapsync's values hold no cycles. The collector would walk all instances of the catalog in the middle of a pass; it
    took 15 % of a large one (measured).
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def allow_many_files() -> None:
    """Raise the limit of open files to the hard limit, because each watched service holds a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leaves_spare_files(descriptor: int) -> bool:
    """Return whether a new descriptor leaves enough others for the work with HAProxy.

    The kernel gives the lowest free number, so a number near the limit means that few are left.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft == resource.RLIM_INFINITY or descriptor < soft - _SPARE_FILES

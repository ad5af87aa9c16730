"""The second half of a lock file, safe from removal: a name in the kernel for the file's path.

A lock on a file is lost for everybody else once the file, or its folder, is removed: the next process makes another
file there. A unix socket in the abstract namespace (unix(7)) has no file, and ends with its process. Such names are
the network namespace's, so the root folder's identity is part of them: a container has another.
"""

import contextlib
import errno
import hashlib
import os
import socket
from collections.abc import Iterable

import attrs

from hapsync.system.sockdiag import peer_of

_QUEUE = 128
"""How many may ask who holds it between two times that the holder looks."""


@attrs.frozen
class Holder:
    """The holder of a name; `pid` is None where the kernel does not tell."""

    pid: int | None
    uid: int | None


def take_name(path: str) -> socket.socket | None:
    """Take the name of the lock file at `path` and return what holds it until it is closed; None where it is taken.

    Raises OSError where there is no such thing as a name.
    """
    holding = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holding.setblocking(False)
        holding.bind(_name(path))
        holding.listen(_QUEUE)
    except OSError as error:
        holding.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return holding


def let_askers_go(holding: socket.socket) -> None:
    """Empty the queue of those who asked who holds the name; at once, also while others fill it as fast."""
    with contextlib.suppress(OSError):
        for _ in range(_QUEUE):
            holding.accept()[0].close()


def name_holder(path: str) -> Holder | None:
    """Return the holder of the name of the lock file at `path`; None without one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_name(path))
        except BlockingIOError:  # so many have asked that the kernel queues no more
            return Holder(None, None)
        except OSError:
            return None
        return Holder(*peer_of(asking))


def owners(paths: Iterable[str]) -> frozenset[int]:
    """Return who owns the files at `paths`, or the nearest folder above where there is none; root and this user."""
    found = {0, os.geteuid()}
    for path in paths:
        at = os.path.abspath(path)  # noqa: PTH100
        while not os.path.lexists(at) and at != "/":
            at = os.path.dirname(at)  # noqa: PTH120
        with contextlib.suppress(OSError):
            found.add(os.stat(at).st_uid)  # noqa: PTH116
    return frozenset(found)


def _name(path: str) -> bytes:
    root = os.stat("/")  # noqa: PTH116
    where = f"{root.st_dev}:{root.st_ino}:{os.path.realpath(path)}"
    return b"\0hapsync-lock-" + hashlib.blake2b(os.fsencode(where), digest_size=16).hexdigest().encode()

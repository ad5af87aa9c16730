"""The name of a lock file's path in the kernel: the second half of the lock, safe from removal.

A lock on a file ends for all other processes when the file, or its folder, is removed: the next process creates
another file there. A unix socket in the abstract namespace (unix(7)) has no file, and ends with its process. Such
names belong to a network namespace, so the identity of the root folder is part of the name: a container has another
one.
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
"""The most processes that may ask for the holder between two looks of the holder at its queue."""


@attrs.frozen
class Holder:
    """The holder of a name; `pid` is None where the kernel does not tell."""

    pid: int | None
    uid: int | None


def take_name(path: str) -> socket.socket | None:
    """Take the name of the lock file at `path`; return the socket that holds it until its close, None if taken.

    Raises OSError on a system without such names.
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
    """Close the connections of processes that asked for the holder; returns at once, even if more keep coming."""
    with contextlib.suppress(OSError):
        for _ in range(_QUEUE):
            holding.accept()[0].close()


def name_holder(path: str) -> Holder | None:
    """Return the holder of the name of the lock file at `path`; None without one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_name(path))
        except BlockingIOError:  # the queue of the holder is full
            return Holder(None, None)
        except OSError:
            return None
        return Holder(*peer_of(asking))


def owners(paths: Iterable[str]) -> frozenset[int]:
    """Return root, this user, and the owners of the files at `paths`, or of the nearest folders above them."""
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

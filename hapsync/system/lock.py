"""The lock of a process: a lock on a file, and beside it a name for the file's path in the kernel.

A lock on a file ends for all other processes when the file, or its folder, is removed: the next process creates
another file there. A unix socket in the abstract namespace (unix(7)) has no file, and ends with its process. Such
names belong to a network namespace, so the identity of the root folder is part of the name: a container has another
one.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from hapsync.errors import LockHeld
from hapsync.system.files import give_to_owner_of, open_regular
from hapsync.system.sockdiag import peer_of

AGENT = b"hapsync agent"
"""The beginning of an agent's text in a lock file."""
_QUEUE = 128
"""The most processes that may ask for the holder between two looks of the holder at its queue."""


class HeldLock:
    """A held lock file, and its name in the kernel."""

    def __init__(self, path: str, owner: str, trusted: Iterable[str]) -> None:
        """Take the lock; arguments and errors are those of `lock`."""
        self._path = path
        self._owner = owner
        self._descriptor = _lock_file(path, owner)
        self._name: socket.socket | None = None
        try:
            self._name = _take_name(path, trusted)
        except BaseException:
            os.close(self._descriptor)
            raise

    def keep(self) -> bool:
        """Create the file again if it was removed; return whether it was.

        Raises LockHeld when another process created it meanwhile, OSError when it cannot be created.
        """
        if self._name is not None:
            _let_askers_go(self._name)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self._path), os.fstat(self._descriptor)):
                return False
        old, self._descriptor = self._descriptor, _lock_file(self._path, self._owner)
        os.close(old)
        return True

    def close(self) -> None:
        os.close(self._descriptor)
        if self._name is not None:
            self._name.close()


def lock(path: str, owner: str, trusted: Iterable[str] = ()) -> contextlib.closing[HeldLock]:
    """Hold the lock file at `path` until the end of a `with` block; `owner` tells others who holds it.

    The lock survives a removal of the file, because its path has a name in the kernel. Any user may take such a name,
    so it counts only with a trusted holder: root, this user, or an owner of the file, its folder or the `trusted`
    paths.

    Raises LockHeld when another process holds the lock, and OSError when the file cannot be created.
    """
    return contextlib.closing(HeldLock(path, owner, trusted))


def _lock_file(path: str, owner: str) -> int:
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    try:
        give_to_owner_of(Path(path).parent, descriptor)
        try:
            _take_lock(descriptor)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another hapsync"
            raise LockHeld(f"{holder} holds {path}; it keeps HAProxy in sync already") from None
        with contextlib.suppress(OSError):  # with a full disk, the lock holds without the text
            os.pwrite(descriptor, owner.encode(), 0)
            os.ftruncate(descriptor, len(owner.encode()))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _take_name(path: str, trusted: Iterable[str]) -> socket.socket | None:
    """Take the name of the lock file at `path`; return the socket that holds the name until its close.

    The result is None where the file alone is the lock: a stranger has the name, or the system has no such names.

    Raises LockHeld when a trusted process has the name.
    """
    try:
        holding = _bound(path)
    except OSError:
        return None
    if holding is None and (holder := _name_holder(path, trusted)) is not None:
        raise LockHeld(f"{holder} holds {path}, whose file was removed; it keeps HAProxy in sync already")
    return holding


def lock_owner(path: str, trusted: Iterable[str] = ()) -> str | None:
    """Return the text that the holder of the lock at `path` wrote about itself; None without a holder.

    For a removed file the text is `hapsync, pid N,`. `trusted` as in `lock`.

    Raises PermissionError where this user may not read the file.
    """
    return _file_owner(path) or _name_holder(path, trusted)


def _file_owner(path: str) -> str | None:
    try:
        descriptor = open_regular(path)
    except PermissionError:
        raise
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
    return None


def _take_lock(descriptor: int) -> None:
    """Take the lock on the open file; raises BlockingIOError when another process keeps it.

    A command that reads the owner holds the lock for a moment, and a change of hapsync's files not much longer. An
    agent keeps the lock, so there is no wait for one.
    """
    for pause_seconds, is_long in ((0.02, False), (0.05, False), (0.1, False), *((0.2, True),) * 10):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_long and os.pread(descriptor, len(AGENT), 0) == AGENT:
            break
        time.sleep(pause_seconds)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _bound(path: str) -> socket.socket | None:
    """Return a socket that has the name of the lock file at `path`, None where the name is taken; raises OSError."""
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


def _let_askers_go(holding: socket.socket) -> None:
    """Close the connections of processes that asked for the holder; returns at once, even if more keep coming."""
    with contextlib.suppress(OSError):
        for _ in range(_QUEUE):
            holding.accept()[0].close()


def _name_holder(path: str, trusted: Iterable[str]) -> str | None:
    """Return the holder of a lock file's name, as `lock_owner` does; None without a trusted holder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_name(path))
        except BlockingIOError:  # the queue of the holder is full
            return "hapsync"
        except OSError:
            return None
        pid, uid = peer_of(asking)
    if uid is not None and uid not in _owners((path, *trusted)):
        return None
    return "hapsync" if pid is None else f"hapsync, pid {pid},"


def _owners(paths: Iterable[str]) -> frozenset[int]:
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

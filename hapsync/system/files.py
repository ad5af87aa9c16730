"""Files: read a text, write one so that a reader sees all of it or nothing, hold a lock.

Nothing made here is open to others than owner and group, and what replaces a file is never more open than that was.
"""

import contextlib
import errno
import fcntl
import glob
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hapsync.errors import LockHeld
from hapsync.system.lock_name import let_askers_go, name_holder, owners, take_name

FILE_MODE = 0o640
AGENT = b"hapsync agent"
"""How the owner of a lock begins where it is an agent."""
FOLDER_MODE = 0o750


def read_text(path: str) -> str:
    """Return the text of a file; raises OSError.

    Bytes that are not UTF-8 (an old comment in Latin-1) are kept, and so are the line ends; this module writes both
    back as they were.
    """
    with os.fdopen(open_regular(path), encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file, which must be a regular one, without ever waiting for anybody; return its descriptor.

    This is the one door: a FIFO in a file's place would keep whoever opens it until somebody writes, and a device may
    act on being opened. A file that `flags` make is for owner and group. Raises OSError, with what it is instead.
    """
    try:
        _ensure_regular(os.stat(path).st_mode, path)  # noqa: PTH116
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, FILE_MODE)
    try:
        _ensure_regular(os.fstat(descriptor).st_mode, path)  # it may be another than a moment ago
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def ensure_regular(path: str) -> None:
    """Raise OSError unless there is a regular file at `path`; for a library that opens it by its name."""
    os.close(open_regular(path))


def _ensure_regular(mode: int, path: str) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    what = "FIFO" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    raise OSError(errno.EINVAL, f"is a {what}, and must be a regular file", path)


def read_text_or_none(path: str) -> str | None:
    """Return the text of a file, or None where there is none."""
    try:
        return read_text(path)
    except FileNotFoundError:
        return None


def make_folder(path: str) -> None:
    """Make the folder at `path` where it is missing, for owner and group only; raises OSError.

    One that is there keeps its mode: it is the operator's, or systemd's.
    """
    folder = Path(path)
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(FOLDER_MODE)  # whatever the umask is


def write_atomically(path: str, text: str, *, mode: int | None = None, durable: bool = True) -> None:
    """Replace the file at `path` in one step.

    The file gets `mode`. With None it keeps its mode and owner, and a new one is `FILE_MODE`, of its folder's group.
    With `durable` it is on the disk before it takes the old one's place.

    Raises OSError; then the old file stands.
    """
    target = _real(path)
    with _beside(target, text, target if mode is None else mode, durable=durable) as candidate:
        _replace(candidate, target)
    if durable:
        _sync_folder(target.parent)


def write_in_folder(folder: str, name: str, text: str, *, durable: bool) -> None:
    """Write one of hapsync's own files, as `write_atomically` does, in a folder that may have been removed.

    Raises OSError; then the old file stands.
    """
    path = str(Path(folder, name))
    try:
        write_atomically(path, text, mode=FILE_MODE, durable=durable)
    except FileNotFoundError:
        make_folder(folder)
        write_atomically(path, text, mode=FILE_MODE, durable=durable)


@contextlib.contextmanager
def candidate_file(path: str, text: str) -> Iterator[str]:
    """Write `text` beside `path` and give its name; unless it was moved away, it is gone after the block.

    The candidate has the mode and owner of `path`, or those of a new file there.
    """
    target = _real(path)
    with _beside(target, text, target, durable=True) as candidate:
        yield candidate


def move_into_place(candidate: str, path: str) -> None:
    """Let the file `candidate` take the place of `path` in one step; raises OSError."""
    target = _real(path)
    _replace(candidate, target)
    _sync_folder(target.parent)


def keep_copy(path: str, suffix: str) -> str | None:
    """Copy the file at `path` to `path` + `suffix` unless that is there already; return the copy's name."""
    copy = Path(path + suffix)
    source = Path(path)
    if copy.exists() or not source.exists():
        return None
    with _beside(copy, read_text(path), source, durable=True) as candidate:
        _replace(candidate, copy)
    _sync_folder(copy.parent)
    return str(copy)


def signature(path: str) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced or written; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class HeldLock:
    """A held lock file, and its name in the kernel (`lock_name`)."""

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
        """Make the file anew where it was removed; return whether that was done.

        Raises LockHeld when another process made it meanwhile, OSError when it cannot be made.
        """
        if self._name is not None:
            let_askers_go(self._name)
        mine = os.fstat(self._descriptor)
        try:
            there = os.lstat(self._path)
        except FileNotFoundError:
            pass
        else:
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return False
        old, self._descriptor = self._descriptor, _lock_file(self._path, self._owner)
        os.close(old)
        return True

    def close(self) -> None:
        os.close(self._descriptor)
        if self._name is not None:
            self._name.close()


@contextlib.contextmanager
def lock(path: str, owner: str, trusted: Iterable[str] = ()) -> Iterator[HeldLock]:
    """Hold the lock file at `path` while the block runs; `owner` tells others who holds it.

    The lock stays even where the file is removed: its path has a name in the kernel. The name counts where it is
    root's, this user's, or of an owner of the file, its folder or the `trusted` paths, for any user may take such a
    name.

    Raises LockHeld when another process does, and OSError where it cannot be made.
    """
    held = HeldLock(path, owner, trusted)
    try:
        yield held
    finally:
        held.close()


def _lock_file(path: str, owner: str) -> int:
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    try:
        try:
            _take_lock(descriptor)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another hapsync"
            raise LockHeld(f"{holder} holds {path}; it keeps HAProxy in sync already") from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.pwrite(descriptor, owner.encode(), 0)
            os.ftruncate(descriptor, len(owner.encode()))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _take_name(path: str, trusted: Iterable[str]) -> socket.socket | None:
    try:
        name = take_name(path)
    except OSError:
        return None  # the file alone has to do
    if name is None and (holder := _holder(path, trusted)) is not None:
        raise LockHeld(f"{holder} holds {path}, whose file was removed; it keeps HAProxy in sync already")
    return name


def _holder(path: str, trusted: Iterable[str]) -> str | None:
    """Return the holder of a lock file's name, as `lock_owner` does; None where nobody trusted holds it."""
    holder = name_holder(path)
    if holder is None or (holder.uid is not None and holder.uid not in owners((path, *trusted))):
        return None
    return "hapsync" if holder.pid is None else f"hapsync, pid {holder.pid},"


def lock_owner(path: str, trusted: Iterable[str] = ()) -> str | None:
    """Return the words about itself of the process with the lock file at `path`; None without a holder.

    Where the file was removed, it is `hapsync, pid N,`. `trusted` as in `lock`.

    Raises PermissionError where this user may not look.
    """
    return _file_owner(path) or _holder(path, trusted)


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


def remove_leftovers(path: str) -> None:
    """Remove candidates for `path` of a killed hapsync; only for the holder of the lock."""
    target = _real(path)
    for candidate in target.parent.glob(f".{glob.escape(target.name)}.*.hapsync"):
        with contextlib.suppress(OSError):
            candidate.unlink()


def remove_leftovers_in(folder: str) -> None:
    """Remove candidates for any file in one of hapsync's own folders; only for the holder of the lock."""
    for candidate in Path(folder).glob(".*.hapsync"):
        with contextlib.suppress(OSError):
            candidate.unlink()


def _take_lock(descriptor: int) -> None:
    """Raises BlockingIOError when it stays held.

    Somebody who only looks holds it for a moment, a command that changes hapsync's own files not for much longer. An
    agent keeps it, and is not waited for.
    """
    for pause_seconds, is_long in ((0.02, False), (0.05, False), (0.1, False), *((0.2, True),) * 10):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_long and os.pread(descriptor, len(AGENT), 0) == AGENT:
            break
        time.sleep(pause_seconds)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _beside(target: Path, text: str, like: Path | int, *, durable: bool) -> Iterator[str]:
    """Write `text` to a file in the folder of `target` and give its name; its mode is `like`, or that of `like`."""
    with _named(target):
        # Hidden, and not ending in .cfg: a HAProxy that loads a whole folder must not load a candidate.
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".hapsync", dir=target.parent)
    try:
        with (
            _named(target),
            os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            file.write(text)
            file.flush()
            if isinstance(like, int):
                os.fchmod(file.fileno(), like)
            else:
                _take_after(like, file.fileno())
            if durable:
                os.fsync(file.fileno())
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108


@contextlib.contextmanager
def _named(target: Path) -> Iterator[None]:
    """Have OSErrors name `target`: the candidate's name is another each time, and means nothing to anybody."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


def _replace(candidate: str, target: Path) -> None:
    with _named(target):
        Path(candidate).replace(target)


def _real(path: str) -> Path:
    """Return the file itself where `path` is a link to it, so that the link stays; raises OSError for a loop."""
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # Python up to 3.12 says a loop of links so
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error


def _take_after(like: Path, descriptor: int) -> None:
    """Give an open file owner, group and mode of `like`; where that is missing, what a new file gets there."""
    try:
        old = like.stat()
        mode = old.st_mode & 0o777
    except FileNotFoundError:
        old = None
        mode = FILE_MODE
    group = like.parent.stat().st_gid if old is None else old.st_gid
    try:
        os.fchown(descriptor, -1, group)
    except PermissionError:
        if old is not None:
            mode &= 0o707 | (mode & 0o007) << 3  # what only the old group might do is not for another
    if old is not None:
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, -1)
    os.fchmod(descriptor, mode)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files: reads of texts, atomic writes, and locks.

A new file is only for its owner and group, and a replaced file never gets wider permissions.
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
"""The beginning of an agent's text in a lock file."""
FOLDER_MODE = 0o750


def read_text(path: str) -> str:
    """Return the text of a file; raises OSError.

    Bytes that are not UTF-8 (an old comment in Latin-1) are kept, and so are line ends; this module writes both back
    unchanged.
    """
    with os.fdopen(open_regular(path), encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file without any wait; return its descriptor.

    All files are opened here: the open of a FIFO in a file's place would wait for a writer, and a device may act on
    an open. A file created by `flags` is for owner and group. Raises OSError, with the kind of any other file.
    """
    try:
        _ensure_regular(os.stat(path).st_mode, path)  # noqa: PTH116
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, FILE_MODE)
    try:
        _ensure_regular(os.fstat(descriptor).st_mode, path)  # the file may have been replaced since
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def ensure_regular(path: str) -> None:
    """Raise OSError unless `path` is a regular file; for a library that opens the file by its name."""
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

    An existing folder keeps its mode, for it belongs to the operator or to systemd.
    """
    folder = Path(path)
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(FOLDER_MODE)  # independent of the umask


def write_atomically(path: str, text: str, *, mode: int | None = None, durable: bool = True) -> None:
    """Replace the file at `path` in one step.

    The file gets `mode`. With None it keeps its mode and owner, and a new file gets `FILE_MODE` and its folder's
    group. With `durable` the text is on the disk before it replaces the old file.

    Raises OSError; the old file then stays.
    """
    target = _real(path)
    with _beside(target, text, target if mode is None else mode, durable=durable) as candidate:
        _replace(candidate, target)
    if durable:
        _sync_folder(target.parent)


def write_in_folder(folder: str, name: str, text: str, *, durable: bool) -> None:
    """Write one of hapsync's own files, as `write_atomically` does, in a folder that may have been removed.

    Raises OSError; the old file then stays.
    """
    path = str(Path(folder, name))
    try:
        write_atomically(path, text, mode=FILE_MODE, durable=durable)
    except FileNotFoundError:
        make_folder(folder)
        write_atomically(path, text, mode=FILE_MODE, durable=durable)


@contextlib.contextmanager
def candidate_file(path: str, text: str) -> Iterator[str]:
    """Write `text` to a candidate beside `path` and yield its name; after the block the candidate is deleted.

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
    """Copy the file at `path` to `path` + `suffix` unless a copy exists; return the copy's name."""
    copy = Path(path + suffix)
    source = Path(path)
    if copy.exists() or not source.exists():
        return None
    with _beside(copy, read_text(path), source, durable=True) as candidate:
        _replace(candidate, copy)
    _sync_folder(copy.parent)
    return str(copy)


def signature(path: str) -> tuple[int, int, int] | None:
    """Return three numbers that differ after a write or a replacement of the file; None without a file."""
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
        """Create the file again if it was removed; return whether it was.

        Raises LockHeld when another process created it meanwhile, OSError when it cannot be created.
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

    The lock survives a removal of the file, because its path has a name in the kernel. Any user may take such a name,
    so it counts only with a trusted holder: root, this user, or an owner of the file, its folder or the `trusted`
    paths.

    Raises LockHeld when another process holds the lock, and OSError when the file cannot be created.
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
        with contextlib.suppress(OSError):  # with a full disk, the lock holds without the text
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
        return None  # the file alone is the lock
    if name is None and (holder := _holder(path, trusted)) is not None:
        raise LockHeld(f"{holder} holds {path}, whose file was removed; it keeps HAProxy in sync already")
    return name


def _holder(path: str, trusted: Iterable[str]) -> str | None:
    """Return the holder of a lock file's name, as `lock_owner` does; None without a trusted holder."""
    holder = name_holder(path)
    if holder is None or (holder.uid is not None and holder.uid not in owners((path, *trusted))):
        return None
    return "hapsync" if holder.pid is None else f"hapsync, pid {holder.pid},"


def lock_owner(path: str, trusted: Iterable[str] = ()) -> str | None:
    """Return the text that the holder of the lock at `path` wrote about itself; None without a holder.

    For a removed file the text is `hapsync, pid N,`. `trusted` as in `lock`.

    Raises PermissionError where this user may not read the file.
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
    """Remove a killed hapsync's candidates for `path`; only the holder of the lock may call this."""
    target = _real(path)
    for candidate in target.parent.glob(f".{glob.escape(target.name)}.*.hapsync"):
        with contextlib.suppress(OSError):
            candidate.unlink()


def remove_leftovers_in(folder: str) -> None:
    """Remove candidates for any file in one of hapsync's own folders; only the holder of the lock may call this."""
    for candidate in Path(folder).glob(".*.hapsync"):
        with contextlib.suppress(OSError):
            candidate.unlink()


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


@contextlib.contextmanager
def _beside(target: Path, text: str, like: Path | int, *, durable: bool) -> Iterator[str]:
    """Write `text` to a file in the folder of `target` and yield its name; its mode is `like`, or that of `like`."""
    with _named(target):
        # The name is hidden and does not end in .cfg: a HAProxy that loads a whole folder must not load a candidate.
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
    """Put the name of `target` into OSErrors, instead of the random name of a candidate."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


def _replace(candidate: str, target: Path) -> None:
    with _named(target):
        Path(candidate).replace(target)


def _real(path: str) -> Path:
    """Return the target of a link at `path`, so that a replacement keeps the link; raises OSError for a loop."""
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # Python up to 3.12 reports a loop of links so
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error


def _take_after(like: Path, descriptor: int) -> None:
    """Give an open file the owner, group and mode of `like`; without `like`, those of a new file there."""
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
            mode &= 0o707 | (mode & 0o007) << 3  # the new group gets no right of the old group
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

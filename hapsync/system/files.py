"""Files: reads of texts, and atomic writes.

A new file is only for its owner and group, and a replaced file never gets wider permissions.
"""

import contextlib
import errno
import glob
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

FILE_MODE = 0o640
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
        _replace(candidate, target, durable=durable)


def write_in_folder(folder: str, name: str, text: str, *, durable: bool) -> None:
    """Write one of hapsync's own files, as `write_atomically` does, in a folder that may have been removed.

    The file belongs to the folder's owner and group where this user is root. Raises OSError; the old file then stays.
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
    _replace(candidate, _real(path))


def keep_copy(path: str, suffix: str) -> str | None:
    """Copy the file at `path` to `path` + `suffix` unless a copy exists; return the copy's name."""
    copy, source = Path(path + suffix), Path(path)
    if copy.exists() or not source.exists():
        return None
    with _beside(copy, read_text(path), source, durable=True) as candidate:
        _replace(candidate, copy)
    return str(copy)


def signature(path: str) -> tuple[int, int, int] | None:
    """Return three numbers that differ after a write or a replacement of the file; None without a file."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def remove_leftovers(folder: str, name: str = "") -> None:
    """Remove a killed hapsync's candidates in `folder`, for the file `name` or for any file.

    Only the holder of the lock may call this.
    """
    for candidate in Path(folder).glob(f".{glob.escape(name) or '*'}.*.hapsync"):
        with contextlib.suppress(OSError):
            candidate.unlink()


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
                give_to_owner_of(target.parent, file.fileno())
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


def _replace(candidate: str, target: Path, *, durable: bool = True) -> None:
    with _named(target):
        Path(candidate).replace(target)
    if durable:
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _real(path: str) -> Path:
    """Return the target of a link at `path`, so that a replacement keeps the link; raises OSError for a loop."""
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # Python up to 3.12 reports a loop of links so
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Give an open file to the owner and the group of `folder`, where this user is root.

    A command that root runs while the agent is stopped leaves no file behind that the agent's user cannot open. A
    file with a second name stays as it is: the owner of the folder may have given another user's file a name there.
    """
    if os.geteuid() == 0 and os.fstat(descriptor).st_nlink == 1:
        found = folder.stat()
        with contextlib.suppress(OSError):  # a folder of a server that has a root of its own
            os.fchown(descriptor, found.st_uid, found.st_gid)


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

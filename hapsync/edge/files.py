"""Files: read a text, write one so that a reader sees all of it or nothing, hold a lock."""

import contextlib
import fcntl
import glob
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hapsync.errors import LockHeld


def read_text(path: str) -> str:
    """Return the text of a file; raises OSError.

    What is not UTF-8 in it (an old comment in Latin-1) is kept, and so are its line ends; this module writes both
    back as they were.
    """
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:  # noqa: PTH123
        return file.read()


def read_text_or_none(path: str) -> str | None:
    """Return the text of a file, or None where there is none."""
    try:
        return read_text(path)
    except FileNotFoundError:
        return None


def write_atomically(path: str, text: str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace the file at `path` in one step; it keeps its mode and owner if it was there.

    With `durable` it is on the disk before it takes the old one's place. Raises OSError; then the old file stands.
    """
    target = _real(path)
    with _beside(path, text, mode, durable=durable) as candidate:
        Path(candidate).replace(target)
    if durable:
        _sync_folder(target.parent)


@contextlib.contextmanager
def candidate_file(path: str, text: str) -> Iterator[str]:
    """Write `text` beside `path` and give its name; unless it was moved away, it is gone after the block."""
    with _beside(path, text, 0o644, durable=True) as candidate:
        yield candidate


def move_into_place(candidate: str, path: str) -> None:
    """Let the file `candidate` take the place of `path` in one step; raises OSError."""
    target = _real(path)
    Path(candidate).replace(target)
    _sync_folder(target.parent)


def keep_aside(path: str, suffix: str) -> str | None:
    """Copy the file at `path` to `path` + `suffix` unless that is there already; return the copy's name."""
    aside = Path(path + suffix)
    source = Path(path)
    if aside.exists() or not source.exists():
        return None
    kept = source.stat()
    write_atomically(str(aside), read_text(path), mode=kept.st_mode & 0o777)
    with contextlib.suppress(PermissionError):
        os.chown(aside, kept.st_uid, kept.st_gid)
    return str(aside)


def signature(path: str) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced or written; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def lock(path: str, owner: str) -> Iterator[None]:
    """Hold the lock file at `path` while the block runs; `owner` tells others who holds it.

    Raises LockHeld when another process does, and OSError where it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            _take_lock(descriptor)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another hapsync"
            raise LockHeld(f"{holder} holds {path}; it keeps HAProxy in step already") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def lock_owner(path: str) -> str | None:
    """Return what the process that holds the lock file at `path` says of itself; None where nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
    """Remove candidates for `path` that a killed hapsync left beside it; only for whoever holds the lock."""
    target = _real(path)
    for candidate in target.parent.glob(f".{glob.escape(target.name)}.*.hapsync"):
        with contextlib.suppress(OSError):
            candidate.unlink()


def _take_lock(descriptor: int) -> None:
    """Raises BlockingIOError when it stays held; somebody who only looks holds it for a moment."""
    for pause_seconds in (0.02, 0.05, 0.1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(pause_seconds)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _beside(path: str, text: str, mode: int, *, durable: bool) -> Iterator[str]:
    target = _real(path)
    # Hidden, and not ending in .cfg: a HAProxy that loads a whole folder must not load a candidate.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".hapsync", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            _take_after(target, file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108


def _real(path: str) -> Path:
    """Return the file itself where `path` is a link to it, so that the link stays."""
    return Path(path).resolve()


def _take_after(target: Path, descriptor: int, mode: int) -> None:
    try:
        old = target.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, mode)
        return
    os.fchmod(descriptor, old.st_mode & 0o777)
    for owner in ((-1, old.st_gid), (old.st_uid, -1)):  # one may be allowed where both are not
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, *owner)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

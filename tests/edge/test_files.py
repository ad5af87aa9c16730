"""Files appear whole, keep their owner's mode, and are never lost."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hapsync.errors import LockHeld
from hapsync.system.files import (
    candidate_file,
    keep_copy,
    make_folder,
    move_into_place,
    read_text,
    read_text_or_none,
    write_atomically,
    write_in_folder,
)
from hapsync.system.lock import HeldLock, lock, lock_owner

NOBODY = 65534
"""A user and a group that have no rights, by their numbers."""


@pytest.fixture
def tiny_disk(work: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of 64 KB."""
    folder = work / "disk"
    folder.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "none", folder), check=True)
    try:
        yield folder
    finally:
        subprocess.run(("umount", folder), check=True)


@pytest.fixture
def open_umask() -> Iterator[None]:
    old = os.umask(0)
    try:
        yield
    finally:
        os.umask(old)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def syncs_beside(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced to the disk from now on, file or folder, and what `path` held then."""
    synced: list[tuple[str, str]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        is_folder = Path(f"/proc/self/fd/{descriptor}").is_dir()
        synced.append(("folder" if is_folder else "file", path.read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return synced


def test_a_new_file_takes_the_old_ones_mode(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("old")
    path.chmod(0o640)

    write_atomically(str(path), "new")

    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    assert names(tmp_path) == ["haproxy.cfg"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_on_the_disk_before_it_is_in_place_and_its_folder_after(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    durable: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "memory.json"
    path.write_text("old")
    synced = syncs_beside(path, monkeypatch)

    write_atomically(str(path), "new", durable=durable)

    assert path.read_text() == "new"
    assert synced == ([("file", "old"), ("folder", "new")] if durable else [])


def test_a_candidate_is_on_the_disk_before_it_is_in_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("old")
    synced = syncs_beside(path, monkeypatch)

    with candidate_file(str(path), "new") as candidate:
        assert synced == [("file", "old")]
        move_into_place(candidate, str(path))

    assert synced == [("file", "old"), ("folder", "new")]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("old")

    with pytest.raises(UnicodeEncodeError):
        write_atomically(str(path), "\ud83d")

    assert path.read_text() == "old"
    assert names(tmp_path) == ["haproxy.cfg"]


def test_a_candidate_is_gone_after_use(tmp_path: Path) -> None:
    with candidate_file(str(tmp_path / "haproxy.cfg"), "text") as candidate:
        assert Path(candidate).read_text() == "text"
        assert not candidate.endswith(".cfg")

    assert names(tmp_path) == []


def test_a_file_is_kept_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("first")
    keep_copy(str(path), ".before-hapsync")
    path.write_text("second")
    keep_copy(str(path), ".before-hapsync")

    assert (tmp_path / "haproxy.cfg.before-hapsync").read_text() == "first"


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_text_or_none(str(tmp_path / "nothing")) is None


def test_a_lock_is_held_by_one_and_tells_who_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with lock(path, "hapsync agent, pid 42,"):
        assert lock_owner(path) == "hapsync agent, pid 42,"

        with pytest.raises(LockHeld, match="hapsync agent, pid 42, holds"), lock(path, "another"):
            pass

    assert lock_owner(path) is None


def test_a_command_that_holds_a_lock_is_waited_for_and_an_agent_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with lock(path, "hapsync agent, pid 42,"), pytest.raises(LockHeld), lock(path, "another"):
        pass
    deferred = HeldLock(path, "hapsync release, pid 42,", ())
    threading.Timer(0.5, deferred.close).start()

    with lock(path, "hapsync agent, pid 43,"):
        assert lock_owner(path) == "hapsync agent, pid 43,"


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "haproxy.cfg", tmp_path / "haproxy.cfg"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)

    write_atomically(str(link), "new")

    assert (link.is_symlink(), real.read_text()) == (True, "new")


def test_bytes_that_are_no_utf8_are_read_and_written_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_bytes(b"# caf\xe9\n")

    write_atomically(str(path), read_text(str(path)) + "# more\n")

    assert path.read_bytes() == b"# caf\xe9\n# more\n"


@pytest.mark.usefixtures("open_umask")
def test_what_is_new_is_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    make_folder(str(tmp_path / "state"))
    write_atomically(str(tmp_path / "new"), "text")
    with candidate_file(str(tmp_path / "haproxy.cfg"), "text") as candidate:
        candidate_mode = mode(Path(candidate))
    with lock(str(tmp_path / "lock"), "me"):
        pass

    assert [mode(tmp_path / name) for name in ("state", "new", "lock")] == [0o750, 0o640, 0o640]
    assert candidate_mode == 0o640


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o700)

    make_folder(str(folder))

    assert mode(folder) == 0o700


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")

    with pytest.raises(FileExistsError):
        make_folder(str(tmp_path / "state"))


def test_a_mode_that_is_given_is_the_mode_whatever_the_old_one_was(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")
    path.chmod(0o666)

    write_atomically(str(path), "new", mode=0o640)

    assert mode(path) == 0o640


@pytest.mark.parametrize("old", [0o600, 0o640, 0o644, 0o604, 0o660])
def test_a_candidate_is_as_open_as_the_file_and_as_a_copy_kept_aside(tmp_path: Path, old: int) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("old")
    path.chmod(old)
    os.chown(path, NOBODY, NOBODY)

    with candidate_file(str(path), "new") as candidate:
        found = Path(candidate).stat()
    aside = keep_copy(str(path), ".before-hapsync")

    assert aside is not None
    for one in (found, Path(aside).stat()):
        assert (one.st_mode & 0o7777, one.st_uid, one.st_gid) == (old, NOBODY, NOBODY)


WRITE = """
import sys
from hapsync.system.files import write_atomically
write_atomically(sys.argv[1], "new")
"""


@pytest.mark.parametrize(
    ("old", "new"), [(0o640, 0o600), (0o644, 0o644), (0o660, 0o600), (0o664, 0o644), (0o604, 0o604)]
)
def test_what_only_another_group_might_read_is_not_for_the_writers_group(work: Path, old: int, new: int) -> None:
    work.chmod(0o777)
    path = work / "haproxy.cfg"
    path.write_text("old")
    path.chmod(old)
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")
    subprocess.run((*as_nobody, sys.executable, "-c", WRITE, path), check=True, timeout=30)

    assert (path.read_text(), path.stat().st_uid, mode(path)) == ("new", NOBODY, new)


def test_a_new_file_has_the_group_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, -1, NOBODY)

    write_atomically(str(tmp_path / "haproxy.cfg"), "text")

    assert (tmp_path / "haproxy.cfg").stat().st_gid == NOBODY


def test_a_file_that_root_writes_in_hapsyncs_folder_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    foreign = tmp_path.parent / "foreign"
    foreign.write_text("of root")
    (tmp_path / "lock of another").hardlink_to(foreign)

    write_in_folder(str(tmp_path), "memory.json", "text", durable=True)
    for name in ("lock", "lock of another"):
        with lock(str(tmp_path / name), "somebody"):
            pass

    owners = {one.name: (one.stat().st_uid, one.stat().st_gid) for one in tmp_path.iterdir()}
    assert owners == {"memory.json": (NOBODY, NOBODY), "lock": (NOBODY, NOBODY), "lock of another": (0, 0)}


def test_a_full_disk_leaves_the_old_file_and_nothing_else_and_names_the_file(tiny_disk: Path) -> None:
    path = tiny_disk / "haproxy.cfg"
    write_atomically(str(path), "old")

    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device: '[^']*/haproxy.cfg'$"):
        write_atomically(str(path), "new" * 50_000)

    assert path.read_text() == "old"
    assert names(tiny_disk) == ["haproxy.cfg"]


def test_a_folder_that_may_not_be_written_is_an_error_that_is_the_same_each_time(tiny_disk: Path) -> None:
    path = tiny_disk / "haproxy.cfg"
    write_atomically(str(path), "old")
    subprocess.run(("mount", "-o", "remount,ro", tiny_disk), check=True)

    said = set()
    for _ in range(2):
        with pytest.raises(OSError, match="Read-only file system") as caught:
            write_atomically(str(path), "new")
        said.add(str(caught.value))

    assert len(said) == 1


def test_a_lock_is_taken_on_a_full_disk(tiny_disk: Path) -> None:
    path = tiny_disk / "lock"
    with lock(str(path), "first"):
        pass
    (tiny_disk / "rest").write_bytes(b"x")
    with pytest.raises(OSError, match="No space"):
        (tiny_disk / "rest").write_bytes(b"x" * 100_000)

    with lock(str(path), "a longer name"):
        assert lock_owner(str(path)) == "a longer name"


def test_a_lock_is_no_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "passwd")

    with pytest.raises(OSError, match="symbolic links"), lock(str(tmp_path / "lock"), "me"):
        pass

    assert not (tmp_path / "passwd").exists()


def test_who_may_not_look_is_told_so_and_not_that_nobody_holds_the_lock(work: Path) -> None:
    work.chmod(0o755)
    state = work / "state"
    make_folder(str(state))
    look = "import sys\nfrom hapsync.system.lock import lock_owner\nlock_owner(sys.argv[1])"
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")
    with lock(str(state / "lock"), "me"):
        done = subprocess.run(
            (*as_nobody, sys.executable, "-c", look, state / "lock"), capture_output=True, text=True, check=False
        )

    assert "PermissionError" in done.stderr

"""Files appear whole, keep their owner's mode, and are never lost."""

from pathlib import Path

import pytest

from hapsync.edge.files import (
    candidate_file,
    keep_aside,
    lock,
    lock_owner,
    read_text,
    read_text_or_none,
    write_atomically,
)
from hapsync.errors import LockHeld


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_new_file_takes_the_old_ones_mode(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("old")
    path.chmod(0o640)

    write_atomically(str(path), "new")

    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    assert names(tmp_path) == ["haproxy.cfg"]


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
    keep_aside(str(path), ".before-hapsync")
    path.write_text("second")
    keep_aside(str(path), ".before-hapsync")

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

"""The configuration a real HAProxy has, as far as its files tell."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hapsync.haproxy.cfg import parse_sections, sealed
from hapsync.haproxy.dangers import fatal_addition
from hapsync.haproxy.running_cfg import InForce, read_in_force
from hapsync.haproxy.socket import open_session
from tests.harness.processes import Process, wait_until
from tests.harness.tools import haproxy_path

FIRST = """\
global
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    option tcp-check
"""
SECOND = "backend web\n    server srv1 127.0.0.1:1 disabled\n"


@contextmanager
def haproxy(work: Path, *files: Path) -> Iterator[Path]:
    """HAProxy with these files, which exist and are an hour old; its socket is given."""
    for file in work.glob("*.cfg"):
        os.utime(file, (time.time() - 3600,) * 2)
    names = [word for file in files for word in ("-f", str(file))]
    socket = work / "admin.sock"
    process = Process((haproxy_path(), "-db", *names), work / "haproxy.log")
    try:
        wait_until(lambda: ask(socket, "") is not None, 20, "HAProxy to answer", process=process)
        yield socket
    finally:
        process.stop()


def ask(socket: Path, config: str, *, uptime: int | None = None) -> InForce:
    with open_session(str(socket), 5) as session:
        process = session.read_process()
        if uptime is not None:
            process = type(process)(process.pid, process.version, uptime, is_stopping=False)
        return read_in_force(session, process, config)


@pytest.fixture
def files(work: Path) -> tuple[Path, Path]:
    """Two files that make one configuration."""
    first, second = work / "first.cfg", work / "haproxy.cfg"
    first.write_text(FIRST.format(socket=work / "admin.sock"), encoding="utf-8")
    second.write_text(SECOND, encoding="utf-8")
    return first, second


def test_all_files_of_haproxy_count_in_their_order(work: Path, files: tuple[Path, Path]) -> None:
    first, second = files
    with haproxy(work, first, second) as socket:
        second.write_text(sealed(SECOND), encoding="utf-8")
        first.write_text(sealed(first.read_text(encoding="utf-8")), encoding="utf-8")
        found = ask(socket, str(second))

    assert found == InForce("\n".join(file.read_text(encoding="utf-8") for file in files))


def test_a_file_of_haproxy_that_is_gone_is_not_known(work: Path, files: tuple[Path, Path]) -> None:
    first, second = files
    with haproxy(work, first, second) as socket:
        first.unlink()
        found = ask(socket, str(second))

    assert found.unknown == f"HAProxy's file {first} cannot be read by this user: No such file or directory"


def test_a_single_file_that_is_not_here_is_that_of_hapsync_under_whatever_name(
    work: Path, files: tuple[Path, Path]
) -> None:
    first, second = files
    first.write_text(first.read_text(encoding="utf-8") + SECOND, encoding="utf-8")
    second.write_text(sealed("# seen here under another name\n"), encoding="utf-8")
    with haproxy(work, first) as socket:
        first.unlink()  # as where HAProxy runs in a container of its own
        found = ask(socket, str(second))

    assert found == InForce(second.read_text(encoding="utf-8"))


def test_a_single_file_that_holds_hapsyncs_and_others_is_read_itself(work: Path, files: tuple[Path, Path]) -> None:
    first, second = files
    second.write_text(sealed(SECOND), encoding="utf-8")
    texts = [FIRST.format(socket=work / "admin.sock"), "    disabled\n", second.read_text("utf-8")]
    first.write_text("".join(texts), encoding="utf-8")
    with haproxy(work, first) as socket:
        found = ask(socket, str(second), uptime=-600)
        second.write_text(sealed("# not yet put together\n"), encoding="utf-8")
        apart = ask(socket, str(second), uptime=-600)
        first.unlink()
        first.mkdir()
        unreadable = ask(socket, str(second), uptime=-600)

    assert found == InForce("".join(texts))
    assert fatal_addition(parse_sections(found.text), "web", "check")
    assert apart == InForce("\n".join(["".join(texts), second.read_text(encoding="utf-8")]))
    assert "first.cfg cannot be read by this user" in unreadable.unknown


def test_a_single_file_that_is_hapsyncs_under_another_name_is_read_once(work: Path, files: tuple[Path, Path]) -> None:
    first, second = files
    first.write_text(first.read_text(encoding="utf-8") + SECOND, encoding="utf-8")
    second.unlink()
    second.symlink_to(first)
    with haproxy(work, first) as socket:
        found = ask(socket, str(second), uptime=-600)

    assert found == InForce(first.read_text(encoding="utf-8"))


def test_a_file_of_others_that_is_newer_than_the_worker_is_not_known(work: Path, files: tuple[Path, Path]) -> None:
    first, _ = files
    first.write_text(first.read_text(encoding="utf-8") + SECOND, encoding="utf-8")
    with haproxy(work, first) as socket:
        edited = ask(socket, str(first), uptime=600)
        older = ask(socket, str(first), uptime=-600)

    assert "was changed after HAProxy started" in edited.unknown
    assert older == InForce(first.read_text(encoding="utf-8"))

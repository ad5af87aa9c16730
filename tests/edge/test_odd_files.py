"""A FIFO, socket, folder, device or loop of links in place of a file: an error at once, and nobody waits."""

import fcntl
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul.endpoint import endpoint, read_token
from hapsync.errors import CatalogError, LockHeld
from hapsync.system import lock as lock_module
from hapsync.system.files import ensure_regular, open_regular, read_text, write_atomically
from hapsync.system.lock import lock, lock_owner
from tests.demo.stage import HAPSYNC
from tests.harness.ports import free_port

OWNER = "hapsync agent, pid 42,"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.bind(str(path))


def make_link_to_fifo(path: Path) -> None:
    os.mkfifo(f"{path}.fifo")
    path.symlink_to(f"{path}.fifo")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


ODD: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)),  # /dev/zero has no end
    "a loop of links": make_loop,
    "a link to a FIFO": make_link_to_fifo,
}


def config_in(work: Path) -> Path:
    path = work / "hapsync.toml"
    path.write_text(f"""\
[consul]
address = "http://127.0.0.1:{free_port()}"
token_file = "{work}/token"
[haproxy]
socket = "{work}/admin.sock"
config = "{work}/haproxy.cfg"
template = "{work}/haproxy.cfg.j2"
check_command = ["true", "{{config}}"]
reload_command = ["true"]
[agent]
state_dir = "{work}/state"
runtime_dir = "{work}/run"
[backends.web]
service = "web"
""")
    (work / "haproxy.cfg.j2").write_text('backend web\n    {{ servers("web") }}\n')
    (work / "haproxy.cfg").write_text("")
    (work / "token").write_text("secret\n")
    for folder in ("state", "run"):
        (work / folder).mkdir()
    return path


def hapsync(command: str, config: Path) -> subprocess.CompletedProcess[str]:
    """Run a command, which must end by itself."""
    asked = (str(HAPSYNC), command, "--config", str(config))
    return subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_nothing_but_a_regular_file_is_opened_and_nobody_waits(work: Path, make: Callable[[Path], None]) -> None:
    path = work / "file"
    make(path)

    for read in (read_text, ensure_regular, open_regular, lambda one: lock(one, OWNER).__enter__()):
        with pytest.raises(OSError, match=r"is a |Is a directory|Too many levels"):
            read(str(path))
    assert lock_owner(str(path)) is None
    with pytest.raises(CatalogError, match="token_file"):
        read_token(ConsulConfig(token_file=str(path)))
    with pytest.raises(CatalogError, match="ca_file"):
        endpoint(ConsulConfig(address="https://127.0.0.1:8501", ca_file=str(path)))


@pytest.mark.parametrize("name", ["state/lock", "state/memory.json", "state/catalog.json", "run/status.json"])
def test_a_fifo_in_place_of_a_file_of_hapsyncs_own_hangs_no_status(work: Path, name: str) -> None:
    config = config_in(work)
    os.mkfifo(work / name)

    ended = hapsync("status", config)

    assert ended.returncode == 1
    assert "CANNOT TELL" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("make", [os.mkfifo, make_loop], ids=["a FIFO", "a loop of links"])
@pytest.mark.parametrize("name", ["haproxy.cfg", "haproxy.cfg.j2", "hapsync.toml", "token"])
def test_status_and_check_end_with_a_word_about_an_odd_file(
    work: Path, name: str, make: Callable[[Path], None]
) -> None:
    config = config_in(work)
    (work / name).unlink()
    make(work / name)

    for command in ("status", "check"):
        ended = hapsync(command, config)
        assert ended.returncode in (1, 2, 78), ended
        assert "Traceback" not in ended.stderr
        if name != "haproxy.cfg.j2" or command == "check":  # status reads no template
            said = ended.stdout + ended.stderr
            assert re.search(rf"{re.escape(name)}.*(is a FIFO|Too many)", said, re.DOTALL), ended


def test_a_loop_of_links_is_not_written_over(work: Path) -> None:
    path = work / "file"
    path.symlink_to(path)

    with pytest.raises(OSError, match="Too many levels"):
        write_atomically(str(path), "text")
    assert path.is_symlink()


# -- a lock whose file is removed ---------------------------------------------------------------------------------


def test_a_lock_whose_file_and_folder_are_removed_is_still_held_and_told(work: Path) -> None:
    folder = work / "state"
    folder.mkdir()
    path = str(folder / "lock")
    with lock(path, OWNER) as deferred:
        shutil.rmtree(folder)
        assert lock_owner(path) == f"hapsync, pid {os.getpid()},"
        folder.mkdir()
        with pytest.raises(LockHeld, match=f"hapsync, pid {os.getpid()}, holds "), lock(path, "another"):
            pass

        Path(path).unlink()
        assert deferred.keep()
        assert lock_owner(path) == OWNER
        assert not deferred.keep()
    assert lock_owner(path) is None
    with lock(path, "the next"):
        assert lock_owner(path) == "the next"


def test_many_may_ask_who_holds_a_lock(work: Path) -> None:
    path = str(work / "lock")
    with lock(path, OWNER) as deferred:
        Path(path).unlink()
        asked = {lock_owner(path) for _ in range(2 * lock_module._QUEUE)}
        assert asked == {f"hapsync, pid {os.getpid()},", "hapsync"}
        deferred.keep()
        Path(path).unlink()
        assert lock_owner(path) == f"hapsync, pid {os.getpid()},"


def test_whoever_asks_who_holds_a_lock_again_and_again_keeps_nobody_busy() -> None:
    class Endless:
        """Somebody asks as fast as the queue is emptied."""

        asked = 0

        def accept(self) -> tuple["Endless", None]:
            self.asked += 1
            assert self.asked < 10 * lock_module._QUEUE
            return self, None

        def close(self) -> None:
            pass

    asking = Endless()
    lock_module._let_askers_go(cast("socket.socket", asking))
    assert asking.asked >= lock_module._QUEUE


def test_a_stranger_who_takes_the_name_of_a_lock_keeps_nobody_out(work: Path) -> None:
    """Needs root, as the harness does: anybody may take a name in the kernel, and a lock must not be anybody's."""
    path = str(work / "lock")
    script = (
        "import os, socket, sys; os.setuid(65534); one = socket.socket(socket.AF_UNIX); "
        "one.bind(bytes.fromhex(sys.argv[1])); one.listen(5); print('taken', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-S", "-c", script, lock_module._name(path).hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "taken\n"
        assert lock_owner(path) is None
        with lock(path, OWNER):
            assert lock_owner(path) == OWNER
        stranger.communicate("")


def test_what_took_the_lock_file_of_a_running_agent_is_an_error_that_says_so(work: Path) -> None:
    path = work / "lock"
    with lock(str(path), OWNER) as deferred:
        path.unlink()
        path.touch()
        with open(path, "r+") as other:  # noqa: PTH123
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(LockHeld):
                deferred.keep()
        assert deferred.keep()
        assert lock_owner(str(path)) == OWNER

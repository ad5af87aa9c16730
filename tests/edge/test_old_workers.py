"""Old workers asked through a real master, and their connections counted by the kernel."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hapsync.errors import HapsyncError, RuntimeAPIError
from hapsync.haproxy.ask_old_workers import end_sessions, read_old_workers
from hapsync.haproxy.master import ask_worker, read_processes
from hapsync.model.server import Address, Backend, ListenQueue
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.system import sockdiag
from hapsync.system.sockdiag import count_connections, has_waiting, read_listen_queues
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.origins import Origins
from tests.harness.ports import free_ports
from tests.harness.processes import wait_until
from tests.harness.tools import ROOT

NOBODY = 65534
GONE = Desired({"app": DesiredBackend("app", 2)}), {"app": Backend("app")}
"""A catalog and a live HAProxy that know of no server."""


def always() -> bool:
    return True


class Scene:
    """A worker that a reload has left behind with two slow requests."""

    def __init__(self, work: Path, stack: ExitStack) -> None:
        frontend, self.origin, other = free_ports(3)
        origins = stack.enter_context(Origins(work))
        origins.open("127.0.0.1", self.origin)
        config = work / "haproxy.cfg"
        servers = [f"server srv1 127.0.0.1:{self.origin}", f"server srv2 127.0.0.1:{other} disabled"]
        config.write_text(minimal_config(work / "admin.sock", frontend, {"app": servers}))
        self.haproxy = stack.enter_context(HAProxy(config, work))
        self.master = str(self.haproxy.master_path)
        self.clients = [stack.enter_context(socket.create_connection(("127.0.0.1", frontend))) for _ in range(2)]
        for client in self.clients:
            client.sendall(b"GET /slow?ms=20000 HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: self.haproxy.stat("app")["srv1"]["scur"] == "2", 10, "both requests")
        pid = self.haproxy.worker_pid()
        assert pid is not None
        self.old_pid, self.live_pid = pid, self.haproxy.reload()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.origin)


@pytest.fixture
def scene(work: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(work, stack)


def test_an_old_worker_is_shown_with_what_it_holds_and_its_sessions_can_be_ended(scene: Scene) -> None:
    seen = read_old_workers(scene.master, scene.live_pid, *GONE, always)
    [old] = seen.workers
    [gone] = old.gone
    not_asked = end_sessions(scene.master, old, gone, lambda: False)
    one = end_sessions(scene.master, old, gone, always, at_most=1)
    wait_until(lambda: ask_worker(scene.master, old.pid, "show sess", 2).count("srv=srv1") == 1, 10, "one to end")
    other = end_sessions(scene.master, old, gone, always)

    assert (seen.error, old.pid, old.sessions, old.error) == (None, scene.old_pid, 2, None)
    assert (gone.server, gone.address, gone.used, gone.connections) == ("srv1", scene.address, 2, 2)
    assert (not_asked, one, other) == (0, 1, 1)
    wait_until(
        lambda: read_old_workers(scene.master, scene.live_pid, *GONE, always).workers == (), 10, "it to be gone"
    )
    with pytest.raises(RuntimeAPIError, match=str(scene.old_pid)):
        ask_worker(scene.master, scene.old_pid, "show info", 2)


def test_an_old_worker_is_not_asked_while_a_reload_goes_on(scene: Scene) -> None:
    [old] = read_old_workers(scene.master, scene.live_pid, *GONE, lambda: False).workers

    assert (old.pid, old.sessions, old.gone) == (scene.old_pid, None, ())
    assert "reload" in str(old.error)


def test_after_a_reload_that_failed_the_live_worker_is_not_old(scene: Scene) -> None:
    before = read_processes(scene.master, 5).failed_reloads
    scene.haproxy.config.write_text("nonsense\n")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(scene.master)
        connection.sendall(b"reload\n")
        while connection.recv(65536):
            pass
    wait_until(lambda: read_processes(scene.master, 5).failed_reloads > before, 10, "the failure")

    assert scene.haproxy.worker_pid() == scene.live_pid
    assert [one.pid for one in read_old_workers(scene.master, scene.live_pid, *GONE, always).workers] == [
        scene.old_pid
    ]


def test_what_cannot_be_listed_is_said_and_not_raised(scene: Scene, work: Path) -> None:
    assert "start HAProxy with -W -S" in str(read_old_workers(str(work / "no.sock"), 1, *GONE, always).error)
    assert "does not list" in str(read_old_workers(scene.master, os.getpid(), *GONE, always).error)


def test_where_descriptors_may_not_be_looked_at_the_kernels_count_is_missing_and_said(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise HapsyncError("may not be looked at")

    monkeypatch.setattr("hapsync.system.sockdiag.socket_inodes", refused)
    [old] = read_old_workers(scene.master, scene.live_pid, *GONE, always).workers

    assert (old.sessions, old.error) == (2, "may not be looked at")
    assert [(one.used, one.connections) for one in old.gone] == [(2, None)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("others", [0, 30], ids=["a filtered list", "a list of everything"])
def test_the_kernel_counts_a_processs_own_connections(host: str, others: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener, ExitStack() as stack:
        address = Address(host, listener.getsockname()[1])
        for _ in range(4):
            stack.enter_context(socket.create_connection((host, address.port)))
        accepted = [stack.enter_context(listener.accept()[0]) for _ in range(4)]
        accepted[0].close()  # its other end is not established any more
        unused = [Address(host, port) for port in range(1, 1 + others)]
        counts = count_connections(os.getpid(), (address, *unused))

        assert counts == {address: 3, **dict.fromkeys(unused, 0)}


def test_what_another_process_has_is_not_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address(*listener.getsockname())
        with socket.create_connection(listener.getsockname()):
            assert count_connections(os.getppid(), (address,)) == {address: 0}


def test_a_list_that_does_not_show_our_own_connection_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockdiag, "_list", lambda *_: ([], True))

    with pytest.raises(HapsyncError, match="of our own"):
        count_connections(os.getpid(), (Address("127.0.0.1", 1),))


def test_a_list_that_never_is_whole_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockdiag, "_list", lambda *_: ([], False))

    with pytest.raises(HapsyncError, match="again and again"):
        count_connections(os.getpid(), (Address("127.0.0.1", 1),))


def test_an_error_of_the_kernel_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    build = sockdiag._request
    monkeypatch.setattr(sockdiag, "_request", lambda *_: build(255, None, 1))

    with pytest.raises(HapsyncError, match="do not answer: Invalid argument"):
        count_connections(os.getpid(), (Address("127.0.0.1", 1),))


@pytest.mark.parametrize(
    "pid", [lambda: 2**22 + 1, os.getpid], ids=["a process that has ended", "one of another user"]
)
def test_descriptors_that_may_not_be_looked_at_are_an_error(pid: Callable[[], int]) -> None:
    script = f"""
from hapsync.system.sockdiag import count_connections
from hapsync.errors import HapsyncError
from hapsync.model.server import Address
import os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
try:
    count_connections({pid()}, (Address("127.0.0.1", 1),))
except HapsyncError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert f"worker {pid()} may not be looked at" in done.stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_listener_whose_queue_fills_is_noticed(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=5) as listener:
        port = listener.getsockname()[1]
        before = has_waiting(os.getpid()), read_listen_queues(os.getpid())
        with socket.create_connection((host, port)):
            time.sleep(0.05)
            after = has_waiting(os.getpid()), read_listen_queues(os.getpid())

    assert before == (False, (ListenQueue(host, port, 0, 5),))
    assert after == (True, (ListenQueue(host, port, 1, 5),))


def test_the_listeners_of_another_process_are_not_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert port in {one.port for one in read_listen_queues(os.getpid())}
        assert port not in {one.port for one in read_listen_queues(os.getppid())}

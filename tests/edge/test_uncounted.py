"""The kernel's count of connections to servers at rest, as a proof that there is none."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hapsync.errors import HapsyncError
from hapsync.haproxy.uncounted import with_all_loads
from hapsync.model.server import NO_LOAD, Address, AdminState, Backend, HAProxyProcess, Observed, Server
from hapsync.plan.desired import Desired
from hapsync.system import sockdiag
from hapsync.system.sockdiag import count_kept


@contextlib.contextmanager
def bound_as_haproxy_does(path: Path) -> Iterator[None]:
    """Listen at `path`, bound under another name that was then renamed."""
    with socket.socket(socket.AF_UNIX) as listener:
        bound = Path(f"{path}.{os.getpid()}.tmp")
        listener.bind(str(bound))
        bound.rename(path)
        listener.listen()
        yield


@pytest.mark.parametrize("pid", [os.getpid(), os.getppid(), 2**22 + 1], ids=["ours", "another's", "nobody's"])
def test_a_connection_is_counted_while_it_is_there_whoever_may_be_looked_at(work: Path, pid: int) -> None:
    with bound_as_haproxy_does(work / "admin.sock"), socket.create_server(("127.0.0.1", 0)) as server:
        address, other = Address(*server.getsockname()), Address("127.0.0.2", 1)
        with socket.create_connection(server.getsockname()):
            connected = count_kept(pid, str(work / "admin.sock"), (address, other))
        closed = count_kept(pid, str(work / "admin.sock"), (address, other))

    assert connected == {address: 1, other: 0}
    assert closed == {address: 0, other: 0}


def test_connections_of_other_programs_are_not_counted_where_the_worker_may_be_looked_at(work: Path) -> None:
    with bound_as_haproxy_does(work / "admin.sock"), socket.create_server(("127.0.0.1", 0)) as server:
        address = Address(*server.getsockname())
        parent, child = socket.socketpair()
        with parent, child:
            pid = os.fork()
            if pid == 0:  # the child connects, and waits until it is told to end
                try:
                    with socket.create_connection(server.getsockname()):
                        child.send(b"1")
                        child.recv(1)
                finally:
                    os._exit(0)
            parent.recv(1)
            counted = count_kept(os.getpid(), str(work / "admin.sock"), (address,))
            everybodys = count_kept(2**22 + 1, str(work / "admin.sock"), (address,))
            parent.send(b"1")
            os.waitpid(pid, 0)

    assert (counted, everybodys) == ({address: 0}, {address: 1})


@pytest.mark.parametrize("name", ["{path}", "{path}.7.tmp"], ids=["at the path", "bound as HAProxy does"])
def test_a_haproxy_whose_socket_is_of_another_network_namespace_proves_nothing(work: Path, name: str) -> None:
    path = work / "admin.sock"
    with socket.socket(socket.AF_UNIX) as elsewhere:
        elsewhere.bind(str(path))  # as in another namespace: the file is here, its listener is not
    with socket.socket(socket.AF_UNIX) as other:
        moved = Path(name.format(path=path))
        path.rename(work / "kept")
        other.bind(str(moved))
        other.listen()
        moved.rename(work / "away")
        (work / "kept").rename(path)
        with pytest.raises(HapsyncError, match="network namespace"):
            count_kept(os.getpid(), str(path), (Address("127.0.0.1", 1),))


def test_a_socket_of_haproxy_that_is_gone_proves_nothing(work: Path) -> None:
    with pytest.raises(HapsyncError, match="cannot be looked at: No such file"):
        count_kept(os.getpid(), str(work / "admin.sock"), (Address("127.0.0.1", 1),))


FORGED = ("0000000000000000: 00000002 00000000 00010000 0001 01 {inode} {path}", "0: 0 0 0 0 0 xx {path}", "\x85", "")


@contextlib.contextmanager
def named(lines: str) -> Iterator[None]:
    """Listen at an abstract name of several lines, which /proc/net/unix shows raw."""
    with socket.socket(socket.AF_UNIX) as forger:
        forger.bind("\0zz\n" + lines)
        forger.listen()
        yield


@pytest.mark.parametrize("line", FORGED)
def test_the_name_of_a_socket_neither_stops_a_count_nor_forges_a_listener(work: Path, line: str) -> None:
    path, address = work / "a.sock", Address("127.0.0.1", 1)  # a name has 108 bytes
    with socket.socket(socket.AF_UNIX) as elsewhere:
        elsewhere.bind(str(path))
    with named(line.format(path=path, inode=path.stat().st_ino)), pytest.raises(HapsyncError, match="namespace"):
        count_kept(os.getpid(), str(path), (address,))
    path.unlink()
    with named(line.format(path=path, inode=1)), bound_as_haproxy_does(path):
        assert count_kept(os.getpid(), str(path), (address,)) == {address: 0}


def test_the_path_to_the_socket_need_not_be_haproxys(work: Path) -> None:
    (work / "other").symlink_to(work)
    with bound_as_haproxy_does(work / "admin.sock"):
        (work / "linked.sock").hardlink_to(work / "admin.sock")
        for path in (work / "other" / "admin.sock", work / "linked.sock"):
            assert count_kept(os.getpid(), str(path), ()) == {}


@pytest.mark.parametrize("part", ["_parsed", "_unix_parsed"])
@pytest.mark.parametrize("error", [None, ValueError("no number"), OSError(1, "not permitted")])
def test_no_answer_of_the_kernel_ends_a_pass_or_frees_a_slot(
    work: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception | None
) -> None:
    slot = Server("srv1", Address("127.0.0.2", 1), AdminState.MAINT, 0, load=NO_LOAD)
    observed = Observed({"web": Backend("web", (slot,))})
    process = HAProxyProcess(os.getpid(), "2.6.12", 1, is_stopping=False)
    real = getattr(sockdiag, part)

    def spoilt(*_: object) -> object:
        if error is not None:
            raise error
        return real(b"\x02", 0, 1)

    def is_idle() -> bool:
        with bound_as_haproxy_does(work / "admin.sock"):
            found = with_all_loads(observed, process, str(work / "admin.sock"), Desired({}))
        return found.backends["web"].slots[0].is_idle

    before = is_idle()
    monkeypatch.setattr(sockdiag, part, spoilt)
    (work / "admin.sock").unlink()

    assert (before, is_idle()) == (True, False)


def test_the_kernel_is_asked_for_the_families_that_occur_and_descriptors_only_where_there_are_connections(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    build = sockdiag._request

    def noted(family: int, port: int | None, state: int) -> bytes:
        asked.append(family)
        return build(family, port, state)

    def looked(_pid: int) -> set[int]:
        pytest.fail("the descriptors were looked at")

    monkeypatch.setattr(sockdiag, "_request", noted)
    monkeypatch.setattr(sockdiag, "socket_inodes", looked)
    with bound_as_haproxy_does(work / "admin.sock"):
        for ports in (3, 40):
            addresses = [Address("127.0.0.1", port) for port in range(1, 1 + ports)]
            assert not any(count_kept(os.getpid(), str(work / "admin.sock"), addresses).values())
    assert asked == [socket.AF_INET] * (4 + 1)

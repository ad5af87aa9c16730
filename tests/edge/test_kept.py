"""The kernel's count of connections to servers at rest, as a proof that there is none."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hapsync.edge.inet_diag import count_kept
from hapsync.errors import HapsyncError
from hapsync.model import Address


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


def test_a_haproxy_whose_socket_is_of_another_network_namespace_proves_nothing(work: Path) -> None:
    with pytest.raises(HapsyncError, match="network namespace"):
        count_kept(os.getpid(), str(work / "admin.sock"), (Address("127.0.0.1", 1),))

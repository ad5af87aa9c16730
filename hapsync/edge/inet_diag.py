"""Established TCP connections to given addresses, from the kernel's socket diagnostics (sock_diag(7)).

Read raw: pyroute2 takes many times as long, with the interpreter locked, and shows an error of the kernel as no
connection at all. Here an error is raised, and a connection of our own must be among what is shown.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from hapsync.edge.sockdiag import socket_inodes
from hapsync.errors import HapsyncError
from hapsync.model import Address

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x01, 0x300, 0x10
_ESTABLISHED, _LISTEN = 1, 10
_REQ_BYTECODE = 1
_PORT_GE, _PORT_LE = 4, 5
"""INET_DIAG_BC_D_GE and _D_LE of the kernel's include/uapi/linux/inet_diag.h: of the port at the other end."""
_HEADER = struct.Struct("=IHHII")
_NUMBERS = struct.Struct("=IIII")
_FILTERED_PORTS = 16
"""With more ports than this, one list of everything costs less than a filtered list for each."""
_TRIES = 3


class _Socket(NamedTuple):
    """A socket in the kernel's list: where it leads (`_key`), what waits to be read or accepted, its inode."""

    far: bytes
    waiting: int
    inode: int


def count_connections(pid: int, addresses: Collection[Address]) -> Mapping[Address, int]:
    """Return how many established connections process `pid` has to each of `addresses`; those with none too.

    Raises HapsyncError when the process's descriptors may not be looked at, or the kernel does not tell.
    """
    inodes = socket_inodes(pid)
    by_key = {_key(one): one for one in addresses}
    found = dict.fromkeys(addresses, 0)
    for one in _connections({address.port for address in addresses}):
        if one.inode in inodes and one.far in by_key:
            found[by_key[one.far]] += 1
    return found


def has_waiting(pid: int) -> bool:
    """Return whether connections wait to be accepted on any listener of process `pid`; in a millisecond.

    Raises HapsyncError when the process's descriptors may not be looked at, or the kernel does not tell.
    """
    inodes = socket_inodes(pid)
    try:
        listeners = [
            one for family in (socket.AF_INET, socket.AF_INET6) for one in _whole_list(family, None, _LISTEN)
        ]
    except OSError as error:
        raise HapsyncError(f"the kernel's socket diagnostics do not answer: {error.strerror or error}") from error
    return any(one.waiting and one.inode in inodes for one in listeners)


def _connections(ports: Collection[int]) -> list[_Socket]:
    """Return all connections of this machine to `ports`, and perhaps to others."""
    try:
        with _own_connection() as (own_port, own_inode):
            wanted = {*ports, own_port}
            filters = sorted(wanted) if len(wanted) <= _FILTERED_PORTS else [None]
            families = (socket.AF_INET, socket.AF_INET6)
            found = [
                one for port in filters for family in families for one in _whole_list(family, port, _ESTABLISHED)
            ]
    except OSError as error:
        raise HapsyncError(f"the kernel's socket diagnostics do not answer: {error.strerror or error}") from error
    if all(one.inode != own_inode for one in found):
        raise HapsyncError("the kernel's socket diagnostics do not show a connection of our own")
    return found


@contextlib.contextmanager
def _own_connection() -> Iterator[tuple[int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=1) as own:
            yield port, os.fstat(own.fileno()).st_ino


def _whole_list(family: int, port: int | None, state: int) -> list[_Socket]:
    for _ in range(_TRIES):
        found, is_whole = _list(family, port, state)
        if is_whole:
            return found
    raise OSError(errno.EINTR, "the list changed while it was read, again and again")


def _list(family: int, port: int | None, state: int) -> tuple[list[_Socket], bool]:
    found: list[_Socket] = []
    is_whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as connection:
        connection.settimeout(2)
        connection.sendto(_request(family, port, state), (0, 0))
        while True:
            chunk = connection.recv(262144)
            place = 0
            while place + _HEADER.size <= len(chunk):
                length, kind, flags, _, _ = _HEADER.unpack_from(chunk, place)
                if length < _HEADER.size or place + length > len(chunk):
                    raise OSError(errno.EBADMSG, "a message that was cut off")
                is_whole = is_whole and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return found, is_whole
                if kind == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", chunk, place + _HEADER.size)
                    raise OSError(-code, os.strerror(-code))
                if kind == _SOCK_DIAG_BY_FAMILY:
                    found.append(_parsed(chunk, place + _HEADER.size))
                place += (length + 3) & ~3


def _request(family: int, port: int | None, state: int) -> bytes:
    """Return a request for a list (struct inet_diag_req_v2): TCP of `family` in `state`, to `port` if given."""
    body = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, 0, 0, 1 << state)
    if port is not None:
        # Two tests, each of an operation and its port: code, bytes on if true, bytes on if not (past the end: no).
        tests = struct.pack("=BBH2xH", _PORT_GE, 8, 20, port) + struct.pack("=BBH2xH", _PORT_LE, 8, 12, port)
        body += struct.pack("=HH", 4 + len(tests), _REQ_BYTECODE) + tests
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body


def _parsed(chunk: bytes, start: int) -> _Socket:
    """Return what stands at `start`: struct inet_diag_msg, 72 bytes."""
    end = start + (28 if chunk[start] == socket.AF_INET else 40)
    waiting, _, _, inode = _NUMBERS.unpack_from(chunk, start + 56)
    return _Socket(chunk[start + 6 : start + 8] + chunk[start + 24 : end], waiting, inode)


def _key(address: Address) -> bytes:
    """Return an address as the kernel's list has it: port and address in network order (thousands are compared)."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return struct.pack("!H", address.port) + socket.inet_pton(family, address.host)

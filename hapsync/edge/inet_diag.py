"""Established TCP connections to given addresses, from the kernel's socket diagnostics (sock_diag(7)).

Read raw: pyroute2 takes many times as long, with the interpreter locked, and shows an error of the kernel as no
connection at all. Here an error is raised, and a connection of our own must be among what is shown.
"""

import contextlib
import errno
import os
import re
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
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
_BOUND_AS = re.compile(r"\.\d+\.tmp$")


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


def count_kept(pid: int, socket_path: str, addresses: Collection[Address]) -> Mapping[Address, int]:
    """Return how many established connections to each of `addresses` HAProxy has; 0 is a proof.

    `socket_path` is that of its Runtime API. Counted are those of its worker `pid`; where the descriptors of that
    process may not be looked at (systemd's `ProtectProc`), those of everybody here: then another program's count,
    too, and 0 still is a proof.

    Raises HapsyncError when the kernel does not tell, or HAProxy is in another network namespace, for connections
    there are not listed here. The path of its socket is: Linux lists unix sockets by network namespace, too.
    """
    listeners = _listeners_at(socket_path)
    if not listeners:
        raise HapsyncError(
            f"HAProxy's socket {socket_path} is not listed in this network namespace, so its connections are not seen"
        )
    try:
        inodes = socket_inodes(pid)
    except HapsyncError:
        inodes = set()
    is_worker = not listeners.isdisjoint(inodes)  # else `pid` is another process, of another pid namespace than ours
    by_key = {_key(one): one for one in addresses}
    found = dict.fromkeys(addresses, 0)
    for one in _connections({address.port for address in addresses}):
        if one.far in by_key and (not is_worker or one.inode in inodes):
            found[by_key[one.far]] += 1
    return found


def _listeners_at(path: str) -> set[int]:
    """Return the inodes of the unix sockets that were bound at `path`.

    HAProxy binds to PATH.PID.tmp and renames that to PATH, which the kernel does not notice (measured with 2.6).
    """
    try:
        text = Path("/proc/self/net/unix").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise HapsyncError(f"the kernel's unix sockets cannot be read: {error.strerror or error}") from error
    wanted = os.path.realpath(path)
    found = set()
    for line in text.splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8 and os.path.realpath(_BOUND_AS.sub("", words[7])) == wanted:  # noqa: PLR2004
            found.add(int(words[6]))
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

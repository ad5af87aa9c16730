"""The kernel's lists of sockets (sock_diag(7)), and the process at the other end of a socket.

The functions read numbers and no names: any user may give a socket a name with line feeds, and /proc/net/unix shows
it raw.

pyroute2's `DiagSocket` hides errors of the kernel and then shows no socket at all (measured). Where an empty list
would be an answer, the list must therefore show a socket of hapsync's own. pyroute2 also takes 50 us a socket with
the interpreter locked (4,000 connections: 190 ms, and 7 ms read raw) and 60 ms to import (measured with 0.9.7).
pyroute2 lists only the listeners shown to operators, and all other lists are read raw.
"""

import contextlib
import errno
import os
import re
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from hapsync.errors import HapsyncError
from hapsync.model.server import Address, ListenQueue

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x01, 0x300, 0x10
_ESTABLISHED, _LISTEN = 1, 10
_REQ_BYTECODE = 1
_PORT_GE, _PORT_LE = 4, 5
"""INET_DIAG_BC_D_GE and _D_LE of the kernel's include/uapi/linux/inet_diag.h: tests of the remote port."""
_UDIAG_SHOW_VFS, _UNIX_DIAG_VFS = 2, 1
"""Constants of the kernel's include/uapi/linux/unix_diag.h, for the file that a unix socket was bound as."""
_HEADER = struct.Struct("=IHHII")
_NUMBER = struct.Struct("=I")
_ATTRIBUTE = struct.Struct("=HH")
_FILE = struct.Struct("=II")
_FILTERED_PORTS = 16
"""With more ports than this, one list of everything costs less than a filtered list for each."""
_TRIES = 3
_Parsed = TypeVar("_Parsed")


class _File(NamedTuple):
    """A file as the kernel lists it beside a socket: the low 32 bits of its inode, and its device (MKDEV)."""

    inode: int
    device: int


def peer_of(connection: socket.socket) -> tuple[int | None, int | None]:
    """Return pid and user id of the process at the other end of a unix socket, from the kernel (unix(7)).

    On the connecting side, the peer is the listening process. A value is None where the kernel does not tell, or the
    process is in another PID namespace.
    """
    form = "iII"
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form))
    except OSError:
        return None, None
    pid, uid, _ = struct.unpack(form, found)
    return int(pid) or None, int(uid)


def socket_inodes(pid: int) -> set[int]:
    """Return the inodes of the sockets of process `pid`, by which the kernel's lists name sockets, too.

    Raises HapsyncError when this user may not read its descriptors, or the process has ended.
    """
    inodes = set()
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except OSError as error:
        raise HapsyncError(f"the sockets of HAProxy's worker {pid} may not be looked at: {error}") from error
    for descriptor in descriptors:
        with contextlib.suppress(OSError, ValueError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    return inodes


def has_waiting(pid: int) -> bool:
    """Return whether connections wait on any listener of process `pid`; takes a millisecond.

    Raises HapsyncError when this user may not read the process's descriptors, or the kernel does not tell.
    """
    inodes = socket_inodes(pid)
    with _told():
        families = (socket.AF_INET, socket.AF_INET6)
        listeners = [one for family in families for one in _whole_list(_request(family, None, _LISTEN), _listener)]
    return any(waiting and inode in inodes for inode, waiting in listeners)


def read_listen_queues(pid: int) -> tuple[ListenQueue, ...]:
    """Return the accept queues of the TCP listeners of process `pid`, the fullest first.

    Raises HapsyncError when this user may not read the process's descriptors, or the kernel does not tell.
    """
    from pyroute2 import DiagSocket  # noqa: PLC0415  (60 ms)

    inodes = socket_inodes(pid)
    with socket.create_server(("127.0.0.1", 0)) as ours, DiagSocket() as diag:
        own = os.fstat(ours.fileno()).st_ino
        families = (socket.AF_INET, socket.AF_INET6)
        found = [one for family in families for one in diag.get_sock_stats(family=family, states=1 << _LISTEN)]
    if all(one["idiag_inode"] != own for one in found):
        raise HapsyncError("the kernel's socket diagnostics show no listener at all; is inet_diag available?")
    queues = [
        ListenQueue(one["idiag_src"], one["idiag_sport"], one["idiag_rqueue"], one["idiag_wqueue"])
        for one in found
        if one["idiag_inode"] in inodes
    ]
    return tuple(sorted(queues, key=lambda one: (-one.waiting, one.port, one.host)))


def count_connections(pid: int, addresses: Collection[Address]) -> Mapping[Address, int]:
    """Return the number of established connections of process `pid` to each of `addresses`, zeros included.

    Raises HapsyncError when this user may not read the process's descriptors, or the kernel does not tell.
    """
    inodes = socket_inodes(pid)
    return _counts(addresses, (far for far, inode in _connections(addresses) if inode in inodes))


def count_kept(pid: int, socket_path: str, addresses: Collection[Address]) -> Mapping[Address, int]:
    """Return the number of HAProxy's established connections to each of `addresses`; a 0 is certain.

    `socket_path` is the socket of the Runtime API. The numbers are those of the worker `pid`. Where this user may not
    read the worker's descriptors (systemd's `ProtectProc`), connections of other programs count as well, and a 0 is
    still certain.

    Raises HapsyncError when the kernel does not tell, or when HAProxy is in another network namespace, whose
    connections are not listed here. The file at the path identifies HAProxy's listener, for Linux lists unix sockets
    by network namespace, too.
    """
    listeners = _listeners_at(socket_path)
    if not listeners:
        raise HapsyncError(
            f"HAProxy's socket {socket_path} is not listed in this network namespace, so its connections are not seen"
        )
    there = _connections(addresses)
    inodes: set[int] = set()
    if there:  # the descriptors of a process with 16,000 take 75 ms
        with contextlib.suppress(HapsyncError):
            inodes = socket_inodes(pid)
    is_worker = not listeners.isdisjoint(inodes)  # else `pid` is of another PID namespace
    return _counts(addresses, (far for far, inode in there if not is_worker or inode in inodes))


def _counts(addresses: Iterable[Address], found: Iterable[Address]) -> Mapping[Address, int]:
    counts = dict.fromkeys(addresses, 0)
    for one in found:
        counts[one] += 1
    return counts


def _listeners_at(path: str) -> set[int]:
    """Return the inodes of the listening unix sockets bound as the file at `path`, in this network namespace.

    HAProxy binds to PATH.PID.tmp and renames it to PATH, so the file stays the same.
    """
    with _told(f"HAProxy's socket {path} cannot be looked at"):
        wanted = _file_at(path)
    with _told():
        return {inode for inode, file in _whole_list(_unix_request(_LISTEN), _unix_parsed) if file == wanted}


def _file_at(path: str) -> _File:
    """Return the file at `path`, with the device of its mount, for stat(2) may name another (overlay, measured)."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        inode = os.fstat(descriptor).st_ino
        own = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    finally:
        os.close(descriptor)
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    mount = re.search(r"^mnt_id:\s*(\d+)$", own, re.MULTILINE)
    device = re.search(rf"^{mount[1]} \d+ (\d+):(\d+) ", mounts, re.MULTILINE) if mount else None
    if device is None:
        raise OSError(errno.ENOENT, "its mount is not listed")
    return _File(inode & 0xFFFFFFFF, int(device[1]) << 20 | int(device[2]))


@contextlib.contextmanager
def _told(what: str = "the kernel's socket diagnostics do not answer") -> Iterator[None]:
    """Raise HapsyncError, with `what` and the reason, for any error of a question to the kernel."""
    try:
        yield
    except (OSError, ValueError, IndexError, struct.error) as error:
        why = getattr(error, "strerror", None) or error
        raise HapsyncError(f"{what}: {why}") from error


def _connections(addresses: Collection[Address]) -> list[tuple[Address, int]]:
    """Return the address and the inode of each connection of this machine to one of `addresses`."""
    with _told(), _own_connection() as (own_port, own_inode):
        by_key = {_key(one): one for one in addresses}
        wanted = {(socket.AF_INET, own_port), *((_family(one), one.port) for one in addresses)}
        # Each list walks the kernel's whole table of both families: 11 ms with 100,000 connections.
        filters: list[tuple[int, int | None]] = sorted(wanted)
        if len(wanted) > _FILTERED_PORTS:
            filters = [(family, None) for family in {family for family, _ in wanted}]
        found = [
            one for family, port in filters for one in _whole_list(_request(family, port, _ESTABLISHED), _parsed)
        ]
    if all(inode != own_inode for _, inode in found):
        raise HapsyncError("the kernel's socket diagnostics do not show a connection of our own")
    return [(by_key[far], inode) for far, inode in found if far in by_key]


@contextlib.contextmanager
def _own_connection() -> Iterator[tuple[int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=1) as own:
            yield port, os.fstat(own.fileno()).st_ino


def _whole_list(request: bytes, parsed: Callable[[bytes, int, int], _Parsed]) -> list[_Parsed]:
    for _ in range(_TRIES):
        found, is_whole = _list(request, parsed)
        if is_whole:
            return found
    raise OSError(errno.EINTR, "the list changed while it was read, again and again")


def _list(request: bytes, parsed: Callable[[bytes, int, int], _Parsed]) -> tuple[list[_Parsed], bool]:
    """Return the values of `parsed` for each entry, given by its two ends, and whether the list is whole."""
    found: list[_Parsed] = []
    is_whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as connection:
        connection.settimeout(2)
        connection.sendto(request, (0, 0))
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
                    found.append(parsed(chunk, place + _HEADER.size, place + length))
                place += (length + 3) & ~3


def _request(family: int, port: int | None, state: int) -> bytes:
    """Return a request for a list (struct inet_diag_req_v2): TCP of `family` in `state`, to `port` if given."""
    body = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, 0, 0, 1 << state)
    if port is not None:
        # Each of the two tests has an operation and a port: the code, the jump if true, the jump if false (past the
        # end: no match).
        tests = struct.pack("=BBH2xH", _PORT_GE, 8, 20, port) + struct.pack("=BBH2xH", _PORT_LE, 8, 12, port)
        body += struct.pack("=HH", 4 + len(tests), _REQ_BYTECODE) + tests
    return _dump(body)


def _unix_request(state: int) -> bytes:
    """Return a request for a list (struct unix_diag_req): unix sockets in `state`, and their files."""
    return _dump(struct.pack("=BBHIIIQ", socket.AF_UNIX, 0, 0, 1 << state, 0, _UDIAG_SHOW_VFS, 0))


def _dump(body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body


def _unix_parsed(chunk: bytes, start: int, end: int) -> tuple[int, _File | None]:
    """Return a socket's inode, and the file it was bound as: struct unix_diag_msg, 16 bytes, and attributes."""
    (inode,) = _NUMBER.unpack_from(chunk, start + 4)
    place = start + 16
    while place + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(chunk, place)
        if length < _ATTRIBUTE.size:
            raise OSError(errno.EBADMSG, "an attribute without a length")
        if kind == _UNIX_DIAG_VFS:
            return inode, _File(*_FILE.unpack_from(chunk, place + _ATTRIBUTE.size))
        place += (length + 3) & ~3
    return inode, None


def _parsed(chunk: bytes, start: int, _end: int) -> tuple[bytes, int]:
    """Return the remote end (`_key`) and the inode of the connection at `start`: struct inet_diag_msg, 72 bytes."""
    end = start + (28 if chunk[start] == socket.AF_INET else 40)
    (inode,) = _NUMBER.unpack_from(chunk, start + 68)
    return chunk[start + 6 : start + 8] + chunk[start + 24 : end], inode


def _listener(chunk: bytes, start: int, _end: int) -> tuple[int, int]:
    """Return the inode of the listener at `start`, and the number of connections that wait: struct inet_diag_msg."""
    waiting, _, _, inode = struct.unpack_from("=IIII", chunk, start + 56)
    return inode, waiting


def _key(address: Address) -> bytes:
    """Return an address in the kernel's form, port and address in network order, for a fast comparison."""
    return struct.pack("!H", address.port) + socket.inet_pton(_family(address), address.host)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET

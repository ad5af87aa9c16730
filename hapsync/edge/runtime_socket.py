"""HAProxy's Runtime API over its unix socket: one connection, one worker, each reply attributed to its command.

The connection is put into prompt mode and the commands are pipelined, a line each. HAProxy 2.2 to 3.4 then end every
reply with a line holding `> `, so replies never run together (in a `;` batch they do, and up to 2.8 some lack even
their blank line); on 2.6.12 it is as fast as `;` batches (10,000 commands: 48 ms against 43 ms).
"""

import contextlib
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from hapsync.errors import RuntimeAPIError
from hapsync.model import Backend, HAProxyProcess, Load, Observed, Proof
from hapsync.observed import NO_SUCH_BACKEND, parse_info, parse_loads, parse_proofs, parse_servers_state
from hapsync.runtime import (
    SHOW_INFO,
    SHOW_SERVERS_STATE,
    SHOW_STAT_SERVERS,
    Command,
    show_servers_state,
    show_stat_servers,
)

_END_OF_REPLY = b"\n> "
_BATCH_BYTES = 8192
"""Half of HAProxy's buffer (tune.bufsize 16384), so that what is sent is always taken in whole."""
_PARTIAL_LIMIT = 8
"""Up to this many backends are read one by one; above it one full dump is cheaper."""


class RuntimeSession:
    """An open conversation with one worker; get it from `open_session`."""

    def __init__(self, connection: socket.socket, path: str, timeout_seconds: float) -> None:
        self._socket = connection
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._unread = b""
        self._is_prompting = False

    def ask(self, commands: Sequence[Command]) -> Sequence[str]:
        """Send `commands` and return HAProxy's reply to each, in order.

        Raises RuntimeAPIError when the worker closes, or does not answer within the timeout.
        """
        replies: list[str] = []
        batch: list[bytes] = []
        size = 0
        for command in commands:
            line = command.line.encode("ascii") + b"\n"
            if batch and size + len(line) > _BATCH_BYTES:
                replies += self._exchange(batch)
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        if batch:
            replies += self._exchange(batch)
        return replies

    def read_process(self) -> HAProxyProcess:
        """Return who answers; a worker that is stopping is an error, for it takes no changes any more.

        Raises RuntimeAPIError.
        """
        (info,) = self.ask((SHOW_INFO,))
        return _serving(parse_info(info), self._path)

    def read_servers(self, backends: Collection[str]) -> Observed:
        """Return the servers of `backends`, their loads unknown.

        Raises RuntimeAPIError.
        """
        return _parse_servers(backends, self.ask(_state_commands(backends)))

    def read_all(self, backends: Collection[str]) -> tuple[HAProxyProcess, Observed]:
        """Return who answers and the servers of `backends`, in one exchange; see `read_process`, `read_servers`.

        Raises RuntimeAPIError.
        """
        info, *dumps = self.ask((SHOW_INFO, *_state_commands(backends)))
        return _serving(parse_info(info), self._path), _parse_servers(backends, dumps)

    def ask_and_read(
        self, commands: Sequence[Command], servers: Collection[tuple[str, str]]
    ) -> tuple[Sequence[str], Observed]:
        """Send `commands`, and return the replies and `servers`, by backend and name, as they are right after them.

        Raises RuntimeAPIError.
        """
        backends = sorted({backend for backend, _ in servers})
        replies = self.ask((*commands, *_state_commands(backends)))
        return replies[: len(commands)], _parse_servers(backends, replies[len(commands) :], servers)

    def read_stats(
        self, backends: Collection[Backend]
    ) -> tuple[Mapping[tuple[str, str], Load], Mapping[tuple[str, str], Proof]]:
        """Return the load and the proof of each server of `backends`, as read a moment ago on this connection.

        Free slots are left out: nothing is on them, and of a large backend they may be the most.

        Raises RuntimeAPIError.
        """
        if len(backends) > _PARTIAL_LIMIT:
            dumps = self.ask((SHOW_STAT_SERVERS,))
        else:
            dumps = self.ask([show_stat_servers(backend.proxy_id) for backend in backends])
        only = {
            (one.name, server.name) for one in backends for server in (*one.slots, *one.foreign) if not server.is_free
        }
        loads: dict[tuple[str, str], Load] = {}
        proofs: dict[tuple[str, str], Proof] = {}
        for dump in dumps:
            loads.update(parse_loads(dump, only))
            proofs.update(parse_proofs(dump, only))
        return loads, proofs

    def _exchange(self, lines: Sequence[bytes]) -> Sequence[str]:
        opening = () if self._is_prompting else (b"prompt\n",)
        self._is_prompting = True
        try:
            self._socket.sendall(b"".join((*opening, *lines)))
            return self._replies(len(opening) + len(lines))[len(opening) :]
        except OSError as error:
            raise RuntimeAPIError(f"HAProxy's socket {self._path}: {_words(error)}") from error

    def _replies(self, count: int) -> Sequence[str]:
        deadline = time.monotonic() + self._timeout_seconds
        received = bytearray(self._unread)
        ends = received.count(_END_OF_REPLY)
        while ends < count:
            if time.monotonic() > deadline:
                raise TimeoutError
            # A delimiter may be cut in two: look again from just before the end of what is here.
            seen = max(0, len(received) - len(_END_OF_REPLY) + 1)
            chunk = self._socket.recv(262144)
            if not chunk:
                raise ConnectionResetError("closed by HAProxy before it had answered")
            received += chunk
            ends += received.count(_END_OF_REPLY, seen)
        *replies, self._unread = bytes(received).split(_END_OF_REPLY, count)
        return [reply.decode("utf-8", "replace") for reply in replies]


def _state_commands(backends: Collection[str]) -> Sequence[Command]:
    if len(backends) > _PARTIAL_LIMIT:
        return (SHOW_SERVERS_STATE,)
    return [show_servers_state(name) for name in backends]


def _parse_servers(
    backends: Collection[str], dumps: Sequence[str], only: Collection[tuple[str, str]] | None = None
) -> Observed:
    if len(backends) > _PARTIAL_LIMIT:
        return parse_servers_state(dumps[0], backends, only)
    found = {}
    for name, dump in zip(backends, dumps, strict=True):
        text = "1\n# " + _NO_COLUMNS if dump.strip() == NO_SUCH_BACKEND else dump
        found[name] = parse_servers_state(text, (name,), only).backends[name]
    return Observed(found)


_NO_COLUMNS = (
    "be_id be_name srv_id srv_name srv_addr srv_port srv_op_state srv_admin_state srv_uweight "
    "srv_time_since_last_change srv_check_result srv_check_state\n"
)


def _serving(process: HAProxyProcess, path: str) -> HAProxyProcess:
    if process.is_stopping:
        raise RuntimeAPIError(f"HAProxy's socket {path}: answered by worker {process.pid}, which is stopping")
    return process


@contextlib.contextmanager
def open_session(path: str, timeout_seconds: float) -> Iterator[RuntimeSession]:
    """Open a conversation with the worker behind the socket at `path`; it ends with the `with` block.

    `timeout_seconds` bounds the connection and each exchange.

    Raises RuntimeAPIError when nobody answers.
    """
    if len(path.encode()) > 107:  # noqa: PLR2004  (sun_path of Linux, less its NUL)
        raise RuntimeAPIError(
            f"HAProxy's socket {path}: the path is longer than the 107 bytes a unix socket may have"
        )
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise RuntimeAPIError(f"HAProxy's socket {path}: {_words(error)}") from error
    try:
        connection.settimeout(timeout_seconds)
        session = RuntimeSession(connection, path, timeout_seconds)
        try:
            connection.connect(path)
        except OSError as error:
            raise RuntimeAPIError(f"HAProxy's socket {path}: {_words(error)}") from error
        yield session
    finally:
        connection.close()


def _words(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist; is HAProxy running, and is this its `stats socket`?"
        case ConnectionRefusedError():
            return "refuses the connection; HAProxy is not running"
        case PermissionError():
            return "may not be opened by this user; see `mode`, `user` and `group` of the `stats socket` line"
        case BlockingIOError():
            return "is full: HAProxy takes 10 connections at a time (`stats maxconn`)"
        case TimeoutError():
            return "gave no answer in time"
        case _:
            return error.strerror or str(error)

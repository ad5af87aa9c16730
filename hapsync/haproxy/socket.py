"""HAProxy's Runtime API over its unix socket: one connection, one worker, each reply attributed to its command.

The connection is in prompt mode, and the commands are pipelined, a line each. HAProxy 2.2 to 3.4 then end every reply
with a line holding `> `, so replies never run together. In a `;` batch they do, and up to 2.8 some lack even their
blank line. On 2.6.12 prompt mode is as fast as `;` batches (10,000 commands: 48 ms against 43 ms).

The same bytes may occur within a reply: `show stat` prints a server's answer to its check, on 2.6 with its line feeds
(measured on 2.6.12 with an error packet for `option mysql-check`). Such an answer is quoted, and quotes within it are
doubled (HAProxy's src/tools.c, csv_enc_append), so `> ` after an odd number of quotes is no delimiter.

No other reply has quotes, and `show servers state` prints the name from an SRV record of DNS (`srv_fqdn`). A
delimiter in such a name ends the reply early, and the rest shifts the replies after it. HAProxy then sends more
replies than commands, and the exchange is refused.
"""

import contextlib
import select
import socket
import time
from collections.abc import Collection, Iterator, Sequence

import attrs

from hapsync.errors import RuntimeAPIError
from hapsync.haproxy.commands import (
    SHOW_INFO,
    SHOW_SERVERS_STATE,
    SHOW_STAT_SERVERS,
    Command,
    show_servers_state,
    show_stat_servers,
)
from hapsync.haproxy.show import (
    NO_SUCH_BACKEND,
    Stat,
    parse_info,
    parse_servers_state,
    parse_stat,
)
from hapsync.model.server import Backend, HAProxyProcess, Observed
from hapsync.text import quoted

_END_OF_REPLY = b"\n> "
_CSV = b"show stat "
"""The beginning of commands with a CSV reply."""
_BATCH_BYTES = 8192
"""The size of a portion, half of HAProxy's buffer (tune.bufsize 16384), so that HAProxy takes each portion whole."""
_PARTIAL_LIMIT = 8
"""Up to this number, backends are read one by one; above it one full dump is cheaper."""


class RuntimeSession:
    """An open conversation with one worker; get it from `open_session`."""

    def __init__(self, connection: socket.socket, path: str, timeout_seconds: float) -> None:
        self._socket = connection
        self.path = path
        self._timeout_seconds = timeout_seconds
        self._unread = b""
        self._is_prompting = False

    def ask(self, commands: Sequence[Command]) -> Sequence[str]:
        """Send `commands` and return HAProxy's reply to each, in order.

        Raises RuntimeAPIError when the worker closes, does not answer within the timeout, or says more than is asked
        for.
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

    def _ask_and_read(
        self, commands: Sequence[Command], backends: Collection[str], only: Collection[tuple[str, str]] | None = None
    ) -> tuple[Sequence[str], Observed]:
        """Send `commands`; return the replies, and the state of `backends`, or of the servers `only`, after them.

        Backends with unreadable lines in the dump of all are read again alone, because another one's text may be the
        cause.
        """
        if len(backends) <= _PARTIAL_LIMIT:
            replies = self.ask((*commands, *map(show_servers_state, backends)))
            return replies[: len(commands)], _parse_each(backends, replies[len(commands) :], only)
        *replies, dump = self.ask((*commands, SHOW_SERVERS_STATE))
        observed = parse_servers_state(dump, backends, only)
        if only is None:
            for name in sorted(observed.unread):
                observed = observed.updated(self.read_servers((name,)))
        return replies, observed

    def read_process(self) -> HAProxyProcess:
        """Return the process that answers; a stopping worker is an error, because it takes no changes any more.

        Raises RuntimeAPIError.
        """
        (info,) = self.ask((SHOW_INFO,))
        return _serving(parse_info(info), self.path)

    def read_servers(self, backends: Collection[str]) -> Observed:
        """Return the servers of `backends`, their loads unknown.

        Raises RuntimeAPIError.
        """
        return self._ask_and_read((), backends)[1]

    def read_backend(self, name: str) -> Backend:
        """Return the servers of the backend `name`, their loads unknown.

        Raises RuntimeAPIError, also where HAProxy's answer about it cannot be read.
        """
        observed = self.read_servers((name,))
        if name in observed.unread:
            raise RuntimeAPIError(f"backend {name} cannot be read: {observed.unread[name]}")
        return observed.backends[name]

    def read_all(self, backends: Collection[str]) -> tuple[HAProxyProcess, Observed]:
        """Return the process and the servers of `backends`, in one exchange; see `read_process`, `read_servers`.

        Raises RuntimeAPIError.
        """
        (info,), observed = self._ask_and_read((SHOW_INFO,), backends)
        return _serving(parse_info(info), self.path), observed

    def ask_and_read(
        self, commands: Sequence[Command], servers: Collection[tuple[str, str]]
    ) -> tuple[Sequence[str], Observed]:
        """Send `commands`; return the replies and the state of `servers`, by backend and name, right after them.

        Raises RuntimeAPIError.
        """
        return self._ask_and_read(commands, sorted({backend for backend, _ in servers}), servers)

    def read_stats(self, backends: Collection[Backend]) -> Stat:
        """Return the counters of the servers of `backends`, a recent reading on this connection.

        Free slots are left out: they have no load, and may be most slots of a large backend.

        Raises RuntimeAPIError.
        """
        if len(backends) > _PARTIAL_LIMIT:
            dumps = self.ask((SHOW_STAT_SERVERS,))
        else:
            dumps = self.ask([show_stat_servers(backend.proxy_id) for backend in backends])
        only = {
            (one.name, server.name) for one in backends for server in (*one.slots, *one.foreign) if not server.is_free
        }
        names = {one.name for one in backends}
        stat = parse_stat(dumps, names, only)
        if only <= stat.loads.keys():
            return stat
        # A row that is cut off may hide the name of its server.
        return attrs.evolve(stat, unread=parse_stat(dumps, names).unread)

    def _exchange(self, lines: Sequence[bytes]) -> Sequence[str]:
        opening = () if self._is_prompting else (b"prompt\n",)
        self._is_prompting = True
        try:
            self._ensure_all_read()
            self._socket.sendall(b"".join((*opening, *lines)))
            replies = self._replies((*opening, *lines))[len(opening) :]
            self._ensure_all_read()
        except OSError as error:
            raise RuntimeAPIError(f"HAProxy's socket {self.path}: {_words(error)}") from error
        return replies

    def _ensure_all_read(self) -> None:
        """Raise RuntimeAPIError when HAProxy has sent more than the replies to the commands."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if poll.poll(0):
            with contextlib.suppress(OSError):  # the next command shows a closed connection
                self._unread += self._socket.recv(65536)
        if self._unread:
            left = quoted(self._unread.decode("utf-8", "replace"))
            raise RuntimeAPIError(
                f"HAProxy's socket {self.path}: more was answered than was asked for, since a reply holds what ends "
                f"one, so no reply is believed; left over: {left}"
            )

    def _replies(self, lines: Sequence[bytes]) -> Sequence[str]:
        deadline = time.monotonic() + self._timeout_seconds
        received = bytearray()
        replies: list[str] = []
        begin = 0
        for line in lines:
            is_csv = line.startswith(_CSV)
            looked = counted = begin
            quotes = 0
            while True:
                end = received.find(_END_OF_REPLY, looked)
                if end >= 0:
                    quotes += received.count(b'"', counted, end) if is_csv else 0
                    if quotes % 2 == 0:
                        break
                    looked = counted = end + 1  # within a quoted field
                    continue
                if time.monotonic() > deadline:
                    raise TimeoutError
                # A delimiter may be cut in two, so the search begins again just before the end of the received bytes.
                looked = max(looked, len(received) - len(_END_OF_REPLY) + 1)
                chunk = self._socket.recv(262144)
                if not chunk:
                    raise ConnectionResetError("closed by HAProxy before it had answered")
                received += chunk
            replies.append(received[begin:end].decode("utf-8", "replace"))
            begin = end + len(_END_OF_REPLY)
        self._unread = bytes(received[begin:])
        return replies


def _parse_each(
    backends: Collection[str], dumps: Sequence[str], only: Collection[tuple[str, str]] | None
) -> Observed:
    """Return the reading in `dumps`, one of each of `backends`; a dump that is none makes its backend unread."""
    found = Observed({})
    for name, dump in zip(backends, dumps, strict=True):
        if dump.strip() == NO_SUCH_BACKEND:
            one = Observed({name: Backend(name, exists=False)})
        else:
            try:
                one = parse_servers_state(dump, (name,), only)
            except RuntimeAPIError as error:
                one = Observed({}, {name: str(error)})
        found = found.updated(one)
    return found


def _serving(process: HAProxyProcess, path: str) -> HAProxyProcess:
    if process.is_stopping:
        raise RuntimeAPIError(f"HAProxy's socket {path}: answered by worker {process.pid}, which is stopping")
    return process


@contextlib.contextmanager
def open_session(path: str, timeout_seconds: float) -> Iterator[RuntimeSession]:
    """Open a session with the worker behind the socket at `path`; it ends with the `with` block.

    `timeout_seconds` bounds the connection and each exchange.

    Raises RuntimeAPIError without an answer; its `is_down` says whether HAProxy is known not to run.
    """
    if len(path.encode()) > 107:  # noqa: PLR2004  (sun_path of Linux, less its NUL)
        raise RuntimeAPIError(
            f"HAProxy's socket {path}: the path is longer than the 107 bytes a unix socket may have"
        )
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.settimeout(timeout_seconds)
            connection.connect(path)
        except OSError as error:
            is_down = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            raise RuntimeAPIError(f"HAProxy's socket {path}: {_words(error)}", is_down=is_down) from error
        yield RuntimeSession(connection, path, timeout_seconds)


def check_alive(path: str, timeout_seconds: float) -> HAProxyProcess:
    """Return the process behind the socket at `path`: the cheapest question that reveals a restart or a reload.

    Raises RuntimeAPIError.
    """
    with open_session(path, timeout_seconds) as session:
        return session.read_process()


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

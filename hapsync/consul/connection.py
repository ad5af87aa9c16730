"""The transport: HTTP to Consul's agent, over TCP, TLS or a unix socket, in which every answer has a deadline.

The timeout of `http.client` holds for each read of the socket alone, so an agent that sends a byte a second never
reaches it. Here one deadline holds for the whole answer: status line, headers, sizes of chunks, and body.
"""

import contextlib
import errno
import functools
import http
import http.client
import io
import math
import re
import socket
import sys
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from hapsync.consul.endpoint import Endpoint
from hapsync.consul.network_errors import SPEAKS_TLS, is_told_to_speak_tls, words
from hapsync.consul.query import NOT_BLOCKING, Query
from hapsync.consul.wait_limit import JITTER
from hapsync.errors import CatalogError, CutShort, TooLarge
from hapsync.system.process import leaves_spare_files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The default limit of a body: a larger one is a fault, and must not fill the memory."""
CHUNK_BYTES = 1024 * 1024
_GATEWAY = {
    http.HTTPStatus.REQUEST_TIMEOUT,
    http.HTTPStatus.BAD_GATEWAY,
    http.HTTPStatus.GATEWAY_TIMEOUT,
}
"""The statuses of a proxy whose timeout has passed; Consul's agent sends none of them (agent/http.go)."""
_LATE = {http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.GATEWAY_TIMEOUT}
"""The statuses that mean a timeout and nothing else; a proxy sends 502 also while Consul restarts."""
KEEPALIVE_AFTER_SECONDS = 15
"""A firewall or NAT on the way forgets a connection that is silent for minutes, as a blocked query is."""


@attrs.frozen
class Answer:
    """An answer of Consul: the status code, the headers by lower-case name, and the whole body.

    python-consul2 reads `code` and `body`.
    """

    code: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)

    @property
    def index(self) -> int:
        """Consul's index; -1 without one, as in an answer of another program."""
        text = self.headers.get("x-consul-index", "")
        return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else -1


class Connection(http.client.HTTPConnection):
    """A connection to an `Endpoint`; `begin` sets the deadline of the next answer, or of the connect."""

    def __init__(self, where: Endpoint) -> None:
        super().__init__(where.host, where.port)
        self._where = where
        self._deadline = time.monotonic()
        self._grace_seconds = 0.0
        self.response_class = functools.partial(_Response, self)  # type: ignore[assignment]  # only ever called

    def begin(self, deadline: float, grace_seconds: float) -> None:
        """Allow the next answer until `deadline` (monotonic seconds), and `grace_seconds` from its first byte."""
        self._deadline, self._grace_seconds = deadline, grace_seconds
        if self.sock is not None:
            self.sock.settimeout(self.left_seconds())

    def connect(self) -> None:
        """Connect before the deadline of `begin`; raises OSError, ssl.SSLError and UnicodeError."""
        where = self._where
        if where.unix_path is not None:
            self._try(socket.AF_UNIX, where.unix_path, self.left_seconds())
            return
        # The time of name resolution is limited by the system (resolv.conf(5)).
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
        for number, (family, _, _, _, address) in enumerate(found):
            try:
                # An address without an answer leaves time for the next addresses.
                self._try(family, address, self.left_seconds() / (len(found) - number))
                break
            except OSError:
                if number == len(found) - 1:
                    raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_AFTER_SECONDS)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_AFTER_SECONDS)
        if where.tls is not None:
            self.sock.settimeout(self.left_seconds())
            self.sock = where.tls.wrap_socket(self.sock, server_hostname=where.host)

    def left_seconds(self) -> float:
        """Return the seconds until the deadline; raises TimeoutError after it."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def has_begun(self) -> None:
        """Note that the answer has begun, so Consul's wait is over and the rest of the answer has its own time."""
        self._deadline = min(self._deadline, time.monotonic() + self._grace_seconds)

    def _try(self, family: int, address: object, timeout_seconds: float) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        # The socket is published before it connects, so another thread can end the connect.
        self.sock = sock
        try:
            sock.settimeout(timeout_seconds)
            sock.connect(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
        except BaseException:
            sock.close()
            raise


class _Response(http.client.HTTPResponse):
    """An answer that is read with the deadline of its connection."""

    def __init__(self, connection: Connection, sock: socket.socket, *, method: str | None = None) -> None:
        super().__init__(sock, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(connection, sock))


class _Timed(io.RawIOBase):
    def __init__(self, connection: Connection, sock: socket.socket) -> None:
        self._connection = connection
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        """This file keeps the socket open after the connection closed it, as it does with its last answer."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._sock.settimeout(self._connection.left_seconds())
        size = self._raw.readinto(buffer)
        if size:
            self._connection.has_begun()
        return size

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class AgentHTTP:
    """One kept-alive connection to the agent, for one thread; `abort` may be called from any other.

    This class replaces the transport of python-consul2. The library's has no deadline for blocking queries and no
    unix socket, follows proxy variables, and hides headers that a watch needs. Errors of the network and of HTTP
    become CatalogError.
    """

    def __init__(self, where: Endpoint, name: str, timeout_seconds: float) -> None:
        """Take the `name` of the agent in messages, and the longest time for an answer."""
        self._where = where
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._connection = Connection(where)
        self._has_answered = False
        """The connection that is open has given an answer."""
        self._aborted = False

    def request(
        self,
        method: str,
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        headers: Mapping[str, str] | None = None,
        body: str | bytes = "",
        query: Query = NOT_BLOCKING,
        *,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Answer:
        """Request `path` with `params`; of `query` only the times count here.

        The timeout holds from the first byte of the status line to the last byte of the body.

        Raises CatalogError, CutShort where a blocking query ended without Consul's answer, and TooLarge for a body of
        more than `max_bytes`.
        """
        request = (method, _uri(path, params), body or None, dict(headers or {}))
        wait_seconds, grace_seconds = query.held_seconds, min(query.timeout_seconds, self._timeout_seconds)
        was_idle = self.is_open and self._has_answered
        begin = time.monotonic()
        try:
            answer = self._send(request, wait_seconds, grace_seconds, max_bytes)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # The agent may have closed a kept-alive connection while it was idle: only then the request is sent
            # again. A blocking query is not: the agent may have restarted, and an older index would only block. Nor
            # is a write, for the result of a cut write is unknown.
            if was_idle and method == "GET" and not wait_seconds and not self._aborted and _was_closed(error):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    return self._send(request, 0.0, grace_seconds, max_bytes)
                self.close()
            if isinstance(error, _TooLongError):
                said = f"the answer is larger than {max_bytes // 2**20} MB"
                raise TooLarge(f"Consul at {self._name}: {said}") from error
            if wait_seconds and _never_came(error):
                raise CutShort(self._words(error), time.monotonic() - begin) from error
            raise CatalogError(self._words(error)) from error
        if wait_seconds and answer.code in _GATEWAY:
            said = f"a proxy on the way answered {answer.code} in its place"
            raise CutShort(f"Consul at {self._name}: {said}", time.monotonic() - begin, is_said=answer.code in _LATE)
        if self._where.tls is None and is_told_to_speak_tls(answer.code, answer.body):
            raise CatalogError(f"Consul at {self._name}: {SPEAKS_TLS}")
        return answer

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Write to `path` for python-consul2, once; only the reload semaphore writes."""
        return callback(self.request("PUT", path, params, headers, data))

    @property
    def is_open(self) -> bool:
        """The connection exists, and no error has occurred on it."""
        return self._connection.sock is not None

    def open(self, timeout_seconds: float = math.inf) -> None:
        """Open the connection if there is none, so that the next request goes out at once; raises CatalogError."""
        if self.is_open:
            return
        timeout_seconds = min(timeout_seconds, self._timeout_seconds)
        self._connection.begin(time.monotonic() + timeout_seconds, timeout_seconds)
        self._has_answered = False
        try:
            self._connection.connect()
            if not leaves_spare_files(self._connection.sock.fileno()):
                raise OSError(errno.EMFILE, "too many open files")  # noqa: TRY301  # one message for both
        except (OSError, UnicodeError) as error:
            self.close()
            raise CatalogError(self._words(error)) from error

    def abort(self) -> None:
        """End the running request and allow no other one; the thread of the request gets CatalogError."""
        self._aborted = True
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        with contextlib.suppress(OSError):
            self._connection.close()

    def _send(
        self,
        request: tuple[str, str, str | bytes | None, dict[str, str]],
        wait_seconds: float,
        grace_seconds: float,
        max_bytes: int,
    ) -> Answer:
        deadline = time.monotonic() + wait_seconds * JITTER + grace_seconds
        self.open(grace_seconds)
        if self._aborted:  # `abort` may have come before there was a socket to shut down
            raise ConnectionAbortedError("stopped")
        self._connection.begin(deadline, grace_seconds)
        self._connection.request(*request)
        response = self._connection.getresponse()
        try:
            body = _read_body(response, max_bytes)
        finally:
            response.close()
        self._has_answered = True
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def _words(self, error: Exception) -> str:
        return f"Consul at {self._name}: {words(error, self._where)}"


def _uri(path: str, params: Sequence[tuple[str, object]] | None) -> str:
    """Return `path` with `params`; percent-encoded text stays as it is, which the library would encode again."""
    query = f"?{urllib.parse.urlencode(params)}" if params else ""
    return urllib.parse.quote(path, safe="/:%") + query


class _TooLongError(http.client.HTTPException):
    pass


def _read_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the whole body; raises TimeoutError, OSError and HTTPException."""
    chunks: list[bytes] = []
    size = 0
    while response.length != 0:
        # `read1` reports a truncated chunked answer as an error, but not a truncated one with a Content-Length.
        if not (chunk := response.read1(CHUNK_BYTES)):
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            break
        chunks.append(chunk)
        size += len(chunk)
        if size + (response.length or 0) > max_bytes:
            raise _TooLongError
    return b"".join(chunks)


def _was_closed(error: Exception) -> bool:
    return isinstance(error, (ConnectionError, http.client.RemoteDisconnected)) and not isinstance(
        error, ConnectionRefusedError
    )


def _never_came(error: Exception) -> bool:
    """Return whether `error` looks like a proxy or a firewall that ended, or forgot, an idle connection."""
    return _was_closed(error) or isinstance(error, TimeoutError)

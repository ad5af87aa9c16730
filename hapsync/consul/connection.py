"""One HTTP connection to Consul's agent, over TCP, TLS or a unix socket, on which every answer has a deadline.

The timeout of `http.client` holds for each read of the socket alone, so an agent that sends a byte a second never
reaches it. Here one deadline holds for the whole answer: status line, headers, sizes of chunks, and body.
"""

import functools
import http.client
import io
import socket
import sys
import time
from typing import TYPE_CHECKING

from hapsync.consul.endpoint import Endpoint

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

KEEPALIVE_AFTER_SECONDS = 15
"""A firewall or NAT on the way forgets a connection that is silent for minutes, as a blocked query is."""


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
        self._has_begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._sock.settimeout(self._connection.left_seconds())
        size = self._raw.readinto(buffer)
        if not self._has_begun and size:
            self._has_begun = True
            self._connection.has_begun()
        return size

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

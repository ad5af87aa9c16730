"""The transport under python-consul2: HTTP over TCP, TLS or a unix socket, one kept-alive connection for a thread.

The library's own transport has no timeout for blocking queries, no unix socket, follows proxy variables, and hides
the headers a watch needs. This one is made of `http.client`.
"""

import contextlib
import errno
import http.client
import socket
import ssl
import sys
import time
import types
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from hapsync.edge.process import leaves_spare_files
from hapsync.errors import CatalogError
from hapsync.text import shown

__all__ = ["AgentHTTP", "Endpoint", "base"]

MAX_BODY_BYTES = 256 * 1024 * 1024
"""No service is this large; an answer that is has gone wrong, and must not fill the memory."""
CHUNK_BYTES = 1024 * 1024


@contextlib.contextmanager
def _without_requests() -> Iterator[None]:
    # python-consul2 imports `requests` for the transport we replace: 180 ms and 16 MB for nothing (measured).
    if "requests" in sys.modules:
        yield
        return
    sys.modules["requests"] = types.ModuleType("requests")
    try:
        yield
    finally:
        del sys.modules["requests"]


with _without_requests():
    from consul import base


@attrs.frozen
class Endpoint:
    """Where the agent listens; `unix_path` stands for host and port on a unix socket."""

    host: str
    port: int
    unix_path: str | None
    tls: ssl.SSLContext | None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AgentHTTP(base.HTTPClient):  # type: ignore[misc]  # the library has no types
    """One kept-alive connection to the agent, for one thread; `abort` may be called from any other.

    Errors of the network and of HTTP leave it as CatalogError.
    """

    def __init__(self, where: Endpoint, name: str, timeout_seconds: float) -> None:
        self._where = where
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._has_answered = False
        self._aborted = False

    def uri(self, path: str, params: Sequence[tuple[str, object]] | None = None) -> str:
        """Return `path` with `params`; what is percent-encoded already stays so, unlike with the library's own."""
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        return urllib.parse.quote(path, safe="/:%") + query

    def get(
        self,
        callback: Callable[[Any], Any],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        wait_seconds: float = 0.0,
        timeout_seconds: float | None = None,
    ) -> Any:
        """Ask for `path`; `wait_seconds` is how long Consul was asked to hold the answer back.

        `timeout_seconds` is how long the whole answer may take beyond that; None stands for the configured one.
        """
        uri = self.uri(path, params)
        answer = self._request("GET", uri, headers, wait_seconds=wait_seconds, timeout_seconds=timeout_seconds)
        return callback(answer)

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Write to `path`, once: what became of a write that was cut off is not known. For reload slots alone."""
        return callback(self._request("PUT", self.uri(path, params), headers, data))

    def post(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Not used by hapsync, which only reads; the library's base class asks for it."""
        return callback(self._request("POST", self.uri(path, params), headers, data))

    def delete(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Not used by hapsync, which only reads; the library's base class asks for it."""
        return callback(self._request("DELETE", self.uri(path, params), headers, data))

    @property
    def is_open(self) -> bool:
        """There is a connection, and nothing went wrong on it yet."""
        return self._connection is not None

    def connect(self, timeout_seconds: float | None = None) -> None:
        """Open the connection if there is none; raises CatalogError."""
        if self._connection is None:
            try:
                self._connect(self._timeout_seconds if timeout_seconds is None else timeout_seconds)
            except (OSError, UnicodeError) as error:
                self.close()
                raise CatalogError(f"Consul at {self._name}: {_words(error)}") from error

    def abort(self) -> None:
        """End the request under way, if any, and let no other begin: it raises CatalogError in its thread."""
        self._aborted = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _request(
        self,
        method: str,
        uri: str,
        headers: Mapping[str, str] | None,
        data: Any = None,
        *,
        wait_seconds: float = 0.0,
        timeout_seconds: float | None = None,
    ) -> Any:
        grace_seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        reused = self._connection is not None and self._has_answered
        try:
            self.connect(grace_seconds)
            # Consul adds up to a sixteenth to the wait it was asked for (api-docs/features/blocking).
            return self._send(method, uri, headers, data, wait_seconds * 17 / 16 + grace_seconds)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A kept-alive connection may have been closed while it was idle; only then is a second try honest. Never
            # for a blocking query: the agent may have restarted, and an index from before it would only block.
            if reused and method == "GET" and not wait_seconds and not self._aborted and _was_closed(error):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self.connect(grace_seconds)
                    return self._send(method, uri, headers, data, grace_seconds)
                self.close()
            raise CatalogError(f"Consul at {self._name}: {_words(error)}") from error

    def _send(
        self, method: str, uri: str, headers: Mapping[str, str] | None, data: Any, timeout_seconds: float
    ) -> Any:
        deadline = time.monotonic() + timeout_seconds
        connection = self._connection
        if self._aborted or connection is None:
            raise ConnectionAbortedError("stopped")
        connection.timeout = timeout_seconds
        if connection.sock is not None:
            connection.sock.settimeout(timeout_seconds)
        connection.request(method, uri, body=data or None, headers=dict(headers or {}))
        # Kept here: the connection lets go of it where this answer is the last.
        sock = connection.sock
        response = connection.getresponse()
        try:
            body = _read_body(response, sock, deadline)
        finally:
            response.close()
        if connection.sock is None:  # the agent keeps no connection; the next one is connected within its own time
            self._connection = None
        self._has_answered = True
        found = {name.lower(): value for name, value in response.getheaders()}
        return base.Response(response.status, found, body, body)

    def _connect(self, timeout_seconds: float) -> None:
        where = self._where
        connection: http.client.HTTPConnection
        if where.unix_path is not None:
            connection = _UnixConnection(where.unix_path, timeout_seconds)
        elif where.tls is not None:
            connection = http.client.HTTPSConnection(
                where.host, where.port, timeout=timeout_seconds, context=where.tls
            )
        else:
            connection = http.client.HTTPConnection(where.host, where.port, timeout=timeout_seconds)
        # Published before it connects, so that `abort` finds it; `_aborted` is looked at again after.
        self._connection = connection
        self._has_answered = False
        connection.connect()
        if not leaves_spare_files(connection.sock.fileno()):
            raise OSError(errno.EMFILE, "too many open files")


def _read_body(response: http.client.HTTPResponse, sock: socket.socket, deadline: float) -> bytes:
    """Return the whole body, which must be there by `deadline` (monotonic seconds), however slowly it drips.

    Raises TimeoutError, OSError and HTTPException.
    """
    chunks: list[bytes] = []
    size = 0
    while response.length != 0:
        left_seconds = deadline - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError
        sock.settimeout(left_seconds)
        # With a size, an answer that breaks off is no error for `read1`; a chunked one is.
        if not (chunk := response.read1(CHUNK_BYTES)):
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            break
        chunks.append(chunk)
        size += len(chunk)
        if size + (response.length or 0) > MAX_BODY_BYTES:
            raise http.client.HTTPException("the answer is larger than any service can be")
    return b"".join(chunks)


def _was_closed(error: Exception) -> bool:
    return isinstance(error, (ConnectionError, http.client.RemoteDisconnected)) and not isinstance(
        error, ConnectionRefusedError
    )


def _words(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "refuses the connection; is the agent running there?"
        case TimeoutError():
            return "gave no answer in time"
        case http.client.IncompleteRead():
            return "broke off in the middle of an answer"
        case http.client.RemoteDisconnected():
            return "closed the connection without an answer"
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return "no file descriptor is left for it; raise LimitNOFILE (`ulimit -n`) above the number of services"
        case UnicodeError():
            return "is no host name"
        case OSError():
            return shown(error.strerror or str(error))
        case _:
            return f"answered nonsense ({type(error).__name__}: {shown(str(error))})"

"""The transport under python-consul2: HTTP over TCP, TLS or a unix socket, one kept-alive connection for a thread.

The library's own transport has no timeout for blocking queries, no unix socket, follows proxy variables, and hides
the headers a watch needs. This one is made of `http.client`. An answer has one deadline for all of it
(`consul/connection.py`).
"""

import contextlib
import errno
import http
import http.client
import socket
import sys
import time
import types
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hapsync.consul.connection import Connection, Endpoint
from hapsync.consul.network_errors import SPEAKS_TLS, is_told_to_speak_tls, words
from hapsync.errors import CatalogError, CutShort, TooLarge
from hapsync.system.process import leaves_spare_files

__all__ = ["AgentHTTP", "base"]

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Unless the caller says otherwise: what is larger has gone wrong, and must not fill the memory."""
CHUNK_BYTES = 1024 * 1024
_GATEWAY = {
    http.HTTPStatus.REQUEST_TIMEOUT,
    http.HTTPStatus.BAD_GATEWAY,
    http.HTTPStatus.GATEWAY_TIMEOUT,
}
"""What proxies answer to a request that took them too long; Consul's agent has none of them (agent/http.go)."""
_LATE = {http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.GATEWAY_TIMEOUT}
"""Of these, what means nothing but a timeout; 502 is also the answer where Consul or its server restarts."""


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


class AgentHTTP(base.HTTPClient):  # type: ignore[misc]  # the library has no types
    """One kept-alive connection to the agent, for one thread; `abort` may be called from any other.

    Errors of the network and of HTTP leave it as CatalogError.
    """

    def __init__(self, where: Endpoint, name: str, timeout_seconds: float) -> None:
        self._where = where
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._connection: Connection | None = None
        self._has_answered = False
        self._max_bytes = MAX_BODY_BYTES
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
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Any:
        """Ask for `path`; `wait_seconds` is how long Consul was asked to hold the answer back.

        `timeout_seconds` is how long the whole answer may take beyond that, from the first byte of its status line to
        the last of its body; None stands for the configured one.

        Raises CatalogError, CutShort where the answer that was held back never came, and TooLarge where its body has
        more than `max_bytes`.
        """
        uri = self.uri(path, params)
        self._max_bytes = max_bytes
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
                raise CatalogError(self._words(error)) from error

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
        begin = time.monotonic()
        try:
            self.connect(grace_seconds)
            # Consul adds up to a sixteenth to the wait it was asked for (api-docs/features/blocking).
            deadline = begin + wait_seconds * 17 / 16 + grace_seconds
            answer = self._send(method, uri, headers, data, deadline, grace_seconds)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A kept-alive connection may have been closed while it was idle; only then is a second try honest. Never
            # for a blocking query: the agent may have restarted, and an index from before it would only block.
            if reused and method == "GET" and not wait_seconds and not self._aborted and _was_closed(error):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self.connect(grace_seconds)
                    return self._send(method, uri, headers, data, time.monotonic() + grace_seconds, grace_seconds)
                self.close()
            if isinstance(error, _TooLongError):
                said = f"the answer is larger than {self._max_bytes // 2**20} MB"
                raise TooLarge(f"Consul at {self._name}: {said}") from error
            if wait_seconds and _never_came(error):
                raise CutShort(self._words(error), time.monotonic() - begin) from error
            raise CatalogError(self._words(error)) from error
        if wait_seconds and answer.code in _GATEWAY:
            said = f"a proxy on the way answered {answer.code} in its place"
            raise CutShort(f"Consul at {self._name}: {said}", time.monotonic() - begin, is_said=answer.code in _LATE)
        if self._where.tls is None and is_told_to_speak_tls(answer.code, answer.content):
            raise CatalogError(f"Consul at {self._name}: {SPEAKS_TLS}")
        return answer

    def _send(
        self,
        method: str,
        uri: str,
        headers: Mapping[str, str] | None,
        data: Any,
        deadline: float,
        grace_seconds: float,
    ) -> Any:
        connection = self._connection
        if self._aborted or connection is None:
            raise ConnectionAbortedError("stopped")
        connection.begin(deadline, grace_seconds)
        connection.request(method, uri, body=data or None, headers=dict(headers or {}))
        response = connection.getresponse()
        try:
            body = _read_body(response, self._max_bytes)
        finally:
            response.close()
        if connection.sock is None:  # the agent keeps no connection; the next one is connected within its own time
            self._connection = None
        self._has_answered = True
        found = {name.lower(): value for name, value in response.getheaders()}
        return base.Response(response.status, found, body, body)

    def _connect(self, timeout_seconds: float) -> None:
        connection = Connection(self._where)
        connection.begin(time.monotonic() + timeout_seconds, timeout_seconds)
        # Published before it connects, so that `abort` finds it; `_aborted` is looked at again after.
        self._connection = connection
        self._has_answered = False
        connection.connect()
        if not leaves_spare_files(connection.sock.fileno()):
            raise OSError(errno.EMFILE, "too many open files")

    def _words(self, error: Exception) -> str:
        return f"Consul at {self._name}: {words(error, self._where)}"


class _TooLongError(http.client.HTTPException):
    pass


def _read_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the whole body; raises TimeoutError, OSError and HTTPException."""
    chunks: list[bytes] = []
    size = 0
    while response.length != 0:
        # With a size, an answer that breaks off is no error for `read1`; a chunked one is.
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
    """Return whether `error` is what a proxy leaves that ends, or forgets, a connection on which nothing happens."""
    return _was_closed(error) or isinstance(error, TimeoutError)

"""The client of Consul's HTTP API: python-consul2 over hapsync's own transport.

python-consul2 builds the requests that write, and its error classes are in use. Its own client class is not made,
because `CONSUL_HTTP_*` variables override the arguments of that. The transport is made of `http.client`: TCP, TLS or
a unix socket, one kept-alive connection for a thread, and one deadline for a whole answer (`consul/connection.py`).
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
from typing import Any, Self

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.connection import Connection
from hapsync.consul.endpoint import Endpoint, endpoint
from hapsync.consul.network_errors import SPEAKS_TLS, is_told_to_speak_tls, words
from hapsync.errors import CatalogError, CutShort, TooLarge, TooManyConnections
from hapsync.system.process import leaves_spare_files
from hapsync.text import quoted, shown

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


BASE_BYTES, BYTES_PER_SERVER = 8 * 2**20, 8 * 2**10


@contextlib.contextmanager
def _without_requests() -> Iterator[None]:
    # python-consul2 imports `requests` for its own transport, which hapsync replaces: 180 ms and 16 MB (measured).
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

ConsulException = base.ConsulException


@attrs.frozen
class Answer:
    """An answer of Consul: the status, the headers by lower-case name, and the whole body."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


class ConsulClient:
    """A client of one Consul agent, for one thread at a time; a `with` block closes its connection.

    `kv` and `session` are the library's endpoints, which find the transport, the token and the datacenter here.
    """

    def __init__(self, config: ConsulConfig, where: Endpoint | None = None) -> None:
        """Take the endpoint; None stands for that of `config`. Raises CatalogError when one of its files is unfit."""
        self._config = config
        self._where = endpoint(config) if where is None else where
        self.token, self.dc = self._where.token, config.datacenter
        self.http = AgentHTTP(self._where, config.address, config.timeout_seconds)
        self.kv, self.session = base.Consul.KV(self), base.Consul.Session(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_health(
        self,
        service: str,
        *,
        consistency: str,
        index: int = 0,
        wait_seconds: float = 0.0,
        timeout_seconds: float | None = None,
        max_servers: int | None = None,
    ) -> Answer:
        """Ask for all instances of `service` with their checks, healthy or not.

        `consistency` is `cached`, `stale`, `default` or `consistent`. With an `index` above 0, Consul answers once it
        has something newer, or after `wait_seconds`. The answer may take `timeout_seconds` beyond the wait; None
        stands for the configured timeout. An answer that is far larger than `max_servers` instances is not read to
        its end.

        Raises CatalogError, with a remedy, when there is no whole answer, or its status is not 200.
        """
        max_bytes = MAX_BODY_BYTES if max_servers is None else bytes_for(max_servers)
        try:
            return self._get(
                f"/v1/health/service/{urllib.parse.quote(service, safe='')}",
                f"service {quoted(service)}",
                consistency,
                index,
                wait_seconds,
                timeout_seconds,
                max_bytes,
            )
        except TooLarge as error:
            raise TooLarge(
                f"{error}, service {quoted(service)}: more than its max_servers can need; deregister what should not "
                "be there, or raise max_servers"
            ) from error

    def read_members(self, service: str, *, index: int = 0, wait_seconds: float = 0.0) -> Answer:
        """Ask any server for the nodes of `service`; the arguments and errors are those of `read_health`.

        This endpoint never answers from the agent's cache or from a stream. Its headers therefore show the state of
        the servers, and a restored snapshot ends its blocking query (measured with 1.8.7 and 1.14.11).
        """
        path = f"/v1/catalog/service/{urllib.parse.quote(service, safe='')}"
        return self._get(path, f"service {quoted(service)}", "stale", index, wait_seconds, None)

    def read_services(self, *, consistency: str, index: int = 0, wait_seconds: float = 0.0) -> Answer:
        """Ask for the names of all services with their tags; the arguments and errors are those of `read_health`."""
        return self._get("/v1/catalog/services", "the list of services", consistency, index, wait_seconds, None)

    def _get(
        self,
        path: str,
        what: str,
        consistency: str,
        index: int,
        wait_seconds: float,
        timeout_seconds: float | None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Answer:
        params: list[tuple[str, object]] = [] if consistency == "default" else [(consistency, "")]
        if self.dc:
            params.append(("dc", self.dc))
        if index > 0:
            params += [("index", index), ("wait", f"{wait_seconds * 1000:.0f}ms")]
        response = self.http.get(
            lambda response: response,
            path,
            params,
            {"X-Consul-Token": self.token} if self.token else {},
            wait_seconds=wait_seconds if index > 0 else 0.0,
            timeout_seconds=timeout_seconds,
            max_bytes=max_bytes,
        )
        answer = Answer(response.code, response.headers, response.body)
        if answer.status == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise TooManyConnections(_refused(self._config.address, what, answer))
        if answer.status != http.HTTPStatus.OK:
            raise CatalogError(_refused(self._config.address, what, answer))
        return answer

    def is_for(self, where: Endpoint) -> bool:
        """Return whether this client was made for exactly `where`."""
        return self._where == where

    def read_leader(self) -> str:
        """Return the address of the servers' leader, empty while there is none; raises CatalogError."""
        answer = self.http.get(lambda response: response, "/v1/status/leader")
        if answer.code != http.HTTPStatus.OK:
            raise CatalogError(f"Consul at {self._config.address}: /v1/status/leader answered {answer.code}")
        return str(answer.body.decode("utf-8", "replace").strip().strip('"'))

    def authorize(self, asked: bytes) -> tuple[int, bytes]:
        """Send the body `asked`, a question about the token's rights; return the status and the body of the answer.

        Consul's own web interface uses this endpoint (measured with 1.8.7 and 1.14.11), and the token needs no right
        for it. Raises CatalogError where Consul is away.
        """
        params, headers = [("dc", self.dc)] if self.dc else None, {"X-Consul-Token": self.token} if self.token else {}
        answer = self.http.post(lambda response: response, "/v1/internal/acl/authorize", params, asked, headers)
        return answer.code, answer.body

    @property
    def is_open(self) -> bool:
        """The connection is open, and no error has occurred on it."""
        return bool(self.http.is_open)

    def open(self, timeout_seconds: float | None = None) -> None:
        """Open the connection now, so that the next request goes out at once; raises CatalogError."""
        self.http.connect(timeout_seconds)

    def abort(self) -> None:
        """End the running request at once; other threads call this."""
        self.http.abort()

    def close(self) -> None:
        """Close the connection."""
        self.http.close()


def bytes_for(max_servers: int) -> int:
    """Return the limit, in bytes, of an answer about a service of which `max_servers` instances may serve.

    An instance with two checks takes about 1.2 KB of JSON, and several KB with tags, meta and the output of checks.
    """
    return BASE_BYTES + BYTES_PER_SERVER * max_servers


def _refused(address: str, what: str, answer: Answer) -> str:
    said = shown(answer.body[:200].decode("utf-8", "replace").strip())
    hints = {
        403: '; the token needs `service_prefix ""` and `node_prefix ""` read',
        429: "; raise limits.http_max_conns_per_client on the agent, or lower consul.max_connections",
    }
    return f"Consul at {address}: {what}: answered {answer.status}: {said}" + hints.get(answer.status, "")


class AgentHTTP:
    """One kept-alive connection to the agent, for one thread; `abort` may be called from any other.

    This class replaces the library's transport. The library's has no deadline for blocking queries and no unix
    socket, follows proxy variables, and hides headers that a watch needs. Errors of the network and of HTTP become
    CatalogError.
    """

    def __init__(self, where: Endpoint, name: str, timeout_seconds: float) -> None:
        self._where = where
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._connection: Connection | None = None
        self._has_answered = False
        self._max_bytes = MAX_BODY_BYTES
        self._aborted = False

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
        """Request `path`; `wait_seconds` is the wait that the request asks Consul for.

        Beyond the wait, the whole answer may take `timeout_seconds`, from the first byte of its status line to the
        last byte of its body; None stands for the configured timeout.

        Raises CatalogError, CutShort where a blocking query ended without Consul's answer, and TooLarge for a body of
        more than `max_bytes`.
        """
        uri = _uri(path, params)
        self._max_bytes = max_bytes
        answer = self._request("GET", uri, headers, wait_seconds=wait_seconds, timeout_seconds=timeout_seconds)
        return callback(answer)

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Write to `path`, once, for the result of a cut write is unknown; only the reload semaphore writes."""
        return callback(self._request("PUT", _uri(path, params), headers, data))

    def post(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Send a body to `path`, once."""
        return callback(self._request("POST", _uri(path, params), headers, data))

    @property
    def is_open(self) -> bool:
        """The connection exists, and no error has occurred on it."""
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
        """End the running request and allow no other one; the thread of the request gets CatalogError."""
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
            # Consul adds up to a sixteenth to the requested wait (api-docs/features/blocking).
            deadline = begin + wait_seconds * 17 / 16 + grace_seconds
            answer = self._send(method, uri, headers, data, deadline, grace_seconds)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # The agent may have closed a kept-alive connection while it was idle: only then the request is sent
            # again. A blocking query is not: the agent may have restarted, and an older index would only block.
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
        if connection.sock is None:  # the agent keeps no connection; the next request connects within its own timeout
            self._connection = None
        self._has_answered = True
        found = {name.lower(): value for name, value in response.getheaders()}
        return base.Response(response.status, found, body, body)

    def _connect(self, timeout_seconds: float) -> None:
        connection = Connection(self._where)
        connection.begin(time.monotonic() + timeout_seconds, timeout_seconds)
        # The connection is published before it connects, so `abort` finds it; `_aborted` is read again afterwards.
        self._connection = connection
        self._has_answered = False
        connection.connect()
        if not leaves_spare_files(connection.sock.fileno()):
            raise OSError(errno.EMFILE, "too many open files")

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

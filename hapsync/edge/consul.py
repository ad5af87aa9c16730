"""python-consul2 over our own transport: Consul's HTTP API on TCP, TLS or a unix socket.

The library's own transport has no timeout for blocking queries, no unix socket, follows proxy variables, lets
`CONSUL_HTTP_*` variables override what it was told, and hides the headers a watch needs. Its request building, error
classes and endpoints stay in use; this module gives it an `HTTPClient` made of `http.client`.
"""

import contextlib
import http
import http.client
import os
import re
import socket
import ssl
import sys
import threading
import types
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from hapsync.config import ConsulConfig
from hapsync.errors import CatalogError
from hapsync.text import quoted, shown

MAX_BODY_BYTES = 256 * 1024 * 1024
"""No service is this large; an answer that is has gone wrong, and must not fill the memory."""


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


_environment = threading.Lock()
"""Held by whoever changes or reads the `CONSUL_HTTP_*` variables; every watch has a thread of its own."""


@contextlib.contextmanager
def _without_environment() -> Iterator[None]:
    # The library lets these override its arguments; what the configuration file says is what holds.
    with _environment, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("CONSUL_HTTP_")}
        try:
            yield
        finally:
            os.environ.update(hidden)


with _without_requests():
    from consul import base


@attrs.frozen
class Answer:
    """What Consul answered: the status, the headers by lower-case name, and the whole body."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


@attrs.frozen
class Endpoint:
    """Where the agent listens; `unix_path` stands for host and port on a unix socket."""

    host: str
    port: int
    unix_path: str | None
    tls: ssl.SSLContext | None


def endpoint(config: ConsulConfig) -> Endpoint:
    """Return the endpoint that `[consul]` names.

    Raises CatalogError when a certificate file cannot be used.
    """
    if config.address.startswith("unix://"):
        return Endpoint("localhost", 0, config.address.removeprefix("unix://"), None)
    parts = urllib.parse.urlsplit(config.address)
    tls = None
    if parts.scheme == "https":
        try:
            tls = ssl.create_default_context(cafile=config.ca_file)
            if config.cert_file:
                tls.load_cert_chain(config.cert_file, config.key_file)
        except OSError as error:
            raise CatalogError(f"[consul] ca_file, cert_file or key_file: {error}") from error
    return Endpoint(parts.hostname or "127.0.0.1", parts.port or (8501 if tls else 8500), None, tls)


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
        wait_seconds: float = 0.0,
    ) -> Any:
        """Ask for `path`; `wait_seconds` is how long Consul was asked to hold the answer back."""
        return callback(self._request("GET", self.uri(path, params), headers, None, wait_seconds))

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Not used by hapsync, which only reads; the library's base class asks for it."""
        return callback(self._request("PUT", self.uri(path, params), headers, data, 0.0))

    def post(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Not used by hapsync, which only reads; the library's base class asks for it."""
        return callback(self._request("POST", self.uri(path, params), headers, data, 0.0))

    def delete(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        """Not used by hapsync, which only reads; the library's base class asks for it."""
        return callback(self._request("DELETE", self.uri(path, params), headers, data, 0.0))

    def connect(self) -> None:
        """Open the connection if there is none; raises CatalogError."""
        if self._connection is None:
            try:
                self._connect(self._timeout_seconds)
            except OSError as error:
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
        data: Any,
        wait_seconds: float,
    ) -> Any:
        # Consul adds up to a sixteenth to the wait it was asked for (api-docs/features/blocking).
        timeout_seconds = wait_seconds * 17 / 16 + self._timeout_seconds
        reused = self._connection is not None
        try:
            return self._send(method, uri, headers, data, timeout_seconds)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A kept-alive connection may have been closed while it was idle; only then is a second try honest. Never
            # for a blocking query: the agent may have restarted, and an index from before it would only block.
            if reused and method == "GET" and not wait_seconds and not self._aborted and _was_closed(error):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    return self._send(method, uri, headers, data, timeout_seconds)
                self.close()
            raise CatalogError(f"Consul at {self._name}: {_words(error)}") from error

    def _send(
        self, method: str, uri: str, headers: Mapping[str, str] | None, data: Any, timeout_seconds: float
    ) -> Any:
        connection = self._connection or self._connect(timeout_seconds)
        if self._aborted:
            raise ConnectionAbortedError("stopped")
        connection.timeout = timeout_seconds
        if connection.sock is not None:
            connection.sock.settimeout(timeout_seconds)
        connection.request(method, uri, body=data or None, headers=dict(headers or {}))
        response = connection.getresponse()
        # With a size, a plain answer that breaks off is no error for http.client; a chunked one is.
        too_long = response.length is not None and response.length > MAX_BODY_BYTES
        body = response.read(MAX_BODY_BYTES + 1) if response.chunked or too_long else response.read()
        if len(body) > MAX_BODY_BYTES:
            raise http.client.HTTPException("the answer is larger than any service can be")
        found = {name.lower(): value for name, value in response.getheaders()}
        return base.Response(response.status, found, body, body)

    def _connect(self, timeout_seconds: float) -> http.client.HTTPConnection:
        where = self._where
        connection: http.client.HTTPConnection
        if where.unix_path is not None:
            connection = _UnixConnection(where.unix_path, timeout_seconds)
        elif where.tls is not None:
            connection = http.client.HTTPSConnection(
                where.host, where.port, timeout=self._timeout_seconds, context=where.tls
            )
        else:
            connection = http.client.HTTPConnection(where.host, where.port, timeout=self._timeout_seconds)
        # Published before it connects, so that `abort` finds it; `_aborted` is looked at again after.
        self._connection = connection
        connection.connect()
        return connection


class Agent(base.Consul):  # type: ignore[misc]  # the library has no types
    """A client of one Consul agent, for one thread at a time."""

    def __init__(self, config: ConsulConfig, where: Endpoint, token: str) -> None:
        self._config = config
        self._where = where
        with _without_environment():
            super().__init__(token=token or None, dc=config.datacenter or None)

    def http_connect(self, *_args: object, **_kwargs: object) -> AgentHTTP:
        """Return our transport; the library calls this in its constructor."""
        return AgentHTTP(self._where, self._config.address, self._config.timeout_seconds)

    def read_health(self, service: str, *, consistency: str, index: int = 0, wait_seconds: float = 0.0) -> Answer:
        """Ask for all instances of `service` with their checks, whatever their health.

        `consistency` is `cached`, `stale` or `default`. With an `index` above 0 the answer comes when Consul has
        something newer, or after `wait_seconds`.

        Raises CatalogError when there is no whole answer, or one that is not 200; it then says what to do.
        """
        params: list[tuple[str, object]] = [] if consistency == "default" else [(consistency, "")]
        if self.dc:
            params.append(("dc", self.dc))
        if index > 0:
            params += [("index", index), ("wait", f"{wait_seconds:.0f}s")]
        headers = {"X-Consul-Token": self.token} if self.token else {}
        response = self.http.get(
            lambda response: response,
            f"/v1/health/service/{urllib.parse.quote(service, safe='')}",
            params,
            headers,
            wait_seconds if index > 0 else 0.0,
        )
        answer = Answer(response.code, response.headers, response.body)
        if answer.status != http.HTTPStatus.OK:
            raise CatalogError(_refused(self._config.address, service, answer))
        return answer

    def read_leader(self) -> str:
        """Return the address of the servers' leader, empty while there is none; raises CatalogError."""
        answer = self.http.get(lambda response: response, "/v1/status/leader")
        if answer.code != http.HTTPStatus.OK:
            raise CatalogError(f"Consul at {self._config.address}: /v1/status/leader answered {answer.code}")
        return str(answer.body.decode("utf-8", "replace").strip().strip('"'))

    def open(self) -> None:
        """Open the connection now, so that the next request goes out at once; raises CatalogError."""
        self.http.connect()

    def abort(self) -> None:
        """End the request under way at once; to be called from another thread."""
        self.http.abort()

    def close(self) -> None:
        """Close the connection."""
        self.http.close()


def read_token(config: ConsulConfig) -> str:
    """Return the token to use: the file's first line, else the configured one, else CONSUL_HTTP_TOKEN's.

    Raises CatalogError when the file cannot be read, or holds what can be no token.
    """
    if config.token_file is not None:
        try:
            text = Path(config.token_file).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise CatalogError(f"[consul] token_file {config.token_file}: {error.strerror}") from error
        token = (text.splitlines() or [""])[0].strip()
    else:
        with _environment:
            token = config.token or os.environ.get("CONSUL_HTTP_TOKEN", "")
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        where = f"token_file {config.token_file}" if config.token_file else "CONSUL_HTTP_TOKEN"
        raise CatalogError(f"[consul] {where}: not a token; it must be printable ASCII without spaces")
    return token


def _refused(address: str, service: str, answer: Answer) -> str:
    said = shown(answer.body[:200].decode("utf-8", "replace").strip())
    hints = {
        403: '; the token needs `service_prefix ""` and `node_prefix ""` read',
        429: "; raise limits.http_max_conns_per_client on the agent",
    }
    return f"Consul at {address}: service {quoted(service)}: answered {answer.status}: {said}" + hints.get(
        answer.status, ""
    )


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
        case OSError():
            return shown(error.strerror or str(error))
        case _:
            return f"answered nonsense ({type(error).__name__}: {shown(str(error))})"

"""Consul's HTTP API, asked through python-consul2 over our own transport.

The library's request building, error classes and endpoints stay in use; it lets `CONSUL_HTTP_*` variables override
what it was told, so they are kept from it.
"""

import contextlib
import http
import os
import re
import ssl
import threading
import urllib.parse
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.connection import Endpoint
from hapsync.consul.network_errors import file_words
from hapsync.consul.transport import MAX_BODY_BYTES, AgentHTTP, base
from hapsync.errors import CatalogError, TooLarge, TooManyConnections
from hapsync.system.files import ensure_regular, read_text
from hapsync.text import quoted, shown

BASE_BYTES, BYTES_PER_SERVER = 8 * 2**20, 8 * 2**10
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


@attrs.frozen
class Answer:
    """What Consul answered: the status, the headers by lower-case name, and the whole body."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


def endpoint(config: ConsulConfig) -> Endpoint:
    """Return the endpoint that `[consul]` names.

    Raises CatalogError when a certificate file cannot be used.
    """
    if config.address.startswith("unix://"):
        return Endpoint("localhost", 0, config.address.removeprefix("unix://"), None)
    parts = urllib.parse.urlsplit(config.address)
    tls = None
    if parts.scheme == "https":
        tls = _tls_context(config)
    port = parts.port or (8501 if tls else 8500)
    return Endpoint(parts.hostname or "127.0.0.1", port, None, tls, has_certificate=bool(config.cert_file))


def _tls_context(config: ConsulConfig) -> ssl.SSLContext:
    for key, path in (("ca_file", config.ca_file), ("cert_file", config.cert_file), ("key_file", config.key_file)):
        try:
            if path is not None:
                ensure_regular(path)
        except OSError as error:
            raise CatalogError(file_words(error, key, path or "")) from error
    try:
        tls = ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise CatalogError(file_words(error, "ca_file", config.ca_file or "")) from error
    if config.cert_file is not None:
        try:
            tls.load_cert_chain(config.cert_file, config.key_file, password=_no_password)
        except OSError as error:
            is_key = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
            key, path = ("key_file", config.key_file) if is_key else ("cert_file", config.cert_file)
            raise CatalogError(file_words(error, key, path or "")) from error
    return tls


def _no_password() -> str:
    # Without this OpenSSL asks for it on the terminal, and waits.
    raise CatalogError("[consul] key_file: is encrypted; give a key without a password, readable by the agent alone")


class Endpoints:
    """The endpoint that `[consul]` names, for all threads; made anew when a certificate file has changed.

    Consul's own certificates live for days (`auto_encrypt`, Vault); whoever renews them restarts nothing.
    """

    def __init__(self, config: ConsulConfig) -> None:
        """Raise CatalogError when a certificate file cannot be used."""
        self._config = config
        self._lock = threading.Lock()
        self._stamps = self._look()
        self._where = endpoint(config)

    def current(self) -> Endpoint:
        """Return the endpoint as the files are now; raises CatalogError when one cannot be used."""
        with self._lock:
            stamps = self._look()
            if stamps != self._stamps:
                self._where = endpoint(self._config)
                self._stamps = stamps
            return self._where

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        if not self._config.address.startswith("https:"):
            return ()
        return tuple(
            _stamp(path)
            for path in (self._config.ca_file, self._config.cert_file, self._config.key_file)
            if path is not None
        )


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class ConsulClient(base.Consul):  # type: ignore[misc]  # the library has no types
    """A client of one Consul agent, for one thread at a time."""

    def __init__(self, config: ConsulConfig, where: Endpoint, token: str) -> None:
        self._config = config
        self._where = where
        with _without_environment():
            super().__init__(token=token or None, dc=config.datacenter or None)

    def http_connect(self, *_args: object, **_kwargs: object) -> AgentHTTP:
        """Return our transport; the library calls this in its constructor."""
        return AgentHTTP(self._where, self._config.address, self._config.timeout_seconds)

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
        """Ask for all instances of `service` with their checks, whatever their health.

        `consistency` is `cached`, `stale`, `default` or `consistent`. With an `index` above 0 the answer comes when
        Consul has something newer, or after `wait_seconds`. `timeout_seconds` is how long the answer may take beyond
        that; None stands for the configured one. An answer that is far larger than `max_servers` instances is not
        read to its end.

        Raises CatalogError when there is no whole answer, or one that is not 200; it then says what to do.
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

        No answer of this endpoint comes from the agent's cache or out of a stream, so its headers say how the servers
        fare, and a restored snapshot ends its blocking query (measured with 1.8.7 and 1.14.11).
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

    def is_current(self, where: Endpoint, token: str) -> bool:
        """Return whether this client was made for exactly `where` and `token`."""
        return self._where is where and (self.token or "") == token

    def read_leader(self) -> str:
        """Return the address of the servers' leader, empty while there is none; raises CatalogError."""
        answer = self.http.get(lambda response: response, "/v1/status/leader")
        if answer.code != http.HTTPStatus.OK:
            raise CatalogError(f"Consul at {self._config.address}: /v1/status/leader answered {answer.code}")
        return str(answer.body.decode("utf-8", "replace").strip().strip('"'))

    @property
    def is_open(self) -> bool:
        """The connection is open, and nothing went wrong on it yet."""
        return bool(self.http.is_open)

    def open(self, timeout_seconds: float | None = None) -> None:
        """Open the connection now, so that the next request goes out at once; raises CatalogError."""
        self.http.connect(timeout_seconds)

    def abort(self) -> None:
        """End the request under way at once; to be called from another thread."""
        self.http.abort()

    def close(self) -> None:
        """Close the connection."""
        self.http.close()


def bytes_for(max_servers: int) -> int:
    """Return how large an answer may be for a service of which `max_servers` instances may serve.

    An instance with two checks is about 1.2 KB of JSON; tags, meta and the output of checks make it several.
    """
    return BASE_BYTES + BYTES_PER_SERVER * max_servers


def read_token(config: ConsulConfig) -> str:
    """Return the token to use: the file's first line, else the configured one, else CONSUL_HTTP_TOKEN's.

    Raises CatalogError when the file cannot be read, is empty (as it is while somebody writes it), or holds what can
    be no token: without one Consul shows as much as nothing, and says so to nobody.
    """
    if config.token_file is not None:
        try:
            text = read_text(config.token_file)
        except OSError as error:
            raise CatalogError(f"[consul] token_file {config.token_file}: {error.strerror}") from error
        token = (text.splitlines() or [""])[0].strip()
        if not token:
            raise CatalogError(f"[consul] token_file {config.token_file}: no token in its first line")
    else:
        with _environment:
            token = config.token or os.environ.get("CONSUL_HTTP_TOKEN", "")
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        where = f"token_file {config.token_file}" if config.token_file else "CONSUL_HTTP_TOKEN"
        raise CatalogError(f"[consul] {where}: not a token; it must be printable ASCII without spaces")
    return token


def _refused(address: str, what: str, answer: Answer) -> str:
    said = shown(answer.body[:200].decode("utf-8", "replace").strip())
    hints = {
        403: '; the token needs `service_prefix ""` and `node_prefix ""` read',
        429: "; raise limits.http_max_conns_per_client on the agent, or lower consul.max_connections",
    }
    return f"Consul at {address}: {what}: answered {answer.status}: {said}" + hints.get(answer.status, "")

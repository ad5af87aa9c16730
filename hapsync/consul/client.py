"""The client of Consul's HTTP API: python-consul2 over hapsync's own transport.

python-consul2 builds the requests that write, and its error classes are in use. Its own client class is not made,
because `CONSUL_HTTP_*` variables override the arguments of that. The transport is made of `http.client`: TCP, TLS or
a unix socket, one kept-alive connection for a thread, and one deadline for a whole answer (`consul/connection.py`).
"""

import contextlib
import http
import sys
import types
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Self

from hapsync.config.schema import ConsulConfig
from hapsync.consul.connection import MAX_BODY_BYTES, AgentHTTP, Answer
from hapsync.consul.endpoint import Endpoint, endpoint
from hapsync.consul.query import NOT_BLOCKING, Query
from hapsync.errors import CatalogError, TooLarge, TooManyConnections
from hapsync.text import quoted, shown

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


class ConsulClient(AgentHTTP):
    """A client of one Consul agent, for one thread at a time; a `with` block closes its connection.

    `kv` and `session` are the library's endpoints, which find the transport (`http`), `token` and `dc` here.
    """

    def __init__(self, config: ConsulConfig, where: Endpoint | None = None) -> None:
        """Take the endpoint; None stands for that of `config`. Raises CatalogError when one of its files is unfit."""
        where = endpoint(config) if where is None else where
        super().__init__(where, config.address, config.timeout_seconds)
        self.http, self.token, self.dc = self, where.token, config.datacenter
        self.kv, self.session = base.Consul.KV(self), base.Consul.Session(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_health(self, service: str, query: Query, max_servers: int | None = None) -> Answer:
        """Ask for all instances of `service` with their checks, healthy or not.

        An answer that is far larger than `max_servers` instances is not read to its end.

        Raises CatalogError, with a remedy, when there is no whole answer of Consul, or its status is not 200.
        """
        what = f"service {quoted(service)}"
        max_bytes = MAX_BODY_BYTES if max_servers is None else bytes_for(max_servers)
        try:
            return self._get(f"/v1/health/service/{urllib.parse.quote(service, safe='')}", what, query, max_bytes)
        except TooLarge as error:
            raise TooLarge(
                f"{error}, {what}: more than its max_servers can need; deregister what should not be there, or raise "
                "max_servers"
            ) from error

    def read_members(self, service: str, query: Query) -> Answer:
        """Ask for the nodes of `service`; the errors are those of `read_health`.

        This endpoint never answers from the agent's cache or from a stream. Its headers therefore show the state of
        the servers, and a restored snapshot ends its blocking query (measured with 1.8.7 and 1.14.11).
        """
        path = f"/v1/catalog/service/{urllib.parse.quote(service, safe='')}"
        return self._get(path, f"service {quoted(service)}", query)

    def read_services(self, query: Query) -> Answer:
        """Ask for the names of all services with their tags; the errors are those of `read_health`."""
        return self._get("/v1/catalog/services", "the list of services", query)

    def _get(self, path: str, what: str, query: Query, max_bytes: int = MAX_BODY_BYTES) -> Answer:
        answer = self.ask(path, query, max_bytes=max_bytes)
        if answer.code == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise TooManyConnections(_refused(self._name, what, answer))
        if answer.code != http.HTTPStatus.OK:
            raise CatalogError(_refused(self._name, what, answer))
        if answer.index < 0:
            raise CatalogError(f"{what}: Consul's answer has no index; is it Consul?")
        return answer

    def ask(
        self,
        path: str,
        query: Query = NOT_BLOCKING,
        params: Sequence[tuple[str, object]] = (),
        body: bytes = b"",
        *,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Answer:
        """Ask with the token, in the datacenter, and return the answer of any status; a `body` is sent by POST.

        Raises CatalogError where Consul is away, and the errors of `AgentHTTP.request`.
        """
        asked = [*params, *query.params, *([("dc", self.dc)] if self.dc else [])]
        headers = {"X-Consul-Token": self.token} if self.token else {}
        return self.request("POST" if body else "GET", path, asked, headers, body, query, max_bytes=max_bytes)

    def is_for(self, where: Endpoint) -> bool:
        """Return whether this client was made for exactly `where`."""
        return self._where == where

    def read_leader(self) -> str:
        """Return the address of the servers' leader, empty while there is none; raises CatalogError."""
        answer = self.request("GET", "/v1/status/leader")
        if answer.code != http.HTTPStatus.OK:
            raise CatalogError(f"Consul at {self._name}: /v1/status/leader answered {answer.code}")
        return answer.body.decode("utf-8", "replace").strip().strip('"')

    def authorize(self, asked: bytes) -> tuple[int, bytes]:
        """Send the body `asked`, a question about the token's rights; return the status and the body of the answer.

        Consul's own web interface uses this endpoint (measured with 1.8.7 and 1.14.11), and the token needs no right
        for it. Raises CatalogError where Consul is away.
        """
        answer = self.ask("/v1/internal/acl/authorize", body=asked)
        return answer.code, answer.body


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
    return f"Consul at {address}: {what}: answered {answer.code}: {said}" + hints.get(answer.code, "")

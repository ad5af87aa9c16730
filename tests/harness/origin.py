"""One of many servers in a process of their own: what those of the harness and of the lab have in common.

A process is `serve_origins` of a kind of connection: a subclass of `Connection`, which says what is answered.
"""

import asyncio
import collections
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from tests.harness.control import serve


def origin_name(host: str, port: int) -> str:
    """What an origin calls itself in its answers: host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Origin:
    """One listener and its connections; `counts` has its requests by its name."""

    def __init__(self, name: str, counts: collections.Counter[str]) -> None:
        self.name = name
        self.counts = counts
        self.counts[name] += 0
        self.healthy = True
        self.is_behind_proxy = False
        """Whether each connection has to begin with a line of the PROXY protocol, version 1."""
        self.is_leaving = False
        self.connections: set[Connection] = set()
        self.server: asyncio.Server | None = None

    def stop_listening(self) -> None:
        if self.server is not None:
            self.server.close()

    def leave(self) -> None:
        """In good order: what is under way ends first."""
        self.is_leaving = True
        self.stop_listening()
        for connection in list(self.connections):
            connection.leave()

    def die(self) -> None:
        self.stop_listening()
        for connection in list(self.connections):
            # Without lingering a close is a reset.
            connection.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            connection.transport.abort()


@frozen
class Request:
    """The head of a request; `headers` have small letters for their names."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    raw: bytes


class Connection(asyncio.Protocol):
    """One client of HTTP/1.1, its requests answered one after the other."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.received = b""
        self.is_busy = False
        self.is_named = not origin.is_behind_proxy
        """Whether the PROXY line that is due has come."""
        self.is_last = False
        """Whether it ends with the response that is under way."""
        self.transport: asyncio.Transport

    def answer(self, request: Request) -> None:
        """Answer it, now or later, with `respond`, or with `head` and `done`; in any other way by a subclass."""
        self.respond("200 OK", request.method)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.origin.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        self.origin.connections.discard(self)

    def leave(self) -> None:
        """Its origin is to leave: one that is idle is closed, and another after its response."""
        if not self.is_busy:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.next_request()

    def next_request(self) -> None:
        """Take up the next whole request there is, unless one is being answered."""
        if not self.is_named:
            who, named, others = self.received.partition(b"\r\n")
            if not named:
                return
            self.is_named = who.startswith(b"PROXY ")
            if not self.is_named:
                self.transport.close()
                return
            self.received = others
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if self.is_busy or not end or self.transport.is_closing():
            return
        self.received = rest
        self.is_busy = True
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        option = headers.get("connection", "").lower()
        self.is_last = option == "close" or (version != "HTTP/1.1" and option != "keep-alive")
        path, _, query = target.partition("?")
        if path == "/healthcheck":
            self.respond("200 OK" if self.origin.healthy else "503 Service Unavailable", method)
        else:
            self.count()
            self.answer(Request(method, path, query, headers, head + end))

    def count(self) -> None:
        self.origin.counts[self.origin.name] += 1

    def respond(self, status: str, method: str, body: str = "") -> None:
        """The whole response; without a `body` of its own it has the origin's name."""
        if self.transport.is_closing():
            return
        body = body or f"{self.origin.name}\n"
        self.head(status, len(body), "" if method == "HEAD" else body)
        self.done()

    def head(self, status: str, length: int, body: str = "") -> None:
        """The head of a response whose body has so many bytes, and the `body`, or what there is of it."""
        self.is_last = self.is_last or self.origin.is_leaving
        self.transport.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nX-Origin: {self.origin.name}\r\n"
            f"Connection: {'close' if self.is_last else 'keep-alive'}\r\n\r\n{body}".encode()
        )

    def done(self) -> None:
        """The response is sent."""
        self.is_busy = False
        # One that began before its origin was to leave is the last all the same.
        if self.is_last or (self.origin.is_leaving and not self.received):
            self.transport.close()
        elif self.received:
            self.next_request()


class _Process:
    """The commands of the program: those of `tests.harness.origins.Origins`."""

    def __init__(self, connection: type[Connection]) -> None:
        self.connection = connection
        self.origins: dict[tuple[str, int], Origin] = {}
        self.totals: collections.Counter[str] = collections.Counter()

    async def open(self, host: str, port: int, certificate: str = "", *, is_behind_proxy: bool = False) -> None:
        if (host, port) in self.origins:
            raise LookupError(f"{origin_name(host, port)} is open already")
        origin = Origin(origin_name(host, port), self.totals)
        origin.is_behind_proxy = is_behind_proxy
        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        origin.server = await asyncio.get_running_loop().create_server(
            lambda: self.connection(origin), host, port, backlog=1024, ssl=context
        )
        self.origins[host, port] = origin

    async def close(self, host: str, port: int) -> None:
        self.origins.pop((host, port)).leave()

    async def abort(self, host: str, port: int) -> None:
        self.origins.pop((host, port)).die()

    async def set_health(self, host: str, port: int, ok: bool) -> None:  # noqa: FBT001  # from JSON
        self.origins[host, port].healthy = ok

    async def counts(self) -> Mapping[str, Any]:
        return {"counts": self.totals}


def serve_origins(connection: type[Connection]) -> None:
    """Open and close origins as standard input says, until it closes."""
    commands = _Process(connection)
    names = ("open", "close", "abort", "set_health", "counts")
    asyncio.run(serve({name: getattr(commands, name) for name in names}))

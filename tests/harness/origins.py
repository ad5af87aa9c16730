"""Real HTTP servers for HAProxy to balance: many addresses and ports, in one process of their own."""

import asyncio
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness.control import Helper, serve

DRIP_MS = 50


def origin_name(host: str, port: int) -> str:
    """What an origin calls itself in its answers: host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Origins:
    """HTTP/1.1 servers that keep connections and answer every GET with 200 and their own name.

    A path that ends with /slow?ms=N is answered after N milliseconds, /drip?ms=N at once with a body that takes N
    milliseconds, a byte each 50; /healthcheck is answered with 200 or
    503, as `set_health` has it.
    """

    def __init__(self, work: Path) -> None:
        """Start the process that will hold the origins, logging to `work`."""
        self._helper = Helper("tests.harness.origins", work)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._helper.process.pid

    def open(self, host: str, port: int) -> str:
        """Start an origin and return its name; `HelperError` when its port is taken."""
        self._helper.ask("open", host=host, port=port)
        return origin_name(host, port)

    def close(self, host: str, port: int) -> None:
        """Stop listening, close idle connections, and close the others after the request they are at.

        Returns at once; `HelperError` when there is no such origin.
        """
        self._helper.ask("close", host=host, port=port)

    def abort(self, host: str, port: int) -> None:
        """Stop listening and reset all connections; `HelperError` when there is no such origin."""
        self._helper.ask("abort", host=host, port=port)

    def set_health(self, host: str, port: int, ok: bool) -> None:  # noqa: FBT001  # reads well at the call
        """Choose what /healthcheck answers; `HelperError` when there is no such origin."""
        self._helper.ask("set_health", host=host, port=port, ok=ok)

    def counts(self) -> dict[str, int]:
        """Requests so far by origin name, without those for /healthcheck; closed origins stay in."""
        counts: dict[str, int] = self._helper.ask("counts")["counts"]
        return counts

    def stop(self) -> None:
        """End them all, connections included; harmless when repeated."""
        self._helper.stop()


class _Origin:
    """One listener and its connections."""

    def __init__(self, name: str, counts: dict[str, int]) -> None:
        self.name = name
        self.counts = counts
        self.healthy = True
        self.closing = False
        self.connections: set[_Connection] = set()
        self.server: asyncio.Server | None = None
        counts.setdefault(name, 0)

    def stop_listening(self) -> None:
        self.closing = True
        if self.server is not None:
            self.server.close()

    def answer(self, target: str) -> tuple[str, float]:
        """Status line's end and delay in seconds for a request's target."""
        path, _, query = target.partition("?")
        if path == "/healthcheck":
            return ("200 OK" if self.healthy else "503 Service Unavailable"), 0.0
        self.counts[self.name] += 1
        slow = path.endswith("/slow") and query.startswith("ms=")
        return "200 OK", (int(query.removeprefix("ms=")) / 1000 if slow else 0.0)


class _Connection(asyncio.Protocol):
    """One client, its requests answered one after the other."""

    def __init__(self, origin: _Origin) -> None:
        self.origin = origin
        self.received = b""
        self.busy = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.origin.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        self.origin.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.next_request()

    def next_request(self) -> None:
        """Take up the next whole request there is, unless one is being answered."""
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if self.busy or not end or self.transport.is_closing():
            return
        self.received = rest
        self.busy = True
        line, *headers = head.decode("latin-1").split("\r\n")
        method, target, version = line.split(" ")
        asked = {header.replace(" ", "").lower() for header in headers if header[:1] in "cC"}
        last = "connection:close" in asked or (version != "HTTP/1.1" and "connection:keep-alive" not in asked)
        status, delay = self.origin.answer(target)
        path, _, query = target.partition("?")
        if path.endswith("/drip"):
            count = int(query.removeprefix("ms=")) // DRIP_MS
            self.transport.write(f"HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n".encode())
            self.drip(count)
        elif delay:
            loop = asyncio.get_running_loop()
            loop.call_later(delay, self.respond, status, method == "HEAD", last)
        else:
            self.respond(status, method == "HEAD", last)

    def drip(self, count: int) -> None:
        """Send a byte, and the `count` - 1 others later."""
        if self.transport.is_closing():
            return
        if count == 0:
            self.transport.close()
            return
        self.transport.write(b".")
        asyncio.get_running_loop().call_later(DRIP_MS / 1000, self.drip, count - 1)

    def respond(self, status: str, without_body: bool, last: bool) -> None:  # noqa: FBT001  # called by loop
        if self.transport.is_closing():
            return
        last = last or self.origin.closing
        body = f"{self.origin.name}\n"
        self.transport.write(
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'close' if last else 'keep-alive'}\r\n\r\n{'' if without_body else body}".encode()
        )
        self.busy = False
        if last:
            self.transport.close()
        elif self.received:
            self.next_request()


class _Process:
    """The commands of the helper process."""

    def __init__(self) -> None:
        self.origins: dict[tuple[str, int], _Origin] = {}
        self.totals: dict[str, int] = {}

    async def open(self, host: str, port: int) -> None:
        if (host, port) in self.origins:
            raise LookupError(f"{origin_name(host, port)} is open already")
        origin = _Origin(origin_name(host, port), self.totals)
        origin.server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(origin), host, port, backlog=1024
        )
        self.origins[host, port] = origin

    async def close(self, host: str, port: int) -> None:
        origin = self.origins.pop((host, port))
        origin.stop_listening()
        for connection in list(origin.connections):
            if not connection.busy:
                connection.transport.close()

    async def abort(self, host: str, port: int) -> None:
        origin = self.origins.pop((host, port))
        origin.stop_listening()
        for connection in list(origin.connections):
            # Without lingering a close is a reset.
            connection.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            connection.transport.abort()

    async def set_health(self, host: str, port: int, ok: bool) -> None:  # noqa: FBT001  # from JSON
        self.origins[host, port].healthy = ok

    async def counts(self) -> Mapping[str, Any]:
        return {"counts": self.totals}


def main() -> None:
    commands = _Process()
    names = ("open", "close", "abort", "set_health", "counts")
    asyncio.run(serve({name: getattr(commands, name) for name in names}))


if __name__ == "__main__":
    main()

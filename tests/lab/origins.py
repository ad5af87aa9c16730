"""The servers of the lab: every kind of traffic on one port of each, in a process of their own."""

import asyncio
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request, TextMessage

from tests.harness.control import serve
from tests.harness.origins import origin_name
from tests.lab.traffic.dialogues import FAREWELL
from tests.lab.traffic.transfers import STEP_BYTES, STEP_SECONDS

_NOT_HTTP = b"ECHO "


class _Origin:
    """One listener and its connections."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.healthy = True
        self.is_leaving = False
        self.connections: set[_Connection] = set()
        self.server: asyncio.Server | None = None

    def stop_listening(self) -> None:
        if self.server is not None:
            self.server.close()

    def leave(self) -> None:
        """In good order: what is under way ends first, and who stays for long is asked to go."""
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


class _Connection(asyncio.Protocol):
    """One client: HTTP/1.1, which may become WebSocket, or lines."""

    def __init__(self, origin: _Origin) -> None:
        self.origin = origin
        self.received = b""
        self.is_new = True
        """Whether no request has come yet."""
        self.is_busy = False
        self.is_last = False
        self.missing_bytes = 0
        """Of the body that is being sent here."""
        self.size_bytes = 0
        """Of that body as a whole."""
        self.websocket: WSConnection | None = None
        self.is_lines = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.origin.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        self.origin.connections.discard(self)

    def leave(self) -> None:
        if self.is_lines:
            self.transport.write(f"{FAREWELL}\n".encode())
        elif self.websocket is not None:
            self.tell(self.websocket, [TextMessage(FAREWELL)])
        elif not self.is_busy and not self.received and not self.is_new:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.websocket is not None:
            self.take(self.websocket, data)
            return
        self.received += data
        self.is_new = False
        if self.received.startswith(_NOT_HTTP):
            self.is_lines = True
        if self.is_lines:
            if self.origin.is_leaving:
                self.leave()
            self.echo()
        elif self.missing_bytes:
            self.next_part()
        else:
            self.next_request()

    def echo(self) -> None:
        *lines, self.received = self.received.split(b"\n")
        for line in lines:
            self.origin.count += 1
            self.transport.write(f"{self.origin.name} ".encode() + line.removeprefix(_NOT_HTTP) + b"\n")

    def next_request(self) -> None:
        """Take up the next whole request there is, unless one is being answered."""
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
            return
        self.origin.count += 1
        match path:
            case "/download":
                count = int(query.removeprefix("bytes="))
                self.head("200 OK", count)
                self.drip(count)
            case "/upload":
                self.size_bytes = self.missing_bytes = int(headers["content-length"])
                self.next_part()
            case "/echo":
                self.websocket = WSConnection(ConnectionType.SERVER)
                self.take(self.websocket, head + end + rest)
            case _:
                self.respond("200 OK", method)

    def next_part(self) -> None:
        """Take the next part of a body that is being sent."""
        part = self.received[: self.missing_bytes]
        self.received = self.received[len(part) :]
        self.missing_bytes -= len(part)
        if not self.missing_bytes:
            self.respond("200 OK", "POST", f"{self.size_bytes}\n")

    def take(self, websocket: WSConnection, data: bytes) -> None:
        """Take what came over a WebSocket."""
        websocket.receive_data(data)
        for event in websocket.events():
            match event:
                case Request():
                    name = self.origin.name.encode()
                    self.tell(websocket, [AcceptConnection(extra_headers=[(b"x-origin", name)])])
                    if self.origin.is_leaving:
                        self.leave()
                case TextMessage():
                    self.origin.count += 1
                    self.tell(websocket, [TextMessage(f"{self.origin.name} {event.data}")])
                case CloseConnection():
                    self.tell(websocket, [event.response()])
                    self.transport.close()
                case _:
                    pass

    def tell(self, websocket: WSConnection, events: Iterable[Event]) -> None:
        self.transport.write(b"".join(websocket.send(event) for event in events))

    def drip(self, count: int) -> None:
        """Send `count` bytes more, a part now and the others later."""
        if self.transport.is_closing():
            return
        part = min(count, STEP_BYTES)
        self.transport.write(b"." * part)
        if part < count:
            asyncio.get_running_loop().call_later(STEP_SECONDS, self.drip, count - part)
        else:
            # At once: whoever has the whole may ask for something else.
            self.done()

    def respond(self, status: str, method: str, body: str = "") -> None:
        body = body or f"{self.origin.name}\n"
        self.head(status, len(body), "" if method == "HEAD" else body)
        self.done()

    def head(self, status: str, length: int, body: str = "") -> None:
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

    def __init__(self) -> None:
        self.origins: dict[tuple[str, int], _Origin] = {}
        self.all: list[_Origin] = []

    async def open(self, host: str, port: int) -> None:
        if (host, port) in self.origins:
            raise LookupError(f"{origin_name(host, port)} is open already")
        origin = _Origin(origin_name(host, port))
        origin.server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(origin), host, port, backlog=1024
        )
        self.origins[host, port] = origin
        self.all.append(origin)

    async def close(self, host: str, port: int) -> None:
        self.origins.pop((host, port)).leave()

    async def abort(self, host: str, port: int) -> None:
        self.origins.pop((host, port)).die()

    async def set_health(self, host: str, port: int, ok: bool) -> None:  # noqa: FBT001  # from JSON
        self.origins[host, port].healthy = ok

    async def counts(self) -> Mapping[str, Any]:
        counts: dict[str, int] = {}
        for origin in self.all:
            counts[origin.name] = counts.get(origin.name, 0) + origin.count
        return {"counts": counts}


def main() -> None:
    commands = _Process()
    names = ("open", "close", "abort", "set_health", "counts")
    asyncio.run(serve({name: getattr(commands, name) for name in names}))


if __name__ == "__main__":
    main()

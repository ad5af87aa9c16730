"""The servers of the lab: every kind of traffic on one port of each, in a process of their own."""

import asyncio
from collections.abc import Iterable

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request as Handshake, TextMessage

from tests.harness.origin import Connection, Origin, Request, serve_origins
from tests.lab.traffic.dialogues import FAREWELL
from tests.lab.traffic.transfers import STEP_BYTES, STEP_SECONDS

_NOT_HTTP = b"ECHO "


class _Connection(Connection):
    """One client: HTTP/1.1, which may become WebSocket, or lines."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self.is_new = True
        """Whether no request has come yet."""
        self.missing_bytes = 0
        """Of the body that is being sent here."""
        self.size_bytes = 0
        """Of that body as a whole."""
        self.websocket: WSConnection | None = None
        self.is_lines = False

    def leave(self) -> None:
        """Who stays for long is asked to go, and whose request may be on its way has it answered."""
        if self.is_lines:
            self.transport.write(f"{FAREWELL}\n".encode())
        elif self.websocket is not None:
            self.tell(self.websocket, [TextMessage(FAREWELL)])
        elif not self.received and not self.is_new:
            super().leave()

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
            self.count()
            self.transport.write(f"{self.origin.name} ".encode() + line.removeprefix(_NOT_HTTP) + b"\n")

    def answer(self, request: Request) -> None:
        match request.path:
            case "/download":
                count = int(request.query.removeprefix("bytes="))
                self.head("200 OK", count)
                self.drip(count)
            case "/upload":
                self.size_bytes = self.missing_bytes = int(request.headers["content-length"])
                self.next_part()
            case "/echo":
                self.websocket = WSConnection(ConnectionType.SERVER)
                self.take(self.websocket, request.raw + self.received)
            case _:
                super().answer(request)

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
                case Handshake():
                    name = self.origin.name.encode()
                    self.tell(websocket, [AcceptConnection(extra_headers=[(b"x-origin", name)])])
                    if self.origin.is_leaving:
                        self.leave()
                case TextMessage():
                    self.count()
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


if __name__ == "__main__":
    serve_origins(_Connection)

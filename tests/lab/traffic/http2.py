"""HTTP/2 under TLS (RFC 9113), by h2; streams accounted for one by one."""

import asyncio
import random
import ssl
from collections.abc import Iterator, Mapping
from typing import Self

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from tests.lab.traffic.http1 import Connection
from tests.lab.traffic.senders import Attempt, Attempts, Senders, Target, WrongAnswerError

DEPTH = 4
FRAME_HEADER_BYTES = 9


class Session:
    """One connection, which is read all the time: it is to answer the server's settings, and to know its end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_leaving = False
        """Whether the server has said that it takes up no other stream (GOAWAY)."""
        self.failure: Exception | None = None
        self._protocol = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._protocol.initiate_connection()
        self._streams: dict[int, tuple[Attempt, asyncio.Future[None]]] = {}
        self._received = b""
        self._heads: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytes] = {}
        self._flush()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, target: Target, tls: ssl.SSLContext) -> Self:
        connection = await Connection.open(target.host, target.tls_port, tls)
        secured = connection.writer.get_extra_info("ssl_object")
        if secured.selected_alpn_protocol() != "h2":
            connection.close()
            raise WrongAnswerError("the server does not speak HTTP/2")
        return cls(connection)

    @property
    def has_ended(self) -> bool:
        return self.is_leaving or self.failure is not None

    async def ask(self, attempts: Attempts, authority: str) -> None:
        """A stream for each, at once; return when all are over, however they ended."""
        if self.failure is not None:
            raise self.failure
        waiting = []
        for attempt in attempts:
            stream = self._protocol.get_next_available_stream_id()
            names = {":method": "GET", ":path": "/", ":scheme": "https", ":authority": authority}
            self._protocol.send_headers(stream, list(names.items()), end_stream=True)
            over = asyncio.get_running_loop().create_future()
            self._streams[stream] = attempt, over
            waiting.append(over)
        self._flush()
        await asyncio.gather(*waiting)

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self.connection.close()

    async def _read(self) -> None:
        try:
            while data := await self.connection.reader.read(65536):
                for frame in self._frames(data):
                    if self.is_leaving:
                        # Streams up to the last one that was named are answered still, but after a GOAWAY h2 takes
                        # nothing more unless it is told that the connection goes on.
                        self._protocol.state_machine.state = ConnectionState.CLIENT_OPEN
                    for event in self._protocol.receive_data(frame):
                        self._take(event)
                self._flush()
            self._fail(asyncio.IncompleteReadError(data, None))
        except ProtocolError as error:
            self._fail(WrongAnswerError(str(error)))
        except Exception as error:  # noqa: BLE001  # raised to who asks
            self._fail(error)

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """The frames that are whole with `data`, each with its header (RFC 9113, section 4.1)."""
        self._received += data
        while len(self._received) >= (length := FRAME_HEADER_BYTES + int.from_bytes(self._received[:3], "big")):
            frame, self._received = self._received[:length], self._received[length:]
            yield frame

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                self._heads[event.stream_id] = {str(name): str(value) for name, value in event.headers}
            case DataReceived():
                self._bodies[event.stream_id] = self._bodies.get(event.stream_id, b"") + event.data
                self._protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                head, body = self._heads.pop(event.stream_id), self._bodies.pop(event.stream_id, b"")
                self._end(event.stream_id, *_kind_and_origin(head, body))
            case StreamReset():
                is_refused = event.error_code == ErrorCodes.REFUSED_STREAM
                self._end(event.stream_id, "unprocessed" if is_refused else "reset")
            case ConnectionTerminated():
                self.is_leaving = True
                for stream in [one for one in self._streams if one > (event.last_stream_id or 0)]:
                    self._end(stream, "unprocessed")
            case _:
                pass

    def _end(self, stream: int, kind: str, origin: str = "") -> None:
        attempt, over = self._streams.pop(stream, (None, None))
        if attempt is not None and over is not None and not attempt.is_over:
            attempt.end(kind, origin)
            if not over.done():
                over.set_result(None)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        for _, over in self._streams.values():
            if not over.done():
                over.set_exception(error)
        self._streams.clear()

    def _flush(self) -> None:
        self.connection.writer.write(self._protocol.data_to_send())


class Http2(Senders):
    clients, pause_seconds = 8, 0.5

    def __init__(self, target: Target, rate_fraction: float = 1.0) -> None:
        super().__init__(target, rate_fraction)
        self._tls = target.tls("h2")

    async def client(self, number: int, chance: random.Random) -> None:  # noqa: ARG002
        session: Session | None = None
        while not await self.idle(chance.expovariate(1 / self.pause_seconds)):
            if session is not None and session.has_ended:
                await self.leave(session)
                session = None
                self.closed_idle += 1
            with self.begin(DEPTH) as attempts:
                async with asyncio.timeout(self.timeout_seconds):
                    if session is None:
                        session = await Session.open(self.target, self._tls)
                    await session.ask(attempts, self.target.host)
            if session is not None and not attempts.are_good:
                await self.leave(session)
                session = None
        if session is not None:
            await self.leave(session)

    async def leave(self, session: Session) -> None:
        await session.close()
        self.kept_for(session.connection.opened)


def _kind_and_origin(head: Mapping[str, str], body: bytes) -> tuple[str, str]:
    status, origin = head[":status"], head.get("x-origin", "")
    if status == "200":
        return ("answered", origin) if body.strip() == origin.encode() else ("other", "")
    return ("5xx" if status.startswith("5") else "other"), ""

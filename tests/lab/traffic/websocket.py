"""WebSocket (RFC 6455), by wsproto."""

import asyncio
import random

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, RejectConnection, Request, TextMessage
from wsproto.utilities import ProtocolError

from tests.lab.traffic.dialogues import Dialogue, Talking
from tests.lab.traffic.http1 import Connection
from tests.lab.traffic.senders import StatusError, WrongAnswerError


class Socket(Dialogue):
    """One connection, from its handshake on."""

    def __init__(self, connection: Connection, host: str) -> None:
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._text = ""
        super().__init__(connection)
        self._write(Request(host=host, target="/echo"))

    async def accepted(self) -> str:
        """Wait until the handshake is over; who is at the other end."""
        return await self._answer

    def send(self, text: str) -> None:
        self._write(TextMessage(text))

    def part(self) -> None:
        if self._protocol.state is ConnectionState.OPEN:
            self._write(CloseConnection(1000))

    async def listen(self) -> None:
        data = await self.connection.reader.read(65536)
        if not data:
            raise asyncio.IncompleteReadError(data, None)
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                self._take(event)
        except ProtocolError as error:
            raise WrongAnswerError(str(error)) from error

    def _take(self, event: Event) -> None:
        match event:
            case AcceptConnection():
                headers = {name.lower(): value for name, value in event.extra_headers}
                self._answer.set_result(headers.get(b"x-origin", b"").decode())
            case RejectConnection():
                raise StatusError(event.status_code)
            case TextMessage():
                self._text += event.data
                if event.message_finished:
                    text, self._text = self._text, ""
                    self.heard(text)
            case CloseConnection():
                self.is_leaving = True
                self._write(event.response())
            case Ping():
                self._write(event.response())
            case _:
                pass

    def _write(self, event: Event) -> None:
        self.connection.writer.write(self._protocol.send(event))


class WebSocket(Talking):
    clients = 16

    async def client(self, number: int, chance: random.Random) -> None:  # noqa: ARG002
        await self.talk(chance)

    async def open(self) -> tuple[Dialogue, str]:
        socket = Socket(await Connection.open(self.target.host, self.target.port), self.target.host)
        try:
            return socket, await socket.accepted()
        except BaseException:
            await socket.close()
            raise

"""Connections as long as the measurement, on which each message is answered: what WebSocket and plain TCP share."""

import abc
import asyncio
import random
from typing import Self

from tests.lab.traffic.http1 import Connection
from tests.lab.traffic.senders import Senders, WrongAnswerError

EVERY_SECONDS = 0.1
FAREWELL = "bye"
"""What a server says that leaves in good order: it goes on answering until the client has closed."""


class Dialogue(abc.ABC):
    """One such connection. It is read all the time, for its end may come at any."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_leaving = False
        """Whether the server has asked to close it."""
        self.failure: Exception | None = None
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())

    async def say(self, text: str) -> str:
        """Send a message; who answered it. What it failed with is raised, whenever that was."""
        if self.failure is not None:
            raise self.failure
        self._answer = asyncio.get_running_loop().create_future()
        self.send(text)
        origin, _, echo = (await self._answer).partition(" ")
        if echo != text:
            raise WrongAnswerError(f"{text!r} came back as {echo!r}")
        return origin

    def heard(self, text: str) -> None:
        """A message came."""
        if text == FAREWELL:
            self.is_leaving = True
        elif not self._answer.done():
            self._answer.set_result(text)
        else:
            raise WrongAnswerError(f"{text!r} answers nothing")

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        if self.failure is None:
            self.part()
        self.connection.close()

    @abc.abstractmethod
    def send(self, text: str) -> None:
        """Send one message."""

    @abc.abstractmethod
    def part(self) -> None:
        """Say that it is over, where the protocol has a way to."""

    @abc.abstractmethod
    async def listen(self) -> None:
        """Read once, and pass on what was `heard`; `IncompleteReadError` at the end."""

    async def _read(self) -> None:
        try:
            while True:
                await self.listen()
        except Exception as error:  # noqa: BLE001  # raised to who says something
            self.failure = error
            if not self._answer.done():
                self._answer.set_exception(error)
                self._answer.exception()  # or it would be logged where nobody waits for it


class Talking(Senders):
    """Clients that talk on and on over connections of theirs."""

    pause_seconds = EVERY_SECONDS

    async def talk(self, chance: random.Random) -> None:
        """One of them."""
        dialogue: Dialogue | None = None
        count = 0
        seconds = chance.uniform(0, EVERY_SECONDS)
        while not await self.idle(seconds):
            count += 1
            seconds = EVERY_SECONDS * self.pause_factor
            if dialogue is not None and dialogue.is_leaving:
                await self.leave(dialogue)
                dialogue = None
                self.closed_idle += 1
            with self.begin() as attempts:
                [one] = attempts
                async with asyncio.timeout(self.timeout_seconds):
                    if dialogue is None:
                        dialogue, origin = await self.open()
                    else:
                        one.connected = dialogue.connection.opened
                        origin = await dialogue.say(str(count))
                    one.end("answered", origin)
            if dialogue is not None and not attempts.are_good:
                await self.leave(dialogue)
                dialogue = None
        if dialogue is not None:
            await self.leave(dialogue)

    @abc.abstractmethod
    async def open(self) -> tuple[Dialogue, str]:
        """A new one, and who is at its other end."""

    async def leave(self, dialogue: Dialogue) -> None:
        await dialogue.close()
        self.kept_for(dialogue.connection.opened)


class Lines(Dialogue):
    """A line and its echo: `ECHO text`, answered with the server's name and the text."""

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        return cls(await Connection.open(host, port))

    def send(self, text: str) -> None:
        self.connection.writer.write(f"ECHO {text}\n".encode())

    def part(self) -> None:
        """There is no word for it."""

    async def listen(self) -> None:
        line = await self.connection.reader.readuntil(b"\n")
        self.heard(line.decode(errors="replace").rstrip("\n"))


class Tcp(Talking):
    """Half of the clients on a new connection for each line."""

    clients, least_clients = 16, 2
    pause_seconds = 0.4

    async def client(self, number: int, chance: random.Random) -> None:
        if number % 2:
            await self.talk(chance)
        while not await self.idle(chance.expovariate(1 / self.pause_seconds)):
            lines: Lines | None = None
            with self.begin() as [one]:
                async with asyncio.timeout(self.timeout_seconds):
                    lines = await Lines.open(self.target.host, self.target.tcp_port)
                    one.end("answered", await lines.say("once"))
            if lines is not None:
                await lines.close()

    async def open(self) -> tuple[Dialogue, str]:
        lines = await Lines.open(self.target.host, self.target.tcp_port)
        try:
            return lines, await lines.say("hello")
        except BaseException:
            await lines.close()
            raise

"""HTTP/1.1: `Connection`, and short requests on new connections, kept ones, under TLS, and pipelined."""

import asyncio
import random
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar, Self

from attrs import frozen

from tests.lab.traffic.senders import Senders, Target, WrongAnswerError


@frozen
class Head:
    """The beginning of a response; the names of its headers in small letters."""

    status: str
    headers: Mapping[str, str]
    is_last: bool
    """Whether the connection is closed after it."""

    @classmethod
    def parsed(cls, data: bytes) -> Self:
        line, *lines = data.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        version, _, rest = line.partition(" ")
        if not version.startswith("HTTP/1."):
            raise WrongAnswerError(f"{line!r} is no HTTP/1")
        is_last = headers.get("connection", "").lower() == "close" or version != "HTTP/1.1"
        return cls(rest[:3], headers, is_last)

    @property
    def kind(self) -> str:
        if self.status == "200":
            return "answered"
        return "5xx" if self.status.startswith("5") else "other"

    @property
    def origin(self) -> str:
        return self.headers.get("x-origin", "") if self.kind == "answered" else ""

    @property
    def length(self) -> int:
        """Of its body, in bytes."""
        value = self.headers.get("content-length", "")
        if not value.isdecimal():
            raise WrongAnswerError(f"Content-Length is {value!r}")
        return int(value)


class Connection:
    """One connection, and what is known of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.opened = asyncio.get_running_loop().time()
        self.is_last = False
        self._is_over = False

    @classmethod
    async def open(cls, host: str, port: int, tls: ssl.SSLContext | None = None) -> Self:
        return cls(*await asyncio.open_connection(host, port, ssl=tls))

    async def watch(self) -> None:
        """Return when something came that nobody asked for, such as the end: it is over then."""
        with suppress(OSError):
            await self.reader.read(1)
        self._is_over = True

    async def head(self) -> Head:
        """Of the next response; `IncompleteReadError` when the connection ends first, `OSError` when it is reset."""
        head = Head.parsed(await self.reader.readuntil(b"\r\n\r\n"))
        self.is_last = head.is_last
        return head

    async def answer(self) -> tuple[str, str]:
        """Kind and origin of the next response, once all of it is there; errors as for `head`.

        `WrongAnswerError` when it is not what a server of the lab answers to a GET: its name, in head and body.
        """
        head = await self.head()
        body = await self.reader.readexactly(head.length)
        if head.kind == "answered" and body.strip() != head.origin.encode():
            raise WrongAnswerError(f"{head.origin!r} answered {body!r}")
        return head.kind, head.origin

    @property
    def has_ended(self) -> bool:
        return self._is_over or self.reader.at_eof()

    def close(self) -> None:
        self.writer.close()


class Asking(Senders):
    """Clients that send GETs, `depth` at once."""

    is_kept: ClassVar[bool] = True
    is_secret: ClassVar[bool] = False
    depth: ClassVar[int] = 1

    def __init__(self, target: Target, rate_fraction: float = 1.0) -> None:
        super().__init__(target, rate_fraction)
        option = "" if self.is_kept else "Connection: close\r\n"
        self.request = f"GET / HTTP/1.1\r\nHost: {target.host}\r\n{option}\r\n".encode() * self.depth
        self._tls = target.tls("http/1.1") if self.is_secret else None

    async def client(self, number: int, chance: random.Random) -> None:  # noqa: ARG002
        connection: Connection | None = None
        while not await self.rest(connection, chance.expovariate(1 / self.pause_seconds)):
            if connection is not None and connection.has_ended:
                self.leave(connection)
                connection = None
                self.closed_idle += 1
            with self.begin(self.depth) as attempts:
                async with asyncio.timeout(self.timeout_seconds):
                    if connection is None:
                        connection = await self.open()
                    connection.writer.write(self.request)
                    for attempt in attempts:
                        if connection.is_last:
                            attempt.end("unprocessed")
                        else:
                            attempt.end(*await connection.answer())
            if connection is not None and (not self.is_kept or connection.is_last or not attempts.are_good):
                self.leave(connection)
                connection = None
        if connection is not None:
            self.leave(connection)

    async def open(self) -> Connection:
        port = self.target.port if self._tls is None else self.target.tls_port
        return await Connection.open(self.target.host, port, self._tls)

    def leave(self, connection: Connection) -> None:
        connection.close()
        self.kept_for(connection.opened)

    async def rest(self, connection: Connection | None, seconds: float) -> bool:
        """As `idle`. Meanwhile a kept connection is read, for its end may come at any time."""
        watching = None if connection is None else asyncio.create_task(connection.watch())
        is_ending = await self.idle(seconds)
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        return is_ending


class New(Asking):
    clients, pause_seconds = 32, 0.16
    is_kept = False


class Kept(Asking):
    clients, pause_seconds = 32, 0.16


class Pipelined(Asking):
    clients, pause_seconds = 8, 0.4
    depth = 4


class Tls(Asking):
    clients, pause_seconds = 8, 0.4
    is_kept, is_secret = False, True

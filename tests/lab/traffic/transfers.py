"""Long downloads and uploads, each on a new connection, slow enough for the machine not to feel them."""

import asyncio
import random
from contextlib import suppress

from tests.lab.traffic.http1 import Connection, Head
from tests.lab.traffic.senders import Attempt, Senders, WrongAnswerError

STEP_SECONDS = 0.1
STEP_BYTES = 2000
LEAST_STEPS, MOST_STEPS = 40, 60


class Transfers(Senders):
    """Clients that are at one transfer after the other."""

    clients, pause_seconds = 12, 0.5
    is_long = True

    async def client(self, number: int, chance: random.Random) -> None:
        # Not all at the same point of theirs at any time.
        steps = MOST_STEPS * (number + 1) // self.clients
        while not await self.idle(chance.expovariate(1 / self.pause_seconds)):
            connection: Connection | None = None
            try:
                with self.begin() as [one]:
                    one.of_bytes = steps * STEP_BYTES
                    async with asyncio.timeout(self.timeout_seconds):
                        connection = await Connection.open(self.target.host, self.target.port)
                    head = await self.transfer(connection, one)
                    one.end(head.kind, head.origin)
            finally:
                if connection is not None:
                    connection.close()
                    self.kept_for(connection.opened)
            steps = chance.randint(LEAST_STEPS, MOST_STEPS)

    async def transfer(self, connection: Connection, one: Attempt) -> Head:
        """Do it, and say what it was answered with."""
        raise NotImplementedError


class Downloads(Transfers):
    async def transfer(self, connection: Connection, one: Attempt) -> Head:
        path = f"/download?bytes={one.of_bytes}"
        connection.writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.target.host}\r\n\r\n".encode())
        async with asyncio.timeout(self.timeout_seconds):
            head = await connection.head()
        if head.kind == "answered" and head.length != one.of_bytes:
            raise WrongAnswerError(f"{one.of_bytes} bytes were asked for, and {head.length} are to come")
        while head.kind == "answered" and one.bytes < one.of_bytes:
            async with asyncio.timeout(self.timeout_seconds):
                data = await connection.reader.read(65536)
            if not data:
                raise asyncio.IncompleteReadError(data, one.of_bytes - one.bytes)
            one.bytes += len(data)
        return head


class Uploads(Transfers):
    async def transfer(self, connection: Connection, one: Attempt) -> Head:
        size = f"Content-Length: {one.of_bytes}"
        connection.writer.write(f"POST /upload HTTP/1.1\r\nHost: {self.target.host}\r\n{size}\r\n\r\n".encode())
        # An end, or an answer that does not wait for the whole, may come at any time.
        answering = asyncio.create_task(connection.head())
        try:
            while one.bytes < one.of_bytes and not answering.done():
                with suppress(ConnectionError):  # told by what is read
                    connection.writer.write(b"." * STEP_BYTES)
                    async with asyncio.timeout(self.timeout_seconds):
                        await connection.writer.drain()
                    one.bytes += STEP_BYTES
                await asyncio.wait([answering], timeout=STEP_SECONDS)
            async with asyncio.timeout(self.timeout_seconds):
                head = await answering
        finally:
            answering.cancel()
        if head.kind == "answered":
            async with asyncio.timeout(self.timeout_seconds):
                body = await connection.reader.readexactly(head.length)
            if body != f"{one.of_bytes}\n".encode():
                raise WrongAnswerError(f"{one.of_bytes} bytes were sent, and {body!r} came")
        return head

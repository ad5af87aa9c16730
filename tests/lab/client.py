"""Clients that account for every request, one by one: `Clients` for the lab, and the program that it runs.

They never try again. What became of a request is one of `KINDS`:

answered  200, the whole of it;
refused   the connection was refused;
reset     the connection was reset, while it was made or before the whole response was there;
cut       the connection was closed before the whole response was there;
timeout   no connection, or no whole response, in 5 s;
5xx       answered with such a status;
other     anything else, such as another status or no free port to connect from.
"""

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from attrs import asdict, astuple, frozen

from tests.harness.control import serve
from tests.lab.network import Space
from tests.lab.programs import SpacedHelper

TIMEOUT_SECONDS = 5.0
KINDS = ("answered", "refused", "reset", "cut", "timeout", "5xx", "other")
Traffic = Literal["new", "kept"]
TRAFFIC: Mapping[Traffic, str] = {
    "new": "a new connection for each request",
    "kept": "kept connections, idle for a random time between two requests",
}


@frozen
class Request:
    """One request: when it was begun (monotonic clock, seconds), how long it took, what became of it."""

    begun: float
    seconds: float
    kind: str
    origin: str
    """Who answered it, by its own name; empty unless it was answered."""


@frozen
class Sent:
    """All requests of all clients, and how many were begun, counted apart: as many, or the account is wrong."""

    begun: int
    requests: Sequence[Request]
    closed_idle: int
    """Kept connections that were closed between two requests, which costs none."""

    def kinds(self) -> Mapping[str, int]:
        found = Counter(request.kind for request in self.requests)
        return {kind: found[kind] for kind in KINDS}


class Clients:
    """Clients on a machine of theirs that send GETs to one address, from `__enter__` until `stop`."""

    def __init__(self, space: Space, work: Path, host: str, port: int, *, traffic: Traffic, rate: float) -> None:
        """Prepare clients that send `rate` requests a second in all, at random moments."""
        arguments = {"host": host, "port": port, "traffic": traffic, "rate": rate}
        self._helper = SpacedHelper(space, "tests.lab.client", work, json.dumps(arguments))

    def __enter__(self) -> Self:
        self._helper.ask("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._helper.stop()

    def stop(self) -> Sent:
        """Begin no more, wait for what is under way (5 s at most), and return the account; once only."""
        told = self._helper.ask("stop")
        return Sent(told["begun"], [Request(*one) for one in told["requests"]], told["closed_idle"])


class _Clients:
    """All clients of the process."""

    def __init__(self, *, host: str, port: int, traffic: Traffic, rate: float) -> None:
        self.host, self.port, self.is_kept = host, port, traffic == "kept"
        option = "" if self.is_kept else "Connection: close\r\n"
        self.request = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n{option}\r\n".encode()
        self.count = 32
        self.pause = self.count / rate
        self.begun = 0
        self.closed_idle = 0
        self.requests: list[Request] = []
        self.ending = asyncio.Event()
        self.clients: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.clients = [asyncio.create_task(self.client(random.Random(number))) for number in range(self.count)]

    async def stop(self) -> Sent:
        self.ending.set()
        await asyncio.gather(*self.clients)
        return Sent(self.begun, self.requests, self.closed_idle)

    async def client(self, chance: random.Random) -> None:
        """One client: a request, and idle for a random time, on and on."""
        loop = asyncio.get_running_loop()
        connection: _Connection | None = None
        while not await self.idle(connection, chance.expovariate(1 / self.pause)):
            if connection is not None and connection.has_ended:
                connection.close()
                connection = None
                self.closed_idle += 1
            self.begun += 1
            begun = loop.time()
            kind, origin = "timeout", ""
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    if connection is None:
                        connection = await _Connection.open(self.host, self.port)
                    kind, origin = await connection.ask(self.request)
            except TimeoutError:
                pass
            except ConnectionRefusedError:
                kind = "refused"
            except (ConnectionResetError, BrokenPipeError):
                kind = "reset"
            except asyncio.IncompleteReadError:
                kind = "cut"
            except (OSError, ValueError, LookupError):
                kind = "other"
            self.requests.append(Request(begun, loop.time() - begun, kind, origin))
            if connection is not None and (kind != "answered" or not self.is_kept or connection.is_last):
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    async def idle(self, connection: "_Connection | None", seconds: float) -> bool:
        """Wait for so long, or until the clients are to end, which is what is returned.

        Meanwhile a kept connection is read, for its end may come at any time.
        """
        watching = None if connection is None else asyncio.create_task(connection.watch())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ending.wait()
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        return self.ending.is_set()


class _Connection:
    """One connection, and what is known of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.is_last = False
        self._is_over = False

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        return cls(*await asyncio.open_connection(host, port))

    async def watch(self) -> None:
        """Return when something came that nobody asked for, such as the end: it is over then."""
        with suppress(OSError):
            await self.reader.read(1)
        self._is_over = True

    async def ask(self, request: bytes) -> tuple[str, str]:
        """Kind and origin; `IncompleteReadError` when the connection ends first, `OSError` when it is reset."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").lower().split("\r\n")
        headers = {name.strip(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        version, status = line.split(" ")[:2]
        self.is_last = headers.get("connection") == "close" or version != "http/1.1"
        if status == "200":
            return "answered", body.decode(errors="replace").strip()
        return ("5xx" if status.startswith("5") else "other"), ""

    @property
    def has_ended(self) -> bool:
        return self._is_over or self.reader.at_eof()

    def close(self) -> None:
        self.writer.close()


class _Process:
    """The commands of the program."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.clients: _Clients

    async def start(self) -> None:
        self.clients = _Clients(**self.arguments)
        self.clients.start()

    async def stop(self) -> Mapping[str, Any]:
        sent = await self.clients.stop()
        return {**asdict(sent), "requests": [astuple(one) for one in sent.requests]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("arguments", type=json.loads)
    commands = _Process(parser.parse_args().arguments)
    asyncio.run(serve({name: getattr(commands, name) for name in ("start", "stop")}))


if __name__ == "__main__":
    main()

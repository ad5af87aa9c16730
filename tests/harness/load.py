"""Clients that never retry: every request that is lost between them and an origin is counted."""

import argparse
import asyncio
import collections
import contextlib
import errno
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import asdict, frozen

from tests.harness.control import Helper, serve

TIMEOUT_SECONDS = 5.0
FAILURES_TOLD = 20


@frozen
class LoadResult:
    """What the clients saw; a request counts once it was answered or lost."""

    requests: int
    failed: int
    failures: tuple[str, ...]  # the first 20: when and why
    by_reason: Mapping[str, int]
    by_origin: Mapping[str, int]  # answers with 200, by the name in their body
    p50_ms: float  # of answers with 200; 0 when there were none
    p99_ms: float
    max_ms: float
    seconds: float  # since the start


class Load:
    """Clients that send GETs over one kept connection each, in a process of their own, for a bounded time.

    A request is failed when its connection cannot be made, is reset or is closed before the whole response,
    when the status is not 200, or after 5 s. A connection closed between two requests is no failure: the
    client opens another for the next.
    """

    def __init__(
        self,
        work: Path,
        port: int,
        *,
        host: str = "127.0.0.1",
        path: str = "/",
        clients: int = 8,
        closing: int = 0,
        rate: float = 200.0,
        seconds: float = 60.0,
    ) -> None:
        """Prepare `clients` clients that send `rate` requests a second in all, for `seconds` at most.

        `closing` of them send `Connection: close` and open a connection for each request.
        """
        self._work = work
        self._arguments = json.dumps(
            {
                "host": host,
                "port": port,
                "path": path,
                "clients": clients,
                "closing": closing,
                "rate": rate,
                "seconds": seconds,
            }
        )
        self._helper: Helper | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._helper is not None:
            self._helper.stop()

    def start(self) -> None:
        """Start the clients; returns when they have begun."""
        self._helper = Helper("tests.harness.load", self._work, self._arguments)
        self._helper.ask("start")

    def snapshot(self) -> LoadResult:
        """What was seen so far."""
        return self._result("snapshot")

    def stop(self) -> LoadResult:
        """Send no more, wait for what is under way (5 s at most), and end the clients; once only."""
        result = self._result("stop")
        self._started.stop()
        return result

    @property
    def _started(self) -> Helper:
        assert self._helper is not None, "the load was not started"
        return self._helper

    def _result(self, command: str) -> LoadResult:
        answer = self._started.ask(command)
        return LoadResult(**{**answer, "failures": tuple(answer["failures"])})


class _Run:
    """What all clients of a process share."""

    def __init__(
        self, *, host: str, port: int, path: str, clients: int, closing: int, rate: float, seconds: float
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.host, self.port = host, port
        self.period = clients / rate
        self.began = self.loop.time()
        self.deadline = self.began + seconds
        self.latencies: list[float] = []
        self.failed = 0
        self.failures: list[str] = []
        self.by_reason: collections.Counter[str] = collections.Counter()
        self.by_origin: collections.Counter[str] = collections.Counter()
        self.clients = []
        for number in range(clients):
            option = "Connection: close\r\n" if number < closing else ""
            request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{option}\r\n".encode()
            # Spread over the period, so that the rate is even from the first request on.
            self.clients.append(_Client(self, request, self.began + self.period * number / clients))

    def succeed(self, origin: str, seconds: float) -> None:
        self.latencies.append(seconds)
        self.by_origin[origin] += 1

    def fail(self, reason: str) -> None:
        self.failed += 1
        self.by_reason[reason] += 1
        if len(self.failures) < FAILURES_TOLD:
            clock = time.strftime("%H:%M:%S")
            self.failures.append(f"{clock} (+{self.loop.time() - self.began:.3f} s): {reason}")

    async def watch_timeouts(self) -> None:
        """Look at all clients now and then, which costs less than a timer for each request."""
        while True:
            await asyncio.sleep(0.1)
            late = self.loop.time() - TIMEOUT_SECONDS
            for client in self.clients:
                if client.sent_at and client.sent_at < late:
                    client.lose(f"no response in {TIMEOUT_SECONDS:.0f} s")

    async def finish(self) -> None:
        self.deadline = 0.0
        while any(client.sent_at for client in self.clients):  # noqa: ASYNC110  # once, at the end
            await asyncio.sleep(0.01)

    def result(self) -> LoadResult:
        ordered = sorted(self.latencies)

        def percentile(part: float) -> float:
            return round(ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000, 3) if ordered else 0.0

        return LoadResult(
            requests=len(ordered) + self.failed,
            failed=self.failed,
            failures=tuple(self.failures),
            by_reason=self.by_reason,
            by_origin=self.by_origin,
            p50_ms=percentile(0.5),
            p99_ms=percentile(0.99),
            max_ms=percentile(1.0),
            seconds=round(self.loop.time() - self.began, 3),
        )


class _Client:
    """One client: a request each period, over the connection it has, if it has one."""

    def __init__(self, run: _Run, request: bytes, first: float) -> None:
        self.run = run
        self.request = request
        self.due = first
        self.sent_at = 0.0  # when the request under way was begun; 0 between two
        self.connection: _Connection | None = None
        self.connecting: asyncio.Task[None] | None = None
        run.loop.call_at(first, self.send)

    def send(self) -> None:
        now = self.run.loop.time()
        if now >= self.run.deadline:
            return
        self.sent_at = now
        if self.connection is not None and self.connection.transport.is_closing():
            # Its end was read but not yet told to us: still between two requests.
            self.drop()
        if self.connection is None:
            self.connecting = self.run.loop.create_task(self.connect())
        else:
            self.connection.transport.write(self.request)

    async def connect(self) -> None:
        try:
            transport, self.connection = await self.run.loop.create_connection(
                lambda: _Connection(self), self.run.host, self.run.port
            )
        except OSError as error:
            self.lose(f"cannot connect: {_reason(error)}")
            return
        if transport.is_closing():
            self.lose("closed before a response")
        else:
            transport.write(self.request)

    def answered(self, status: bytes, body: bytes, *, last: bool) -> None:
        """The whole response to the request under way is here."""
        if last:
            self.drop()
        if status == b"200":
            self.run.succeed(body.decode(errors="replace").strip(), self.run.loop.time() - self.sent_at)
        else:
            self.run.fail(f"status {status.decode(errors='replace')}")
        self.rest()

    def lose(self, reason: str) -> None:
        """The request under way will not be answered."""
        self.drop()
        self.run.fail(reason)
        self.rest()

    def drop(self) -> None:
        if self.connecting is not None and self.connection is None:
            self.connecting.cancel()
        if self.connection is not None:
            self.connection.client = None
            self.connection.transport.close()
            self.connection = None

    def rest(self) -> None:
        """Wait for the next turn; turns that passed meanwhile are left out, which bounds the rate."""
        self.sent_at = 0.0
        now = self.run.loop.time()
        self.due = max(self.due + self.run.period, now)
        self.run.loop.call_at(self.due, self.send)


class _Connection(asyncio.Protocol):
    """One connection of a client, which forgets it by setting `client` to None."""

    def __init__(self, client: _Client) -> None:
        self.client: _Client | None = client
        self.received = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        client = self.client
        if client is None:
            return
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        line, *lines = head.split(b"\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (entry.partition(b":") for entry in lines)
        }
        if len(body) < int(headers.get(b"content-length", 0)):
            return
        self.received = b""
        version, status = line.split(b" ", 2)[:2]
        close = headers.get(b"connection", b"").lower() == b"close" or version != b"HTTP/1.1"
        if client.sent_at:
            client.answered(status, body, last=close)
        else:
            # Such as HAProxy's 408 when it gives up waiting: meant for nobody, and closing follows.
            client.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        client = self.client
        if client is None or client.connection is not self:
            return
        client.connection = None
        if client.sent_at:
            what = "in the middle of a response" if self.received else "before a response"
            client.lose(f"{'closed' if exc is None else _reason(exc)} {what}")


def _reason(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, str(error)) if number else str(error)


class _Process:
    """The commands of the helper process."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.run: _Run
        self.watch: asyncio.Task[None]

    async def start(self) -> None:
        self.run = _Run(**self.arguments)
        self.watch = asyncio.create_task(self.run.watch_timeouts())

    async def snapshot(self) -> Mapping[str, Any]:
        return asdict(self.run.result())

    async def stop(self) -> Mapping[str, Any]:
        await self.run.finish()
        self.watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.watch
        return asdict(self.run.result())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("arguments", type=json.loads)
    commands = _Process(parser.parse_args().arguments)
    names = ("start", "snapshot", "stop")
    asyncio.run(serve({name: getattr(commands, name) for name in names}))


if __name__ == "__main__":
    main()

"""The program behind `chaos`: a proxy that misbehaves as it is told, for Consul's HTTP or HAProxy's Runtime API."""

import argparse
import asyncio
import collections
import contextlib
import json
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from tests.harness.control import serve

_BACKLOG = 1024
_PROMPT = b"\n> "
_SLICES_PER_SECOND = 20


@define
class _Mode:
    """What is wrong at the moment; which fields count depends on `name`."""

    name: str = "pass"
    times: int | None = None  # how often still; None: until another mode is set
    only: str = ""  # a path, or a command, must begin so
    raw: str = ""  # latin-1
    headers: Mapping[str, str | None] = field(factory=dict)
    body: str | None = None
    keep: int | None = None
    status: int | None = None
    size: int = 0  # bytes
    rate: float = 0.0  # bytes a second
    is_reset: bool = False
    count: int = 0

    def strikes(self, name: str, what: str) -> bool:
        """Whether this is the mode `name`, and it is `what`'s turn; a turn is then used up."""
        if self.name != name or not what.startswith(self.only) or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class _Side:
    """One end of a connection, whose coming bytes can be waited for beside something else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.buffer = bytearray()
        self.has_ended = False
        self._reader = reader
        self.writer = writer
        self._more: asyncio.Task[None] | None = None

    def coming(self) -> asyncio.Task[None]:
        """Done once there is more in the buffer, or this side has ended."""
        if self._more is None:
            self._more = asyncio.get_running_loop().create_task(self._read())
        return self._more

    async def _read(self) -> None:
        try:
            data = await self._reader.read(1 << 18)
        except OSError:
            data = b""
        self.buffer += data
        self.has_ended = not data
        self._more = None

    async def until(self, end: bytes) -> bytes:
        """The bytes up to `end`, and `end`; `EOFError` when this side ends before."""
        seen = 0
        while (place := self.buffer.find(end, seen)) < 0:
            seen = max(0, len(self.buffer) - len(end) + 1)
            await self._fill()
        return self._take(place + len(end))

    async def exactly(self, size: int) -> bytes:
        """`size` bytes; `EOFError` when this side ends before."""
        while len(self.buffer) < size:
            await self._fill()
        return self._take(size)

    async def rest(self) -> bytes:
        """All bytes until this side ends."""
        with contextlib.suppress(EOFError):
            while True:
                await self._fill()
        return self._take(len(self.buffer))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def close(self, *, is_reset: bool = False) -> None:
        if self._more is not None:
            self._more.cancel()
        if is_reset:
            end = self.writer.get_extra_info("socket")
            if not self.writer.transport.is_closing():
                # Without lingering a close is a reset.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def _fill(self) -> None:
        if self.has_ended:
            raise EOFError
        await self.coming()

    def _take(self, size: int) -> bytes:
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken


async def _first_of(*sides: _Side) -> None:
    await asyncio.wait([side.coming() for side in sides], return_when=asyncio.FIRST_COMPLETED)


@define(eq=False)
class _Connection:
    client: _Side
    target: _Side | None = None
    is_buried: bool = False
    is_reset: bool = False


class _Proxy:
    """The listener and the connections, whatever they speak."""

    def __init__(self, listen: list[Any], target: list[Any]) -> None:
        """Take addresses: [path] of a unix socket, or [host, port]."""
        self.mode = _Mode()
        self._listen, self._target = listen, target
        self._flows = asyncio.Event()
        self._flows.set()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], _Connection] = {}
        self._buried: list[_Side] = []
        self._fillers: list[socket.socket] = []
        self.accepted = 0
        self.asked: collections.Counter[str] = collections.Counter()
        self.told: list[str] = []

    async def serve(self, connection: _Connection) -> None:
        raise NotImplementedError

    # The commands

    async def set(self, **mode: Any) -> None:
        """Misbehave in another way from now on."""
        self._unfill()
        self.mode = _Mode(**mode)
        if self.mode.name == "stall":
            self._flows.clear()
        else:
            self._flows.set()
        if self.mode.name == "half_open":
            for task, connection in self._tasks.items():
                connection.is_buried = True
                task.cancel()
        if self.mode.name == "refuse":
            self._stop_listening()
            await self.reset_all()
        else:
            self._start_listening()
            if self.mode.name == "full":
                self._fill()

    async def reset_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            self._tasks[task].is_reset = True
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._buried:
            self._buried.pop().close(is_reset=True)

    async def counts(self) -> Mapping[str, Any]:
        return {"accepted": self.accepted, "open": len(self._tasks), "asked": self.asked, "told": self.told}

    # Listening

    def _start_listening(self) -> None:
        if self._listener is None:
            if len(self._listen) == 1:
                Path(self._listen[0]).unlink(missing_ok=True)
                self._listener = socket.socket(socket.AF_UNIX)
                self._listener.bind(self._listen[0])
            else:
                self._listener = socket.socket(socket.AF_INET)
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._listener.bind(tuple(self._listen))
            self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        if self._accepting is None:
            self._accepting = asyncio.get_running_loop().create_task(self._accept(self._listener))

    def _stop_listening(self) -> None:
        """A unix socket leaves its file, as that of a killed program does."""
        self._stop_accepting()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None

    def _fill(self) -> None:
        """Let the kernel's queue of the listener be full: with a backlog of 0 it holds one connection."""
        assert self._listener is not None
        self._stop_accepting()
        self._listener.listen(0)
        while True:
            filler = socket.socket(self._listener.family)
            # A moment is more than enough to be queued on this machine.
            filler.settimeout(0.2)
            try:
                filler.connect(self._listener.getsockname())
            except OSError:
                filler.close()
                return
            self._fillers.append(filler)

    def _unfill(self) -> None:
        for filler in self._fillers:
            filler.close()
            # They are first in the queue; who waits behind them is served.
            if self._listener is not None:
                self._listener.accept()[0].close()
        self._fillers.clear()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(listener)
            self.accepted += 1
            side = _Side(*await asyncio.open_connection(sock=accepted))
            if self.mode.name == "reset_new":
                side.close(is_reset=True)
            elif self.mode.name == "half_open":
                self._buried.append(side)
            else:
                connection = _Connection(side)
                task = loop.create_task(self._handle(connection))
                self._tasks[task] = connection
                task.add_done_callback(self._tasks.pop)

    async def _handle(self, connection: _Connection) -> None:
        try:
            await self.serve(connection)
        except (OSError, EOFError):
            # One side has gone: so must the other.
            pass
        finally:
            if connection.target is not None:
                connection.target.close()
            if connection.is_buried and not connection.is_reset:
                self._buried.append(connection.client)
            else:
                connection.client.close(is_reset=connection.is_reset)

    async def connect(self, connection: _Connection) -> _Side:
        """The connection to the target, made when there is none yet; `OSError` when it cannot be."""
        if connection.target is None:
            opening: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
            if len(self._target) == 1:
                opening = asyncio.open_unix_connection(self._target[0])
            else:
                opening = asyncio.open_connection(*self._target)
            try:
                connection.target = _Side(*await opening)
            except OSError:
                # What is nearest to the refusal that the client would have met.
                connection.is_reset = True
                raise
        return connection.target

    async def while_flowing(self) -> None:
        """Return at once, unless everything is to stand still."""
        await self._flows.wait()


class _HttpProxy(_Proxy):
    """Speaks HTTP/1.1: kept connections, one request at a time on each."""

    async def serve(self, connection: _Connection) -> None:
        client = connection.client
        async for request in self._requests(connection):
            path = request.path
            self.asked[path.partition("?")[0]] += 1
            await self.while_flowing()
            if self.mode.strikes("answer", path):
                answer = self.mode.raw.encode("latin-1")
                await client.send(answer)
                if not _has_clear_end(answer):
                    return
                continue
            target = await self.connect(connection)
            await target.send(request.raw)
            while not target.buffer:
                await _first_of(client, target)
                if client.has_ended or target.has_ended:
                    return
            response = await _message(target)
            await self.while_flowing()
            if not await self._deliver(connection, path, response):
                return

    async def _requests(self, connection: _Connection) -> "AsyncIterator[_Message]":
        """The client's requests, until either side ends."""
        client = connection.client
        while True:
            while not client.buffer:
                target = connection.target
                await _first_of(client, *([] if target is None else [target]))
                if client.has_ended or (target is not None and target.has_ended):
                    return
            yield await _message(client, is_request=True)

    async def _deliver(self, connection: _Connection, path: str, response: "_Message") -> bool:
        """Hand a response to the client; whether the connection can go on."""
        mode, raw = self.mode, response.raw
        if mode.strikes("rewrite", path):
            raw = response.rewritten(mode)
        if mode.strikes("cut_after", path):
            connection.is_reset = mode.is_reset
            await connection.client.send(raw[: mode.size])
            return False
        if mode.strikes("slow", path):
            step = max(1, int(mode.rate / _SLICES_PER_SECOND))
            for place in range(0, len(raw), step):
                await connection.client.send(raw[place : place + step])
                await asyncio.sleep(step / mode.rate)
        else:
            await connection.client.send(raw)
        return True


class _Message:
    """A request or a response, as it came."""

    def __init__(self, head: bytes) -> None:
        self.raw = head
        self.body = b""
        self.line, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
        self.headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    @property
    def path(self) -> str:
        """A request's target."""
        return self.line.split(" ")[1]

    def header(self, wanted: str) -> str:
        return next((value for name, value in self.headers if name.lower() == wanted), "")

    def rewritten(self, mode: _Mode) -> bytes:
        """A response as `mode` would have it."""
        body = zlib.decompress(self.body, wbits=31) if self.header("content-encoding") == "gzip" else self.body
        if mode.body is not None:
            body = mode.body.encode()
        elif mode.keep is not None:
            body = json.dumps(json.loads(body)[: mode.keep]).encode()
        # Names in lower case, so that one that is given in another case replaces the one that is there.
        own = {"content-encoding", "transfer-encoding", "content-length"}
        headers: dict[str, str | None] = {
            name.lower(): value for name, value in self.headers if name.lower() not in own
        }
        headers.update({name.lower(): value for name, value in mode.headers.items()})
        headers.setdefault("content-length", str(len(body)))
        line = f"HTTP/1.1 {mode.status} Changed" if mode.status is not None else self.line
        lines = [line, *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
        return "\r\n".join((*lines, "", "")).encode("latin-1") + body


async def _message(side: _Side, *, is_request: bool = False) -> _Message:
    message = _Message(await side.until(b"\r\n\r\n"))
    if message.header("transfer-encoding").lower() == "chunked":
        while True:
            line = await side.until(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            chunk = await side.exactly(size + 2)
            message.raw += line + chunk
            message.body += chunk[:size]
            if size == 0:
                return message
    if length := message.header("content-length"):
        message.body = await side.exactly(int(length))
    elif not is_request:
        message.body = await side.rest()
    message.raw += message.body
    return message


def _has_clear_end(answer: bytes) -> bool:
    """Whether a client knows where an answer ends, so that the connection can be kept."""
    head, end, body = answer.partition(b"\r\n\r\n")
    message = _Message(head + end)
    return (
        bool(end) and message.header("content-length") == str(len(body)) and message.header("connection") != "close"
    )


class _RuntimeProxy(_Proxy):
    """Speaks the Runtime API: in prompt mode command by command, otherwise one command and its reply."""

    async def serve(self, connection: _Connection) -> None:
        client = connection.client
        first = await client.until(b"\n")
        await self.while_flowing()
        if first.strip() == b"prompt":
            await self._converse(connection, first)
            return
        self.told.append(_text(first))
        if self.mode.strikes("reply_with", _text(first)):
            await client.send(self.mode.raw.encode() + b"\n")
            return
        target = await self.connect(connection)
        await target.send(first)
        reply = await target.rest()
        if not (self.mode.strikes("drop_after_command", _text(first)) and self.mode.count == 1):
            await client.send(reply)

    async def _converse(self, connection: _Connection, prompt: bytes) -> None:
        client, target = connection.client, await self.connect(connection)
        await target.send(prompt)
        await client.send(await target.until(_PROMPT))
        struck = 0
        while True:
            while b"\n" not in client.buffer:
                await _first_of(client, target)
                if client.has_ended or target.has_ended:
                    return
            line = await client.until(b"\n")
            command = _text(line)
            await self.while_flowing()
            self.told.append(command)
            if self.mode.strikes("reply_with", command):
                await client.send(self.mode.raw.encode() + _PROMPT)
                continue
            await target.send(line)
            reply = await target.until(_PROMPT)
            await self.while_flowing()
            if self.mode.strikes("drop_after_command", command):
                struck += 1
                if struck >= self.mode.count:
                    return
            await client.send(reply)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").strip()


_KINDS: Mapping[str, Callable[[list[Any], list[Any]], _Proxy]] = {"http": _HttpProxy, "runtime": _RuntimeProxy}


async def _run(kind: str, listen: list[Any], target: list[Any]) -> None:
    proxy = _KINDS[kind](listen, target)
    await serve({name: getattr(proxy, name) for name in ("set", "reset_all", "counts")})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument("listen", type=json.loads)
    parser.add_argument("target", type=json.loads)
    arguments = parser.parse_args()
    asyncio.run(_run(arguments.kind, arguments.listen, arguments.target))


if __name__ == "__main__":
    main()

"""What all kinds of traffic have in common: clients that send, and an account of each request."""

import abc
import asyncio
import random
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import ClassVar, Self

from attrs import define, frozen

from tests.lab.traffic.sent import Request, Sent


@frozen
class Target:
    """Where HAProxy listens; `authority` is the path of the certificate that its own is signed with."""

    host: str
    port: int
    tls_port: int
    tcp_port: int
    authority: str

    def tls(self, protocol: str) -> ssl.SSLContext:
        """For connections that speak `protocol`, in ALPN's words; no session is ever resumed by it."""
        context = ssl.create_default_context(cafile=self.authority)
        context.set_alpn_protocols([protocol])
        return context


class WrongAnswerError(ValueError):
    """Something came that is no answer to what was asked."""


class StatusError(Exception):
    """A request that is to be answered with another status than 200 was refused with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answered with {status}")
        self.kind = "5xx" if status >= 500 else "other"


@define
class Attempt:
    """One request from when it is begun; in the account once it is over: `end`."""

    book: "list[Request]"
    begun: float
    connected: float | None = None
    bytes: int = 0
    of_bytes: int = 0
    kind: str | None = None

    @property
    def is_over(self) -> bool:
        return self.kind is not None

    def end(self, kind: str, origin: str = "") -> None:
        self.kind = kind
        seconds = asyncio.get_running_loop().time() - self.begun
        self.book.append(Request(self.begun, seconds, kind, origin, self.connected, self.bytes, self.of_bytes))


class Attempts:
    """Requests begun at once. What is raised in their `with` is what becomes of those that are not over.

    It goes no further, unless it is a mistake of this program or the end of a client.
    """

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self._attempts = attempts

    @property
    def are_good(self) -> bool:
        return all(attempt.kind == "answered" for attempt in self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or (became := kind_of(error)) is None:
            return False
        for attempt in self:
            if not attempt.is_over:
                attempt.end(became)
        return not isinstance(error, asyncio.CancelledError)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._attempts)


def fewer(usual: int, rate_fraction: float, least: int = 1) -> int:
    """So large a part of the usual number, to the nearest, and `least` at least."""
    return max(least, round(usual * rate_fraction))


def kind_of(error: BaseException) -> str | None:
    """What becomes of a request that ends with `error`; None where that is a mistake of this program."""
    match error:
        case asyncio.CancelledError():
            return "ended"
        case StatusError():
            return error.kind
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case asyncio.IncompleteReadError() | ssl.SSLEOFError():
            return "cut"
        case OSError() | WrongAnswerError() | asyncio.LimitOverrunError():
            return "other"
        case _:
            return None


class Senders(abc.ABC):
    """The clients of one kind of traffic, from `start` to `stop`, and their account."""

    clients: int
    """How many there are, at the usual rate; less at a lower one."""
    least_clients: ClassVar[int] = 1
    pause_seconds: float
    """How long a client is idle between two requests: at random, so long on average."""
    timeout_seconds: float = 5.0
    is_long: ClassVar[bool] = False
    """Whether what is under way at the end is not waited for."""

    def __init__(self, target: Target, rate_fraction: float = 1.0) -> None:
        """So large a part of the usual traffic: of its clients, to the nearest number, and of its requests."""
        self.target = target
        usual, self.clients = self.clients, fewer(self.clients, rate_fraction, self.least_clients)
        self.pause_factor = self.clients / (usual * rate_fraction)
        """How much longer clients pause, as there are only whole ones: 1 but for that."""
        self.pause_seconds *= self.pause_factor
        self.begun = 0
        self.closed_idle = 0
        self.longest_seconds = 0.0
        self.requests: list[Request] = []
        self.ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self.client(number, random.Random(number))) for number in range(self.clients)
        ]

    async def stop(self) -> Sent:
        """Begin no more, wait for what is under way unless it is long, and return the account."""
        self.ending.set()
        if self.is_long:
            for task in self._tasks:
                task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        return Sent(self.begun, self.requests, self.closed_idle, self.longest_seconds)

    @abc.abstractmethod
    async def client(self, number: int, chance: random.Random) -> None:
        """One client: on and on, until `ending`."""

    def begin(self, count: int = 1) -> Attempts:
        """So many requests are begun, at once: each has to `end`, within the `with` of what is returned."""
        self.begun += count
        now = asyncio.get_running_loop().time()
        return Attempts([Attempt(self.requests, now) for _ in range(count)])

    def kept_for(self, opened: float) -> None:
        """Note that a connection is closed that was made at that time."""
        self.longest_seconds = max(self.longest_seconds, asyncio.get_running_loop().time() - opened)

    async def idle(self, seconds: float) -> bool:
        """Wait for so long, or until the clients are to end, which is what is returned."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ending.wait()
        return self.ending.is_set()

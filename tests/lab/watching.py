"""What is seen of a HAProxy from beside it: when a change has come about in it, and which servers it had when."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from attrs import define, frozen

from tests.harness.control import Helper
from tests.harness.haproxy import HAProxy
from tests.harness.processes import wait_until


@define
class Change:
    """One server that is to serve from now on (`is_live`), or to serve no more; times of the monotonic clock."""

    address: str
    is_live: bool
    begun: float
    done: float | None = None


@frozen
class Seen:
    """The servers that served from a time on; None while no HAProxy answered."""

    when: float
    serving: frozenset[str] | None


class Watch:
    """Has a program (`looking.py`) look at the servers of the HAProxy that answers, until `stop`.

    A worker that is stopping is not looked at: what it still sends to a server that left shows in the requests.
    """

    def __init__(self, haproxy: HAProxy, backend: str) -> None:
        self.changes: list[Change] = []
        self.history: Sequence[Seen] = ()
        """All that was seen, in order; once it is stopped."""
        self.gaps_seconds: tuple[float, float] = (0.0, 0.0)
        """Between two looks while a change was awaited: median and 99th percentile, once it is stopped."""
        self._helper = Helper("tests.lab.looking", haproxy.log.parent, str(haproxy.socket_path), backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._helper.stop()

    @property
    def serving(self) -> frozenset[str] | None:
        """The addresses of the servers that serve now; None while no HAProxy answers."""
        told = self._helper.ask("state")["serving"]
        return None if told is None else frozenset(told)

    def wait_serving(self, count: int, seconds: float) -> None:
        """Wait until so many servers serve; `TimeoutError` when they do not in so long."""
        wait_until(lambda: len(self.serving or ()) == count, seconds, f"{count} servers to serve")

    def expect(self, where: str, *, is_live: bool) -> None:
        """Note that the server at `where` is to change; it begins when this returns.

        The change before of the same server, where it has not come about, is overtaken, and never will. One that
        is so already (the one before it did not come about) is none.
        """
        if not self._helper.ask("expect", number=len(self.changes), where=where, is_live=is_live)["is_so"]:
            self.changes.append(Change(where, is_live, time.monotonic()))

    def settle(self, seconds: float) -> bool:
        """Wait, so long at most, until no change is due; whether that is so."""
        try:
            wait_until(lambda: self._helper.ask("state")["due"] == 0, seconds, "the changes")
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Look no more; what was seen is in `changes` and `history` from now on."""
        told = self._helper.ask("stop")
        for number, when in told["done"]:
            self.changes[number].done = when
        self.history = [
            Seen(when, None if serving is None else frozenset(serving)) for when, serving in told["history"]
        ]
        median, most = told["gaps"]
        self.gaps_seconds = (median, most)
        self._helper.stop()

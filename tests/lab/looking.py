"""Looks at the servers of one backend of the HAProxy that answers on a socket: a program that does nothing else.

Each look is a connection of its own. One that is kept stays with the worker that took it, and that one may be
stopping while another serves already; a new one is taken by whoever answers now. Times are of CLOCK_MONOTONIC, which
all processes of a machine share.
"""

import argparse
import asyncio
import socket
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness.control import serve
from tests.harness.haproxy import ServerState, servers_in
from tests.harness.origin import origin_name

LOOK_SECONDS = 0.002
"""From one look to the next while a change is awaited, or nobody answers."""
IDLE_LOOK_SECONDS = 0.05
"""The same while nothing is awaited, so that looking costs HAProxy nothing that counts."""
_TIMEOUT_SECONDS = 2.0
_STOPPED = 0

Serving = frozenset[str]


class Looker:
    """Looks, in a thread of its own, until `end`."""

    def __init__(self, path: Path, backend: str) -> None:
        self.path, self.command = str(path), f"show servers state {backend}\n".encode()
        self.serving: Serving | None = None
        """The addresses of the servers that serve; None while nobody answers."""
        self.history: list[tuple[float, Serving | None]] = []
        self.gaps: list[float] = []
        self._answer = b""
        self._due: dict[int, tuple[str, bool]] = {}
        self._done: dict[int, float] = {}
        self._lock = threading.Lock()
        self._hurry = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending = True
        self._hurry.set()
        self._thread.join()

    def expect(self, number: int, where: str, *, is_live: bool) -> bool:
        """Await that `where` serves, or does not; whatever else was awaited of it is awaited no more.

        Returns whether it is so already, and so is not awaited.
        """
        with self._lock:
            self._due = {other: due for other, due in self._due.items() if due[0] != where}
            is_so = self.serving is not None and (where in self.serving) == is_live
            if not is_so:
                self._due[number] = (where, is_live)
        self._hurry.set()
        return is_so

    def done(self) -> Mapping[int, float]:
        """When what was awaited came about, by number."""
        with self._lock:
            return dict(self._done)

    @property
    def due(self) -> int:
        return len(self._due)

    def _keep(self) -> None:
        last: float | None = None
        while not self._ending:
            is_attentive = bool(self._due) or self.serving is None
            begun = time.monotonic()
            if last is not None:
                self.gaps.append(begun - last)
            last = begun if is_attentive else None
            self._look()
            if is_attentive:
                self._hurry.clear()
                time.sleep(max(0.0, begun + LOOK_SECONDS - time.monotonic()))
            else:
                self._hurry.wait(IDLE_LOOK_SECONDS)

    def _look(self) -> None:
        try:
            answer = self._ask()
            now = time.monotonic()
            found = self.serving if answer == self._answer else serving_in(answer)
        except (OSError, ValueError, LookupError):
            now = time.monotonic()
            answer, found = b"", None  # nobody answers, or half: between two processes
        self._answer = answer
        if found != self.serving or not self.history:
            self.history.append((now, found))
        self.serving = found
        if found is not None:
            with self._lock:
                for number, (where, is_live) in list(self._due.items()):
                    if (where in found) == is_live:
                        self._done[number] = now
                        del self._due[number]

    def _ask(self) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            connection.connect(self.path)
            connection.sendall(self.command)
            return b"".join(iter(lambda: connection.recv(65536), b""))


def serving_in(answer: bytes) -> Serving:
    """The servers of an answer to `show servers state` that get requests; `LookupError` when it is none."""
    return frozenset(
        origin_name(server.address, server.port) for server in servers_in(answer.decode()) if _serves(server)
    )


def _serves(server: ServerState) -> bool:
    return not server.in_maintenance and not server.draining and server.operation != _STOPPED


def spread(gaps: Collection[float]) -> tuple[float, float]:
    """Median and 99th percentile; zeros where there are none."""
    ordered = sorted(gaps) or [0.0]
    return ordered[len(ordered) // 2], ordered[int(0.99 * (len(ordered) - 1))]


class _Process:
    """The commands of the program."""

    def __init__(self, looker: Looker) -> None:
        self.looker = looker

    async def expect(self, number: int, where: str, is_live: bool) -> Mapping[str, Any]:  # noqa: FBT001  # from JSON
        return {"is_so": self.looker.expect(number, where, is_live=is_live)}

    async def state(self) -> Mapping[str, Any]:
        return {"due": self.looker.due, "serving": _listed(self.looker.serving)}

    async def stop(self) -> Mapping[str, Any]:
        self.looker.end()
        history = [(when, _listed(serving)) for when, serving in self.looker.history]
        done = list(self.looker.done().items())
        return {"done": done, "history": history, "gaps": spread(self.looker.gaps)}


def _listed(serving: Serving | None) -> Sequence[str] | None:
    return None if serving is None else sorted(serving)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", type=Path)
    parser.add_argument("backend")
    asked = parser.parse_args()
    looker = Looker(asked.socket, asked.backend)
    looker.begin()
    commands = _Process(looker)
    asyncio.run(serve({name: getattr(commands, name) for name in ("expect", "state", "stop")}))


if __name__ == "__main__":
    main()

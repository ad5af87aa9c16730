"""Clients that account for every request, one by one, on a machine of theirs: `Clients`."""

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import asdict

from tests.harness.processes import wait_until
from tests.lab.network import Space
from tests.lab.programs import SpacedHelper
from tests.lab.traffic.senders import Target
from tests.lab.traffic.sent import KINDS, TRAFFIC, Request, Sent, Summed, Traffic

__all__ = ["KINDS", "TRAFFIC", "Clients", "Request", "Sent", "Summed", "Target", "Traffic", "wait_for_lines"]


def wait_for_lines(target: Target, count: int, seconds: float) -> None:
    """Wait until so many servers answer lines; `TimeoutError` when they do not in so long."""
    found: set[bytes] = set()

    def all_answer() -> bool:
        with socket.create_connection((target.host, target.tcp_port), timeout=1) as connection:
            connection.sendall(b"ECHO hello\n")
            name, _, rest = connection.recv(100).partition(b" ")
            if rest == b"hello\n":
                found.add(name)
        return len(found) >= count

    wait_until(all_answer, seconds, f"{count} servers to answer lines")


class Clients:
    """All traffic of a cell, from one process, from `__enter__` until `stop`."""

    def __init__(
        self, space: Space, work: Path, target: Target, traffic: Sequence[Traffic], rate_fraction: float
    ) -> None:
        """So large a part of the usual traffic: see `Senders`."""
        arguments = json.dumps(asdict(target)), f"{rate_fraction}", *traffic
        self._helper = SpacedHelper(space, "tests.lab.traffic", work, *arguments)

    def __enter__(self) -> Self:
        self._helper.ask("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._helper.stop()

    def stop(self) -> Mapping[Traffic, Sent | Summed]:
        """Begin no more, wait for what is under way (5 s at most), and return what was sent; once only."""
        told = self._helper.ask("stop")
        sent: dict[Traffic, Sent | Summed] = {}
        for kind, one in told["sent"].items():
            requests = [Request(*request) for request in one.pop("requests")]
            sent[kind] = Sent(requests=requests, **one)
        for kind, one in told["summed"].items():
            sent[kind] = Summed(**one)
        return sent

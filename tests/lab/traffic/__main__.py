"""Sends every kind of traffic it is asked for, from `start` to `stop`, in one process: `tests.lab.client.Clients`."""

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import cattrs
from attrs import asdict, astuple

from tests.harness.control import serve
from tests.lab.traffic.dialogues import Tcp
from tests.lab.traffic.http1 import Kept, New, Pipelined, Tls
from tests.lab.traffic.http2 import Http2
from tests.lab.traffic.senders import Senders, Target
from tests.lab.traffic.sent import Sent, Traffic
from tests.lab.traffic.transfers import Downloads, Uploads
from tests.lab.traffic.websocket import WebSocket
from tests.lab.traffic.wrk import Wrk

SENDERS: Mapping[Traffic, type[Senders]] = {
    "new": New,
    "kept": Kept,
    "pipelined": Pipelined,
    "downloads": Downloads,
    "uploads": Uploads,
    "websocket": WebSocket,
    "tls": Tls,
    "http2": Http2,
    "tcp": Tcp,
}


class _Process:
    """The commands of the program."""

    def __init__(self, target: Target, rate_fraction: float, kinds: Sequence[Traffic]) -> None:
        self.target, self.rate_fraction, self.kinds = target, rate_fraction, kinds
        self.senders: dict[Traffic, Senders] = {}
        self.wrk: Wrk | None = None

    async def start(self) -> None:
        self.senders = {kind: SENDERS[kind](self.target, self.rate_fraction) for kind in self.kinds if kind != "wrk"}
        if "wrk" in self.kinds:
            self.wrk = Wrk(self.target, self.rate_fraction)
            await self.wrk.start()
        for one in self.senders.values():
            one.start()

    async def stop(self) -> Mapping[str, Any]:
        summed = {} if self.wrk is None else {"wrk": asdict(await self.wrk.stop())}
        sent = await asyncio.gather(*(one.stop() for one in self.senders.values()))
        return {"sent": dict(zip(self.senders, map(_told, sent), strict=True)), "summed": summed}


def _told(sent: Sent) -> Mapping[str, object]:
    return {**asdict(sent), "requests": [astuple(one) for one in sent.requests]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=json.loads)
    parser.add_argument("rate_fraction", type=float)
    parser.add_argument("kinds", nargs="+")
    asked = parser.parse_args()
    commands = _Process(cattrs.structure(asked.target, Target), asked.rate_fraction, asked.kinds)
    asyncio.run(serve({name: getattr(commands, name) for name in ("start", "stop")}))


if __name__ == "__main__":
    main()

"""wrk, a well-known load tool, as a kind of traffic: as much as the machine can, in figures of its own."""

import asyncio
import json
import shutil
import signal
from pathlib import Path

from tests.harness.tools import ToolMissingError
from tests.lab.traffic.senders import Target, fewer
from tests.lab.traffic.sent import KINDS, Summed

CONNECTIONS, THREADS = 32, 1
SCRIPT = Path(__file__).with_name("wrk.lua")


def wrk_path() -> str:
    """`ToolMissingError` when there is none."""
    found = shutil.which("wrk")
    if found is None:
        raise ToolMissingError("no wrk on PATH: install Debian's package wrk, or leave out the traffic wrk")
    return found


class Wrk:
    """wrk from `start` to `stop`."""

    def __init__(self, target: Target, rate_fraction: float = 1.0) -> None:
        """With so large a part of its usual connections."""
        self.connections = fewer(CONNECTIONS, rate_fraction)
        self._url = f"http://{target.host}:{target.port}/"
        self._process: asyncio.subprocess.Process

    async def start(self) -> None:
        # It ends when it is told to.
        options = (f"-c{self.connections}", f"-t{THREADS}", "-d1h", "-s", str(SCRIPT))
        self._process = await asyncio.create_subprocess_exec(
            *(wrk_path(), *options, self._url), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )

    async def stop(self) -> Summed:
        """`OSError` when it had ended before, as it does at once where it cannot connect."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
        told, said = await self._process.communicate()
        if self._process.returncode:
            raise OSError(
                f"wrk ended with {self._process.returncode}: {said.decode().strip() or told.decode().strip()}"
            )
        return summed(told.decode())


def summed(told: str) -> Summed:
    """What wrk told, by wrk.lua: its last line; `ValueError` when that is none."""
    line = told.strip().splitlines()[-1]
    one = json.loads(line)
    # One that took longer than 2 s is in its requests as well, and so is one of another status than 2xx and 3xx.
    kinds = {
        "answered": one["requests"] - one["status"] - one["timeout"],
        # wrk takes every connection for made, so a refused one is a failed write.
        "refused": one["connect"] + one["write"],
        "cut": one["read"],
        "timeout": one["timeout"],
        "5xx": one["status"],
    }
    return Summed(
        {kind: kinds.get(kind, 0) for kind in KINDS},
        *(round(one[name] / 1000, 2) for name in ("p50", "p99", "p999")),
    )

"""Driving a helper program over its standard input and output: one JSON object a line, one answer each."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.harness.processes import Process
from tests.harness.tools import ROOT


class HelperError(Exception):
    """A helper program refused a command, or failed at it."""


class Helper:
    """A module of this package, run as a program of its own and driven by `ask`."""

    def __init__(self, module: str, work: Path, *arguments: str) -> None:
        """Start `python -m module arguments`, logging to `work`."""
        name = module.rpartition(".")[2]
        self.process = Process(
            (sys.executable, "-m", module, *arguments), work / f"{name}.log", folder=ROOT, pipes=True
        )
        self._lock = threading.Lock()

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Have one command carried out.

        Raises `HelperError` when the helper failed at it or has ended.
        """
        request = json.dumps({"command": command, **arguments}) + "\n"
        with self._lock:
            try:
                self.process.stdin.write(request.encode())
                self.process.stdin.flush()
                line = self.process.stdout.readline()
            except (BrokenPipeError, ValueError):
                line = b""
        if not line:
            self.process.stop()
            raise HelperError(f"{self.process.describe()} has ended\n{self.process.log_tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise HelperError(answer["error"])
        return answer

    def stop(self) -> None:
        self.process.stop()


async def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """In the helper: carry out commands, in order, until standard input closes.

    A handler is a coroutine function; what it returns, a mapping or None, is the answer.
    """
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    while line := await reader.readline():
        request: dict[str, Any] = json.loads(line)
        try:
            answer = await handlers[request.pop("command")](**request) or {}
        except (OSError, LookupError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

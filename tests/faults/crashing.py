"""hapsync as it is, killed by SIGKILL just before its N-th act on the world outside; for `test_crash_points.py`.

An act is a command that changes HAProxy (each line of a batch is one, and HAProxy carries out those before it), a
reload, an answer to a person, a program started, and each call that makes, writes, syncs, renames or removes a file.
Questions are none: who dies before a question dies after the act before it. A reload and a program count twice,
before and after.

`python -m tests.faults.crashing N LOG HAPSYNC-ARGUMENTS...` writes each act to LOG, a line each; N = 0 never kills.
In place of N may stand the words that an act begins with: it is killed just before the first such act.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hapsync.cli import main as hapsync_main

_CHANGES = (
    *(b"set server", b"clear table", b"add server", b"del server", b"enable ", b"reload", b"{"),
    *(b"add backend", b"publish ", b"unpublish ", b"del backend"),
)
_REPORT = "status.json"
"""Written every second: its first writing counts, the others do not, or an agent would never come to an end."""


def is_change(data: bytes) -> bool:
    """Whether this is an act: the server that is added without a weight is none, but asks whether it could be."""
    return data.startswith(_CHANGES) and (not data.startswith(b"add server") or b" weight " in data)


class Acts:
    """Counts them, from any thread, and ends the process at the one that was chosen."""

    def __init__(self, fatal: str, log: str) -> None:
        self.fatal = fatal
        self.count = 0
        self._lock = threading.RLock()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._reports = 0

    def note(self, what: str) -> None:
        """Something is about to be done."""
        with self._lock:
            if _REPORT in what:
                self._reports += 1
                if self._reports > 4:  # it is made, given its mode, renamed, and its old name removed
                    return
            self.count += 1
            os.write(self._log, f"{what}\n".encode())
            if str(self.count) == self.fatal or (not self.fatal.isdigit() and what.startswith(self.fatal)):
                time.sleep(0.05)  # for HAProxy to have done what it was sent before
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()


def watch_sockets(acts: Acts) -> None:
    send = socket.socket.sendall

    def sendall(self: socket.socket, data: bytes, flags: int = 0) -> None:
        if self.family != socket.AF_UNIX:
            send(self, data, flags)
            return
        unsent = b""
        for line in bytes(data).splitlines(keepends=True):
            if is_change(line):
                if unsent:
                    send(self, unsent, flags)
                    unsent = b""
                acts.note(line.decode().strip()[:200])
            unsent += line
        send(self, unsent, flags)
        if unsent == b"reload\n":
            acts.note("reload was asked for")

    answer = socket.socket.send

    def send_some(self: socket.socket, data: bytes, flags: int = 0) -> int:
        if self.family == socket.AF_UNIX and is_change(bytes(data)):
            acts.note(bytes(data).decode().strip()[:200])
        return answer(self, data, flags)

    socket.socket.sendall = sendall  # type: ignore[method-assign,assignment]
    socket.socket.send = send_some  # type: ignore[method-assign,assignment]


def watch_files(acts: Acts) -> None:
    def named(thing: object) -> str:
        return str(Path(f"/proc/self/fd/{thing}").readlink()) if isinstance(thing, int) else str(thing)

    def counted(name: str, real: Callable[..., Any], place: int = 0) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            acts.note(f"{name} {named(arguments[place])}")
            return real(*arguments, **options)

        return act

    for name in ("rename", "unlink", "fsync", "fchmod", "pwrite", "ftruncate", "mkdir"):
        setattr(os, name, counted(name, getattr(os, name)))
    os.replace = counted("replace", os.replace, place=1)
    make: Callable[..., Any] = tempfile.mkstemp

    def mkstemp(*arguments: Any, prefix: str | None = None, **options: Any) -> Any:
        acts.note(f"mkstemp {prefix}")
        return make(*arguments, prefix=prefix, **options)

    tempfile.mkstemp = mkstemp  # type: ignore[assignment]


def watch_programs(acts: Acts) -> None:
    start = subprocess.Popen.__init__

    def begin(self: Any, words: Sequence[str], *arguments: Any, **options: Any) -> None:
        acts.note(f"start {words[0]}")
        start(self, words, *arguments, **options)
        acts.note(f"started {words[0]}")

    subprocess.Popen.__init__ = begin  # type: ignore[method-assign,assignment]


def main() -> None:
    acts = Acts(sys.argv[1], sys.argv[2])
    watch_sockets(acts)
    watch_files(acts)
    watch_programs(acts)
    sys.argv[1:3] = []
    hapsync_main()


if __name__ == "__main__":
    main()

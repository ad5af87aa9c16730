"""Programs started for a test: logged, waited for, and never left behind."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from tests.harness.procfs import running

T = TypeVar("T")

# The kernel ends a child with the *thread* that started it, so one thread that lives as long as the process
# starts them all; a test may then start programs from threads of its own.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


class ProcessDiedError(Exception):
    """A program ended that should be running; the message ends with the tail of its log."""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A new folder, removed at the end, with a path short enough for unix sockets (107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="hs-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(
    predicate: Callable[[], T],
    timeout_seconds: float,
    what: str,
    *,
    process: "Process | None" = None,
    interval_seconds: float = 0.02,
) -> T:
    """The first true value that `predicate` returns; an exception from it counts as "not yet".

    Raises `TimeoutError`, naming `what` and the last exception, after `timeout_seconds`, and
    `ProcessDiedError` as soon as `process`, where given, has ended.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        last: object = None
        try:
            if result := predicate():
                return result
        except Exception as error:  # noqa: BLE001  # told in the message, should it be the last
            last = error
        if process is not None:
            process.check()
        if time.monotonic() >= deadline:
            detail = "" if last is None else f"; last: {last!r}"
            raise TimeoutError(f"waited {timeout_seconds} s for {what}{detail}")
        time.sleep(interval_seconds)


class Process:
    """One program, leader of a session of its own, its output appended to a log file.

    It is killed when the process that started it ends, even by SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        """Start `command`; `pipes` connects `stdin` and `stdout` to this process instead of the log."""
        self.command = tuple(command)
        self.log = log
        with log.open("ab") as output:
            self._popen = _spawner.submit(
                subprocess.Popen[bytes],
                # Set by a program on the way, since Python code between fork and exec may deadlock.
                ("setpriv", "--pdeathsig", "KILL", "--", *command),
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                cwd=folder,
                env=environment,
                start_new_session=True,
            ).result()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._popen.stdout is not None
        return self._popen.stdout

    @property
    def running(self) -> bool:
        return self._popen.returncode is None and self._end() is None

    def check(self) -> None:
        """Raise `ProcessDiedError` when the program is not running."""
        if self._popen.returncode is not None:
            raise ProcessDiedError(f"{self.describe()} was stopped before")
        if (end := self._end()) is not None:
            by_exit = end.si_code == os.CLD_EXITED
            how = f"exit code {end.si_status}" if by_exit else signal.Signals(end.si_status).name
            raise ProcessDiedError(f"{self.describe()} ended by itself: {how}\n{self.log_tail()}")

    def describe(self) -> str:
        return f"{Path(self.command[0]).name} (process {self.pid})"

    def log_tail(self, lines: int = 20) -> str:
        """The last lines the program wrote."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:]) or "(its log is empty)"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone, not to its children; nothing when it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the program with SIGTERM, and whatever of its group is left after the timeout with SIGKILL."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.005)
        self.kill()

    def kill(self) -> None:
        """End the program and its children with SIGKILL; return when all are gone. Harmless when repeated."""
        if self._popen.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._reap()
        deadline = time.monotonic() + 5.0
        while _group_lives(self.pid) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _end(self) -> os.waitid_result | None:
        """How the program ended; None while it runs."""
        # WNOWAIT leaves an ended process in the table: its id, and its group's, cannot pass to another.
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _reap(self) -> None:
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _group_lives(group: int) -> bool:
    """Whether a process group has a member that is more than an entry nobody has waited for."""
    return any(int(of_group) == group for _, (_, _, of_group, *_) in running())

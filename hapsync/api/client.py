"""A command's side of the agent's socket; `hapsync.api.server` is the agent's side."""

import contextlib
import os
import pwd
import socket
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from hapsync.api.messages import CLAIM, Reply, Request, reply_from_json, request_to_json
from hapsync.errors import AgentError, ConfigError
from hapsync.system.files import read_text
from hapsync.system.sockdiag import peer_of
from hapsync.text import shown

SOCKET_FILE = "hapsync.sock"
MAX_REPLY_BYTES = 16 * 1024 * 1024
MAX_WHO = 64
SILENCE_SECONDS = 2.0
"""The longest time an operator waits without a message."""
WITHDRAWN = "it is withdrawn: it is not done unless the agent had begun with it, see `hapsync status`"
_LONGEST_PATH = 107
"""The size of Linux's sun_path in bytes (unix(7)), less its NUL."""


def ask_agent(
    runtime_dir: str, request: Request, timeout_seconds: float, on_silence: Callable[[str], None] = lambda _: None
) -> Reply | None:
    """Send `request` to the agent that listens in `runtime_dir`, and return its reply; None where no agent listens.

    The connection is closed at every end without a reply, and an agent that had not begun with the request drops it.
    `on_silence` is called once, with a message, where there is no reply after `SILENCE_SECONDS`.

    Raises ConfigError when the path is too long for a socket. Raises AgentError when an agent listens but gives no
    reply within `timeout_seconds`, or may not be asked by this user.
    """
    path = str(Path(runtime_dir, SOCKET_FILE))
    must_fit(path)
    wait = _Wait(timeout_seconds, on_silence, path)
    request = attrs.evolve(request, who=claimed_user(), deadline=wait.deadline)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            if not _connect(connection, path, wait):
                return None
            wait.pid = peer_of(connection)[0]
            with contextlib.suppress(BrokenPipeError):  # the agent may have sent the reason before it closed
                connection.sendall(request_to_json(request).encode("ascii") + b"\n")
            line = read_line(connection, MAX_REPLY_BYTES, wait.step_seconds)
        except TimeoutError:
            why = f"no answer within {timeout_seconds:g} s; {WITHDRAWN}"
            raise AgentError(f"{wait.agent}: {why}") from None
        except PermissionError as error:
            why = "may not be asked by this user; be root, the agent's user, or in the group of its socket"
            raise AgentError(f"agent at {path}: {why}") from error
        except OSError as error:
            raise AgentError(f"agent at {path}: {error.strerror or error}") from error
    reply = reply_from_json(line.decode("utf-8", "replace"))
    if reply is None:
        raise AgentError(f"agent at {path}: ended before it had answered; the request may be done or not")
    return reply


def claimed_user() -> str:
    """Return the user that this process claims to act for (sudo(8) sets SUDO_USER), or nothing."""
    claimed = os.environ.get("SUDO_USER", "")
    return claimed if CLAIM.fullmatch(claimed) else ""


def user_name(uid: int | None, claimed: str) -> str:
    """Return the name of the user with `uid` for logs and `status`, with the claimed name beside it.

    The result is printable ASCII, at most 64 characters. Only the name of `uid` is sure, and it is never cut off.
    """
    name = "somebody"
    if uid is not None:
        try:
            name = shown(pwd.getpwuid(uid).pw_name)[:32]
        except (KeyError, OverflowError, OSError):
            name = f"uid {uid}"
    if not claimed or claimed == name:
        return name
    through = f" (through sudo as {name})"
    return claimed[: MAX_WHO - len(through)] + through


def must_fit(path: str) -> None:
    """Raise ConfigError when `path` is too long for a unix socket."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        what = f"{path} is longer than the {_LONGEST_PATH} bytes a unix socket may have; choose a shorter folder"
        raise ConfigError("agent.runtime_dir", (what,))


class _Wait:
    """The wait for a reply, and whether the operator was told of it."""

    def __init__(self, timeout_seconds: float, on_silence: Callable[[str], None], path: str) -> None:
        now = time.monotonic()
        self.deadline = now + timeout_seconds
        self.pid: int | None = None
        self._tell_at: float | None = now + SILENCE_SECONDS
        self._on_silence = on_silence
        self._path = path

    def step_seconds(self) -> float:
        """Return the longest time of the next wait, in seconds; raises TimeoutError when all time is over."""
        now, left = time.monotonic(), seconds_until(self.deadline)
        if self._tell_at is not None and now >= self._tell_at:
            self._tell_at = None
            what = "a reload, or a HAProxy that hangs, may keep it busy; its log and `hapsync status` tell"
            if _is_stopped(self.pid):
                what = f"it is stopped (SIGSTOP or a debugger); `kill -CONT {self.pid}` lets it go on"
            how_long = f"waiting at most {max(1, round(left))} s more; Ctrl-C withdraws the request"
            self._on_silence(f"{self.agent} has not answered for {SILENCE_SECONDS:g} s: {what}; {how_long}")
        return left if self._tell_at is None else min(left, self._tell_at - now)

    @property
    def agent(self) -> str:
        return f"agent at {self._path}" if self.pid is None else f"agent pid {self.pid} at {self._path}"


def _is_stopped(pid: int | None) -> bool:
    """Whether a process is stopped (proc(5): state T, by a signal, or t, by a debugger)."""
    if pid is None:
        return False
    try:
        status = read_text(f"/proc/{pid}/stat")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[:1] in (["T"], ["t"])


def _connect(connection: socket.socket, path: str, wait: _Wait) -> bool:
    """Return whether an agent listens at `path`; raises OSError where this is unknown."""
    while True:
        connection.settimeout(wait.step_seconds())
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except BlockingIOError:  # the kernel's queue of new connections is full
            time.sleep(0.02)
        else:
            return True


def seconds_until(deadline: float) -> float:
    """Return the seconds from now until `deadline`, of the monotonic clock; raises TimeoutError when it is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def read_line(connection: socket.socket, most_bytes: int, step_seconds: Callable[[], float]) -> bytes:
    """Return the bytes up to the first line feed, to the end, or to the first ones beyond `most_bytes`.

    `step_seconds` returns the longest time of the next wait, and raises TimeoutError when all time is over. Raises
    OSError.
    """
    received = bytearray()
    while b"\n" not in received and len(received) <= most_bytes:
        connection.settimeout(step_seconds())
        try:
            chunk = connection.recv(262144)
        except TimeoutError:
            continue  # `step_seconds` ends the wait, or tells the operator
        if not chunk:
            break
        received += chunk
    return bytes(received)

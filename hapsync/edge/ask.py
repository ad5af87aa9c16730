"""Asking the running agent, from the side of a command; `hapsync.edge.requests` is the agent's side."""

import contextlib
import os
import pwd
import socket
import time
from pathlib import Path

import attrs

from hapsync.errors import AgentError, ConfigError
from hapsync.request import Reply, Request, claim, reply_from_json, request_to_json
from hapsync.text import shown

SOCKET_FILE = "hapsync.sock"
MAX_REPLY_BYTES = 16 * 1024 * 1024
MAX_WHO = 64
_LONGEST_PATH = 107
"""Bytes: sun_path of Linux (unix(7)), less its NUL."""


def ask_agent(runtime_dir: str, request: Request, timeout_seconds: float) -> Reply | None:
    """Hand `request` to the agent that listens in `runtime_dir` and return its answer; None where no agent listens.

    Raises ConfigError when the path is too long for a socket, AgentError when an agent listens but gives no answer
    within `timeout_seconds` or may not be asked by this user.
    """
    path = str(Path(runtime_dir, SOCKET_FILE))
    must_fit(path)
    deadline = time.monotonic() + timeout_seconds
    request = attrs.evolve(request, who=claimed_user())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            if not _connect(connection, path, deadline):
                return None
            with contextlib.suppress(BrokenPipeError):  # it may have said why before it closed
                connection.sendall(request_to_json(request).encode("ascii") + b"\n")
            line = _read_line(connection, deadline)
        except TimeoutError:
            why = f"no answer within {timeout_seconds:g} s; what was asked may still be done, see `hapsync status`"
            raise AgentError(f"agent at {path}: {why}") from None
        except PermissionError as error:
            why = "may not be asked by this user; be root, the agent's user, or in the group of its socket"
            raise AgentError(f"agent at {path}: {why}") from error
        except OSError as error:
            raise AgentError(f"agent at {path}: {error.strerror or error}") from error
    reply = reply_from_json(line.decode("utf-8", "replace"))
    if reply is None:
        raise AgentError(f"agent at {path}: ended before it had answered; what was asked may be done or not")
    return reply


def claimed_user() -> str:
    """Return who says to be behind this process (sudo(8) sets SUDO_USER), or nothing."""
    return claim(os.environ.get("SUDO_USER", ""))


def person(uid: int | None, claimed: str) -> str:
    """Return how the user with `uid` is named in logs and in `status`, with the name it claims beside it.

    Printable ASCII, at most 64 characters. Of the two only the first is sure, and it is never cut off.
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
    """Raise ConfigError when no unix socket may have this path."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        what = f"{path} is longer than the {_LONGEST_PATH} bytes a unix socket may have; choose a shorter folder"
        raise ConfigError("agent.runtime_dir", (what,))


def _connect(connection: socket.socket, path: str, deadline: float) -> bool:
    """Return whether somebody listens there; raises OSError where that cannot be told."""
    while True:
        connection.settimeout(_left(deadline))
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except BlockingIOError:  # so many ask at once that the kernel queues no more
            _left(deadline)
            time.sleep(0.02)
        else:
            return True


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while b"\n" not in received and len(received) < MAX_REPLY_BYTES:
        connection.settimeout(_left(deadline))
        chunk = connection.recv(262144)
        if not chunk:
            break
        received += chunk
    return bytes(received)


def _left(deadline: float) -> float:
    """Return the seconds until `deadline`; raises TimeoutError when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left

"""HAProxy's master CLI (`haproxy -W -S SOCKET`): who its workers are, and the reload.

On 2.6 and older `reload` answers nothing and the result is read from `show proc`; 2.7 and newer answer
`Success=1` or `Success=0` once it is over (management manual, section 9.4).
"""

import contextlib
import re
import socket
import time

import attrs

from hapsync.errors import ReloadError, RuntimeAPIError

_REFUSED_SECONDS = 2.0
_POLL_SECONDS = 0.02
_FAILED = re.compile(r"\[failed: (\d+)\]")


@attrs.frozen
class Processes:
    """What `show proc` says: the master's count of reloads that failed, and the pids of all its workers."""

    failed_reloads: int
    workers: tuple[int, ...]
    reloads: int


def read_processes(path: str, timeout_seconds: float) -> Processes:
    """Return the processes of the master behind the socket at `path`.

    Raises RuntimeAPIError when it does not answer as a master does.
    """
    return parse_processes(_ask(path, "show proc", timeout_seconds), path)


def parse_processes(text: str, path: str) -> Processes:
    """Return what `text`, the reply to `show proc`, says; after a failed reload the live worker may stand under old.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    failed = _FAILED.search(text)
    workers = []
    reloads = None
    for line in text.split("\n"):
        words = line.split()
        if len(words) > 2 and words[0].isdigit():  # noqa: PLR2004
            if words[1] == "master":
                reloads = int(words[2])
            elif words[1] == "worker":
                workers.append(int(words[0]))
    if reloads is None:
        raise RuntimeAPIError(f"HAProxy's master socket {path}: `show proc` answered {text[:80]!r}")
    return Processes(int(failed[1]) if failed else 0, tuple(workers), reloads)


def start_reload(path: str, timeout_seconds: float) -> None:
    """Ask the master to reload; returns when it has answered, which on 2.6 is at once and says nothing.

    Raises ReloadError when it says that the reload failed, RuntimeAPIError when it does not answer.
    """
    reply = _ask(path, "reload", timeout_seconds)
    if reply.startswith("Success=0"):
        said = " ".join(reply.split("--", 1)[-1].split())
        raise ReloadError(f"HAProxy's master refused the reload: {said[:500]}")


def _ask(path: str, command: str, timeout_seconds: float) -> str:
    refused_until = time.monotonic() + min(timeout_seconds, _REFUSED_SECONDS)
    while True:
        try:
            return _ask_once(path, command, timeout_seconds)
        except ConnectionRefusedError as error:
            # The master replaces itself at every reload, and its socket refuses for those 50 to 100 ms.
            if time.monotonic() > refused_until:
                raise _not_answered(path, error) from error
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            raise _not_answered(path, error) from error


def _ask_once(path: str, command: str, timeout_seconds: float) -> str:
    deadline = time.monotonic() + timeout_seconds
    received = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(path)
        # The master never closes by itself after a command; a half-close asks it to, once it has answered.
        connection.sendall(command.encode("ascii") + b"\n")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # `reload` replaces the process that was to answer
            while chunk := connection.recv(65536):
                received += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError
    return received.decode("utf-8", "replace")


def _not_answered(path: str, error: OSError) -> RuntimeAPIError:
    words = "no answer in time" if isinstance(error, TimeoutError) else (error.strerror or str(error))
    if isinstance(error, PermissionError):
        hint = "this user may not open it; see `mode`, `user` and `group` of haproxy's -S option"
    else:
        hint = f"start HAProxy with -W -S {path},level,admin"
    return RuntimeAPIError(f"HAProxy's master socket {path}: {words}; {hint}")

"""HAProxy's master CLI (`haproxy -W -S SOCKET`): its workers, and the reload.

On 2.6 and older `reload` answers nothing and the result is read from `show proc`; 2.7 and newer answer
`Success=1` or `Success=0` once it is over (management manual, section 9.4).
"""

import contextlib
import re
import socket
import time

import attrs

from hapsync.errors import ReloadError, RuntimeAPIError
from hapsync.haproxy.old_workers import Listed, uptime_seconds

_REFUSED_SECONDS = 2.0
_POLL_SECONDS = 0.02
_NO_SUCH = "Can't find the target PID"
_SHOWN_SIGNS = 500
_FAILED = re.compile(r"\[failed: (\d+)\]")


@attrs.frozen
class Processes:
    """The reply to `show proc`: the master's count of failed reloads, and all its workers."""

    failed_reloads: int
    listed: tuple[Listed, ...]

    @property
    def workers(self) -> tuple[int, ...]:
        """The pids of the workers, old ones too."""
        return tuple(one.pid for one in self.listed)


def read_processes(path: str, timeout_seconds: float) -> Processes:
    """Return the processes of the master behind the socket at `path`.

    Raises RuntimeAPIError without a master's answer.
    """
    return parse_processes(_ask(path, "show proc", timeout_seconds), path)


def parse_processes(text: str, path: str) -> Processes:
    """Return the processes in `text`, the reply to `show proc`; a failed reload may list the live worker as old.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    failed = _FAILED.search(text)
    workers = []
    has_master = False
    for line in text.split("\n"):
        words = line.split()
        if len(words) > 2 and words[0].isdigit():  # noqa: PLR2004
            has_master = has_master or words[1] == "master"
            if words[1] == "worker":
                uptime = uptime_seconds(words[3]) if len(words) > 3 else 0  # noqa: PLR2004
                workers.append(Listed(int(words[0]), int(words[2]), uptime))
    if not has_master:
        raise RuntimeAPIError(f"HAProxy's master socket {path}: `show proc` answered {text[:80]!r}")
    return Processes(int(failed[1]) if failed else 0, tuple(workers))


def ask_worker(path: str, pid: int, command: str, timeout_seconds: float) -> str:
    """Return the answer of the worker `pid`, live or old, to `command`, through the master.

    Each connection takes one command: up to 2.8 a worker takes several lines, from 3.0 on only the first. For a pid
    that is no worker any more, the master closes, reports it, or (2.8 to 3.2) never answers.

    Raises RuntimeAPIError when no answer comes.
    """
    try:
        reply = _ask(path, f"@!{pid:d} {command}", timeout_seconds)
    except RuntimeAPIError as error:
        if isinstance(error.__cause__, TimeoutError):
            raise RuntimeAPIError(
                f"HAProxy's worker {pid}: no answer to `{command}` through the master in time; it hangs, or has ended"
            ) from error
        raise
    if reply.strip() == "" and not command.startswith("shutdown "):
        raise RuntimeAPIError(f"HAProxy's worker {pid}: no answer to `{command}` through the master")
    if reply.startswith(_NO_SUCH):
        raise RuntimeAPIError(f"HAProxy's worker {pid}: has ended")
    return reply


def start_reload(path: str, timeout_seconds: float) -> None:
    """Ask the master to reload; returns after its answer, which on 2.6 comes at once and has no result.

    Raises ReloadError when the master reports a failed reload, RuntimeAPIError when it does not answer.
    """
    refusal = parse_refusal(_ask(path, "reload", timeout_seconds))
    if refusal is not None:
        raise ReloadError(f"HAProxy's master refused the reload: {refusal}")


def parse_refusal(reply: str) -> str | None:
    """Return why the reload with this `reply` failed; None after a success, or with an empty reply."""
    if not reply.startswith("Success=0"):
        return None
    _, _, log = reply.partition("\n--\n")
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip() and not line.startswith("[NOTICE]")]
    return "; ".join(lines)[:_SHOWN_SIGNS]


def _ask(path: str, command: str, timeout_seconds: float) -> str:
    refused_until = time.monotonic() + min(timeout_seconds, _REFUSED_SECONDS)
    while True:
        try:
            return _ask_once(path, command, timeout_seconds)
        except OSError as error:
            # The master replaces itself at every reload, and its socket refuses connections for 50 to 100 ms.
            if not isinstance(error, ConnectionRefusedError) or time.monotonic() > refused_until:
                raise _not_answered(path, error) from error
        time.sleep(_POLL_SECONDS)


def _ask_once(path: str, command: str, timeout_seconds: float) -> str:
    deadline = time.monotonic() + timeout_seconds
    received = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(path)
        # The master does not close after a command; a half-close makes it close after the answer.
        connection.sendall(command.encode("ascii") + b"\n")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # `reload` replaces the answering process
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

"""A real HAProxy in master-worker mode, asked over its own sockets."""

import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

from tests.harness.processes import Process, wait_until
from tests.harness.tools import haproxy_path

# Bits of the administrative state: forced by command, inherited from a tracked server, and so on. Bit 4, "in
# maintenance in the configuration", stays after a server was made ready and so says nothing about now.
_MAINTENANCE = 0x01 | 0x02 | 0x20
_DRAIN = 0x08 | 0x10


class ReloadFailedError(Exception):
    """HAProxy refused its configuration at a reload, and goes on with the one before."""


@frozen
class ServerState:
    """One line of `show servers state`; `fields` has all of it, by the header's names."""

    name: str
    id: int
    address: str
    port: int
    operation: int  # 0 stopped, 1 starting, 2 running, 3 stopping
    administration: int  # bits
    weight: int
    configured_weight: int
    fields: Mapping[str, str]

    @property
    def in_maintenance(self) -> bool:
        return bool(self.administration & _MAINTENANCE)

    @property
    def draining(self) -> bool:
        return bool(self.administration & _DRAIN)

    @property
    def running(self) -> bool:
        return self.operation == 2


class HAProxy:
    """`haproxy -W -db`: a master and its workers; the configuration is the caller's.

    It must open an admin socket at `socket_path`. Paths of sockets are limited to about 107 bytes, so let the
    work folder be a short one (`processes.short_folder`).
    """

    def __init__(self, config: Path, work: Path) -> None:
        """Prepare to run `config`, logging to `work`; `socket_path` is `work`/admin.sock."""
        self.config = config
        self.socket_path = work / "admin.sock"
        self.master_path = work / "master.sock"
        self.log = work / "haproxy.log"
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> Process:
        """The master."""
        assert self._process is not None, "HAProxy was not started"
        return self._process

    def start(self) -> None:
        """Start the master and wait until it answers; `ProcessDiedError`, with the log, when it does not."""
        command = (
            haproxy_path(),
            "-W",
            "-db",
            "-S",
            f"{self.master_path},level,admin",
            "-f",
            str(self.config),
        )
        self._process = Process(command, self.log)
        try:
            wait_until(self.worker_pid, 10, "HAProxy's runtime socket", process=self._process)
            wait_until(self._master, 10, "HAProxy's master socket", process=self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End master and workers with SIGTERM, which cuts open connections; harmless when not running."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End master and workers with SIGKILL; harmless when not running."""
        if self._process is not None:
            self._process.kill()

    def reload(self, timeout_seconds: float = 10.0) -> int:
        """Reload the configuration through the master; the new worker's pid, once it answers.

        Raises `ReloadFailedError` when HAProxy refuses the configuration.
        """
        before = self.worker_pid()
        _talk(self.master_path, "reload")

        def outcome() -> str | None:
            if "[ReloadFailed]" in self._master():
                return "refused"
            return "done" if self.worker_pid() not in {None, before} else None

        if wait_until(outcome, timeout_seconds, "a new worker", process=self.process) == "refused":
            raise ReloadFailedError(self.process.log_tail())
        after = self.worker_pid()
        assert after is not None
        return after

    def _master(self) -> str:
        """The master's prompt; `OSError` while it does not answer.

        The master executes itself anew after each start of a worker, and its socket is deaf meanwhile: the
        worker alone answering does not mean that a reload can be asked for.
        """
        return _talk(self.master_path, "prompt;quit")

    def ask(self, command: str, timeout_seconds: float = 10.0) -> str:
        """The whole answer to one command, over a connection of its own; `OSError` when there is none."""
        return _talk(self.socket_path, command, timeout_seconds)

    def info(self) -> dict[str, str]:
        """`show info` of the worker that answers."""
        pairs = (line.partition(": ") for line in self.ask("show info").splitlines())
        return {name: value for name, colon, value in pairs if colon}

    def worker_pid(self) -> int | None:
        """The worker that serves the runtime socket; None while that is one that is stopping."""
        info = self.info()
        return None if info.get("Stopping", "0") != "0" else int(info["Pid"])

    def servers(self, backend: str) -> dict[str, ServerState]:
        """The servers of a backend by name, in HAProxy's order; `LookupError` when it has no such backend."""
        return {state.name: state for state in servers_in(self.ask(f"show servers state {backend}"))}

    def stat(self, proxy: str) -> dict[str, dict[str, str]]:
        """The lines of `show stat` for one proxy: by server name, FRONTEND or BACKEND, then by column."""
        header, *rows = (line.split(",") for line in self.ask("show stat").splitlines() if line)
        header[0] = header[0].removeprefix("# ")
        stats = (dict(zip(header, row, strict=False)) for row in rows)
        return {stat["svname"]: stat for stat in stats if stat["pxname"] == proxy}


def minimal_config(socket_path: Path, frontend_port: int, backends: Mapping[str, Sequence[str]]) -> str:
    """A small valid configuration: one frontend on loopback, and backends by name with their server lines.

    A request for /NAME/... goes to the backend NAME, any other to the first one.
    """
    names = list(backends)
    routes = "\n".join(f"    use_backend {name} if {{ path_beg /{name}/ }}" for name in names[1:])
    sections = "\n".join(
        "\n".join((f"backend {name}", *(f"    {line}" for line in lines), "")) for name, lines in backends.items()
    )
    return f"""\
global
    stats socket {shlex.quote(str(socket_path))} mode 600 level admin
    stats timeout 1m
    maxconn 4000

defaults
    mode http
    # Without it a reload cuts kept connections just as a client sends its next request.
    option idle-close-on-response
    timeout connect 1s
    timeout client 30s
    timeout server 30s

frontend web
    bind 127.0.0.1:{frontend_port}
{routes}
    default_backend {names[0]}

{sections}"""


def _talk(path: Path, command: str, timeout_seconds: float = 10.0) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return answer.decode(errors="replace")


def servers_in(answer: str) -> list[ServerState]:
    """The servers of an answer to `show servers state`, in HAProxy's order; `LookupError` when it has none."""
    _, _, table = answer.partition("# ")
    if not table:
        raise LookupError(answer.strip())
    header, *rows = (line.split(" ") for line in table.splitlines() if line)
    return [_server(header, row) for row in rows]


def _server(header: Sequence[str], row: Sequence[str]) -> ServerState:
    fields = dict(zip(header, row, strict=False))
    return ServerState(
        name=fields["srv_name"],
        id=int(fields["srv_id"]),
        address=fields["srv_addr"],
        port=int(fields["srv_port"]),
        operation=int(fields["srv_op_state"]),
        administration=int(fields["srv_admin_state"]),
        weight=int(fields["srv_uweight"]),
        configured_weight=int(fields["srv_iweight"]),
        fields=fields,
    )

"""Everything the demo and the end-to-end tests need, running: Consul, HAProxy, origins and `hapsync agent`."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.demo import truth
from tests.harness.consul import Agent, Consul
from tests.harness.haproxy import HAProxy
from tests.harness.load import Load
from tests.harness.origins import Origins
from tests.harness.ports import free_ports
from tests.harness.processes import Process, short_folder, wait_until
from tests.harness.tools import ROOT, haproxy_path

SHIPPED = ROOT / "haproxy"
HAPSYNC = Path(sys.executable).with_name("hapsync")
SERVER_OPTIONS = "check inter 2s"
NO_GUARD = "max_loss_fraction = 1.0\nmin_ready = 0\ndamping_seconds = 0"
"""For a stage whose story takes out more at once than the guard lets go."""


class ShippedFileChangedError(Exception):
    """A line of the shipped template or configuration that has to be adapted is not there any more."""


def adapted_template(
    text: str, *, admin_socket: Path, frontend_port: int, statistics_port: int, backends: tuple[str, ...] = ("web",)
) -> str:
    """The shipped template as it can run here: without root, on free ports of loopback, logging to a file.

    Ports, paths and users are all that changes, unless `backends` are others than "web": then its section is
    repeated for each of them, the first is the default and /NAME/... goes to the backend NAME.
    """
    text = _replaced(
        text,
        {
            "log /dev/log local0": "log stderr format raw local0",
            "    user haproxy\n    group haproxy\n": "",
            "stats socket /run/haproxy/admin.sock": f"stats socket {admin_socket}",
            "bind :80\n": f"bind 127.0.0.1:{frontend_port}\n",
            "bind 127.0.0.1:8404\n": f"bind 127.0.0.1:{statistics_port}\n",
        },
    )
    if backends == ("web",):
        return text
    head, start, section = text.partition("\nbackend web\n")
    routes = "".join(f"    use_backend {name} if {{ path_beg /{name}/ }}\n" for name in backends[1:])
    head = _replaced(
        head,
        {
            "nbsrv(web)": f"nbsrv({backends[0]})",
            "    default_backend web": f"{routes}    default_backend {backends[0]}",
        },
    )
    sections = (
        _replaced(start + section, {"\nbackend web\n": f"\nbackend {name}\n", 'servers("web")': f'servers("{name}")'})
        for name in backends
    )
    return head + "".join(sections)


def adapted_settings(
    text: str,
    paths: Mapping[str, str],
    backends: Mapping[str, int],
    server_options: str,
    *,
    agent_options: str = "",
    backend_options: str = "",
    consul_options: str = "",
) -> str:
    """The shipped hapsync.toml with other `paths`, given by their keys, and other backends: slots by name.

    `agent_options`, `consul_options` and `backend_options` are lines added to [agent], [consul] and every backend.
    """
    head, _, _ = text.partition("[backends.web]")
    for key, value in paths.items():
        head, count = re.subn(rf"(?m)^{key} = (\"[^\"]*\"|\[.*\])", f"{key} = {value}", head)
        if count != 1:
            raise ShippedFileChangedError(f"hapsync.toml has {count} lines that set {key}")
    head = _replaced(
        head, {"[agent]\n": f"[agent]\n{agent_options}\n", "[consul]\n": f"[consul]\n{consul_options}\n"}
    )
    return head + "\n".join(
        f'[backends.{name}]\nservice = "{name}"\nslots = {slots}\nserver_options = "{server_options}"\n'
        f"{backend_options}\n"
        for name, slots in backends.items()
    )


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        if old not in text:
            raise ShippedFileChangedError(f"the shipped template no longer has {old!r}")
        text = text.replace(old, new)
    return text


class Stage:
    """Consul, HAProxy from the shipped template, origins and the agent, in a folder of their own, until the end.

    The backend NAME follows the Consul service NAME. HAProxy starts from what `hapsync render` prints.
    """

    work: Path
    consul: Agent
    haproxy: HAProxy
    origins: Origins
    agent: Process

    def __init__(
        self,
        backends: Mapping[str, int] | None = None,
        *,
        server_options: str = SERVER_OPTIONS,
        agent: bool = True,
        agent_options: str = "",
        backend_options: str = "",
        consul_options: str = "",
        consul: Callable[[Path], AbstractContextManager[Agent]] = Consul,
        consul_url: Callable[["Stage"], str] = lambda stage: stage.consul.url,
    ) -> None:
        """Prepare backends by name with their numbers of slots: {"web": 8} unless given; `agent`: start it, too.

        `agent_options`, `consul_options` and `backend_options` are TOML lines for [agent], for [consul] and for every
        backend. `consul` makes the Consul, in a folder (`nullcontext` of one that runs already serves as well), and
        `consul_url` says under which address hapsync is to reach it.
        """
        self._agent_options = agent_options
        self._backend_options = backend_options
        self._consul_options = consul_options
        self._make_consul = consul
        self._consul_url = consul_url
        self.backends = dict(backends or {"web": 8})
        self._server_options = server_options
        self._with_agent = agent
        self.frontend_port, self._statistics_port = free_ports(2)

    @property
    def config_path(self) -> Path:
        return self.work / "hapsync.toml"

    @property
    def statistics_url(self) -> str:
        return f"http://127.0.0.1:{self._statistics_port}/"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.work = stack.enter_context(short_folder())
            self.consul = stack.enter_context(self._make_consul(self.work))
            self.origins = stack.enter_context(Origins(self.work))
            self.haproxy = HAProxy(self.work / "haproxy.cfg", self.work)
            self._write_files()
            stack.enter_context(self.haproxy)
            stack.callback(self.stop_agent)
            if self._with_agent:
                self.start_agent()
            self._ending = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def _write_files(self) -> None:
        template = self.work / "haproxy.cfg.j2"
        template.write_text(
            adapted_template(
                (SHIPPED / "haproxy.cfg.j2").read_text(encoding="utf-8"),
                admin_socket=self.haproxy.socket_path,
                frontend_port=self.frontend_port,
                statistics_port=self._statistics_port,
                backends=tuple(self.backends),
            ),
            encoding="utf-8",
        )
        paths = {
            "address": self._consul_url(self),
            "socket": str(self.haproxy.socket_path),
            "config": str(self.haproxy.config),
            "template": str(template),
            "check_command": [haproxy_path(), "-c", "-f", "{config}"],
            "master_socket": str(self.haproxy.master_path),
            "state_dir": str(self.work / "state"),
            "runtime_dir": str(self.work / "run"),
        }
        self.config_path.write_text(
            adapted_settings(
                (SHIPPED / "hapsync.toml").read_text(encoding="utf-8"),
                {key: json.dumps(value) for key, value in paths.items()},
                self.backends,
                self._server_options,
                agent_options=self._agent_options,
                backend_options=self._backend_options,
                consul_options=self._consul_options,
            ),
            encoding="utf-8",
        )
        rendered = self.hapsync("render", check=True)
        self.haproxy.config.write_text(rendered.stdout, encoding="utf-8")

    # hapsync

    def hapsync(
        self, command: str, *arguments: str, check: bool = False, capture: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `hapsync command --config ... arguments` to its end; `check` raises when that is not 0.

        Without `capture` it prints to where this process does.
        """
        return subprocess.run(
            (str(HAPSYNC), command, "--config", str(self.config_path), *arguments),
            capture_output=capture,
            text=True,
            timeout=60,
            check=check,
        )

    def status(self) -> dict[str, Any]:
        """What `hapsync status --json` says."""
        ended = self.hapsync("status", "--json")
        if not ended.stdout:
            raise RuntimeError(f"hapsync status ended with {ended.returncode}: {ended.stderr}")
        answer: dict[str, Any] = json.loads(ended.stdout)
        return answer

    def start_agent(self) -> Process:
        """Start `hapsync agent` and wait until it reports; `ProcessDiedError` when it does not get that far."""
        command = (str(HAPSYNC), "agent", "--config", str(self.config_path))
        self.agent = Process(command, self.work / "agent.log")
        report = self.work / "run" / "status.json"

        def reports() -> bool:
            return bool(json.loads(report.read_text(encoding="utf-8"))["pid"] == self.agent.pid)

        wait_until(reports, 20, "the agent's first report", process=self.agent)
        return self.agent

    def stop_agent(self) -> None:
        """End the agent with SIGTERM; harmless when it is not running."""
        if hasattr(self, "agent"):
            self.agent.stop()

    def kill_agent(self) -> None:
        """End the agent with SIGKILL, wherever it is."""
        self.agent.kill()

    # Traffic, and what came of it

    def load(
        self,
        *,
        path: str = "/",
        clients: int = 16,
        closing: int = 4,
        rate: float = 300.0,
        seconds: float = 600.0,
    ) -> Load:
        """Clients of the frontend, started when entered; they end with the stage at the latest."""
        load = Load(
            self.work,
            self.frontend_port,
            path=path,
            clients=clients,
            closing=closing,
            rate=rate,
            seconds=seconds,
        )
        self._ending.callback(load.__exit__, None, None, None)
        return load

    def differences(self, backend: str = "web") -> list[str]:
        """How HAProxy's live servers differ from what Consul's catalog says, a line each; empty when they do not."""
        return truth.differences(truth.wanted(self.consul.health(backend)), self.haproxy.servers(backend))

    def wait_deferred(self, *reasons: str, count: int | None = None, timeout_seconds: float = 20.0) -> None:
        """Wait until `status` says that changes are held for exactly these reasons, and so many where given.

        HAProxy has what a pass did a moment before the agent's report tells of it. `TimeoutError` names what is held.
        """
        last: list[str] = []

        def is_held() -> bool:
            last[:] = [one["reason"] for one in self.status()["deferred"]]
            return set(last) == set(reasons) and count in {None, len(last)}

        try:
            wait_until(is_held, timeout_seconds, f"what is held to be for {reasons}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is for {last}") from error

    def wait_equal(self, backend: str = "web", timeout_seconds: float = 20.0) -> None:
        """Wait until HAProxy is what Consul says; `TimeoutError`, naming the differences, when it is not."""
        last: list[str] = []

        def equal() -> bool:
            last[:] = self.differences(backend)
            return not last

        try:
            wait_until(equal, timeout_seconds, "HAProxy to be as Consul says")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {'; '.join(last)}") from error

    def reloads(self) -> int:
        """How often the master has reloaded since it started, by its own count."""
        answer = wait_until(self._ask_master, 20, "the master to answer: after a reload it is deaf for a moment")
        [master] = [line.split() for line in answer.splitlines() if line.split()[1:2] == ["master"]]
        return int(master[2])

    def _ask_master(self) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(str(self.haproxy.master_path))
            connection.sendall(b"show proc;quit\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

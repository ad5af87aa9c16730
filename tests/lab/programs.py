"""The programs of the harness, each in the namespace of its own machine."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

from tests.harness.consul import Agent
from tests.harness.control import Helper
from tests.harness.haproxy import HAProxy
from tests.harness.origins import Origins
from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT, consul_path
from tests.lab.network import Space

CONSUL_PORT = 8500


class SpacedHelper(Helper):
    """A helper program in a namespace."""

    def __init__(self, space: Space, module: str, work: Path, *arguments: str) -> None:
        name = module.rpartition(".")[2]
        command = space.command(sys.executable, "-m", module, *arguments)
        self.process = Process(command, work / f"{name}.log", folder=ROOT, pipes=True)
        self._lock = threading.Lock()


class SpacedOrigins(Origins):
    """The lab's origins in a namespace, on whichever of its addresses each is opened."""

    def __init__(self, space: Space, work: Path) -> None:
        self._helper = SpacedHelper(space, "tests.lab.origins", work)


class SpacedConsul(Agent):
    """`consul agent -dev` in a namespace, on its address and Consul's own ports."""

    def __init__(self, space: Space, work: Path) -> None:
        settings = work / "consul.json"
        ports = {"http": CONSUL_PORT, **dict.fromkeys(("grpc", "serf_wan"), -1)}
        options = {"ports": ports, "disable_update_check": True, "log_level": "warn"}
        settings.write_text(json.dumps(options), encoding="utf-8")
        command = space.command(
            *(consul_path(), "agent", "-dev", "-node=lab", f"-bind={space.address}", f"-client={space.address}"),
            *("-config-format=json", f"-config-file={settings}"),
        )
        super().__init__(command, work / "consul.log", host=space.address, port=CONSUL_PORT)

    @property
    def version(self) -> str:
        """Its version, of its own saying."""
        told: dict[str, Any] = self.request("GET", "/v1/agent/self")
        return str(told["Config"]["Version"])

    def _ready(self) -> bool:
        """Whether it leads and has registered itself."""
        return bool(self.request("GET", "/v1/status/leader")) and bool(self.health("consul"))


class SpacedHAProxy(HAProxy):
    """An HAProxy in a namespace: master and workers, or without `is_master` one process alone."""

    def __init__(self, space: Space, program: str, config: Path, work: Path, *, is_master: bool) -> None:
        super().__init__(config, work)
        self._space = space
        self._program = program
        self._is_master = is_master

    def start(self, *options: str) -> None:
        """Start it with these `options` besides, and wait until it is the one that answers.

        Raises `ProcessDiedError`, with its log, when it ends instead.
        """
        master = ("-W", "-S", f"{self.master_path},level,admin") if self._is_master else ()
        command = (self._program, *master, "-db", "-f", str(self.config), *options)
        self._process = process = Process(self._space.command(*command), self.log)
        try:
            if self._is_master:
                wait_until(self.worker_pid, 10, "HAProxy's runtime socket", process=process)
                wait_until(self._master, 10, "HAProxy's master socket", process=process)
            else:
                # By its id: one before it, that is to stop, may answer still.
                wait_until(lambda: self.worker_pid() == process.pid, 10, "the new HAProxy", process=process)
        except BaseException:
            self.kill()
            raise

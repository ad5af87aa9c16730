"""Ways that are hapsync itself: `Hapsync`."""

import json
import subprocess
from collections.abc import Mapping
from typing import ClassVar

from tests.demo.stage import HAPSYNC
from tests.harness.processes import wait_until
from tests.lab.config import settings, template
from tests.lab.ways.beside import Beside
from tests.lab.ways.way import Place, fetched

LOSS_FRACTION = 0.95
"""As an operator sets it who lets a service shrink from 100 instances to 10 at once."""


class Hapsync(Beside):
    """`hapsync agent`, at once, through the Runtime API. The guard is set for a service that shrinks to a tenth."""

    options: ClassVar[str]
    slots: ClassVar[int]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._settings = place.work / "hapsync.toml"

    def prepare(self) -> None:
        work = self.place.work
        path = work / "haproxy.cfg.j2"
        path.write_text(template(self.haproxy.socket_path), encoding="utf-8")
        paths: Mapping[str, object] = {
            "address": self.place.consul.url,
            "socket": str(self.haproxy.socket_path),
            "config": str(self.haproxy.config),
            "template": str(path),
            "check_command": [self.place.haproxy, "-c", "-f", "{config}"],
            "master_socket": str(self.haproxy.master_path),
            "state_dir": str(work / "state"),
            "runtime_dir": str(work / "run"),
        }
        self._settings.write_text(
            settings(paths, slots=self.slots, options=f"{self.options}\nmax_loss_fraction = {LOSS_FRACTION}"),
            encoding="utf-8",
        )
        command = self.place.space.command(str(HAPSYNC), "render", "--config", str(self._settings))
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        self.haproxy.config.write_text(ended.stdout, encoding="utf-8")

    def start(self) -> None:
        super().start()
        agent = self.launch(str(HAPSYNC), "agent", "--config", str(self._settings))
        report = self.place.work / "run" / "status.json"

        def reports() -> bool:
            return bool(json.loads(report.read_text(encoding="utf-8"))["pid"] == agent.pid)

        wait_until(reports, 20, "the agent's first report", process=agent)


class HapsyncSlots(Hapsync):
    name = "hapsync, slots"
    options = 'scaling = "slots"'
    slots = 120

    @classmethod
    def describe(cls, interval_seconds: float) -> str:  # noqa: ARG003
        return (
            f"`hapsync agent` with {cls.slots} slots, as an operator sets them who expects up to 100 instances, "
            f"and `max_loss_fraction = {LOSS_FRACTION}`"
        )


class HapsyncDynamic(Hapsync):
    name = "hapsync, dynamic"
    options = 'scaling = "dynamic"'
    slots = 1

    @classmethod
    def describe(cls, interval_seconds: float) -> str:  # noqa: ARG003
        return f"`hapsync agent` that adds and deletes servers, with `max_loss_fraction = {LOSS_FRACTION}`"

    @classmethod
    def program(cls) -> str:
        return fetched("3.0")

"""Ways of keeping HAProxy in step with Consul, behind one interface: `Way`."""

import abc
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from attrs import frozen

from tests.demo.stage import HAPSYNC
from tests.harness.consul import Agent
from tests.harness.haproxy import HAProxy
from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT, haproxy_path
from tests.lab.config import BACKEND, rendered, settings, template
from tests.lab.network import Space
from tests.lab.programs import SpacedHAProxy
from tests.lab.traffic.sent import Traffic
from tests.matrix.cell import below


class UnavailableError(Exception):
    """A way cannot run on this machine; the message says why."""


class WayError(Exception):
    """A way stopped doing what it is to do."""


@frozen
class Place:
    """What a way finds: the machine it runs on, a folder, Consul, how often it may act, and its HAProxy's path."""

    space: Space
    work: Path
    consul: Agent
    interval_seconds: float
    haproxy: str


class Way(abc.ABC):
    """One way of keeping the backend `web` of a HAProxy in step with the Consul service of that name.

    The order is: `program`, then a new way at a place, `prepare`, `start`, `stop`.
    """

    name: ClassVar[str]
    left_out: ClassVar[Mapping[Traffic, str]] = {}
    """Kinds of traffic that it cannot carry, and why."""
    haproxy: HAProxy
    """Whoever serves, from `start` on."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @classmethod
    def program(cls) -> str:
        """The path of the HAProxy it needs; `UnavailableError` when it, or anything else it needs, is not here."""
        return haproxy_path()

    @classmethod
    @abc.abstractmethod
    def describe(cls, interval_seconds: float) -> str:
        """What it does, in a sentence."""

    @abc.abstractmethod
    def prepare(self) -> None:
        """Write the files, from what Consul holds now."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start HAProxy and what keeps it in step; it listens on port 80."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End all of it; harmless when repeated. `WayError` when it had stopped doing its work before."""

    @abc.abstractmethod
    def workers(self) -> frozenset[int]:
        """The process ids of HAProxy's workers, those that are stopping as well."""


class Rendered(Way):
    """The server lines are rendered from Consul by the clock, and HAProxy replaced each time: by `replace`.

    By the clock, whether anything has changed or not. What HAProxy refuses (`haproxy -c`) is not installed.
    """

    is_master: ClassVar[bool]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.serving = self.another()
        self.haproxy = self.serving
        self._template = template(self.haproxy.socket_path)
        self._ending = threading.Event()
        self._failure: Exception | None = None
        self._clock = threading.Thread(target=self._keep, daemon=True)

    @abc.abstractmethod
    def replace(self) -> None:
        """Have HAProxy serve by the configuration that was just written."""

    def another(self) -> SpacedHAProxy:
        """A HAProxy that is not started."""
        place = self.place
        return SpacedHAProxy(
            place.space, place.haproxy, place.work / "haproxy.cfg", place.work, is_master=self.is_master
        )

    def prepare(self) -> None:
        entries = self.place.consul.request("GET", f"/v1/health/service/{quote(BACKEND)}?passing=1")
        candidate = self.haproxy.config.with_suffix(".new")
        candidate.write_text(rendered(self._template, entries), encoding="utf-8")
        subprocess.run((self.place.haproxy, "-c", "-f", str(candidate)), check=True, capture_output=True, timeout=30)
        candidate.replace(self.haproxy.config)

    def start(self) -> None:
        self.serving.start()
        self._clock.start()

    def stop(self) -> None:
        self._ending.set()
        if self._clock.ident is not None:
            self._clock.join()
        self.serving.stop()
        if self._failure is not None:
            raise WayError(f"{self.name}: {self._failure}") from self._failure

    def workers(self) -> frozenset[int]:
        return workers_below(self.serving.process.pid)

    def _keep(self) -> None:
        due = time.monotonic()
        try:
            # From turn to turn, so that how long one takes does not add up.
            while not self._ending.wait((due := due + self.place.interval_seconds) - time.monotonic()):
                self.prepare()
                self.replace()
        except Exception as error:  # noqa: BLE001  # told by `stop`
            self._failure = error


class Restart(Rendered):
    """Stop, start: nobody listens in between, and what is under way is cut."""

    name = "restart"
    is_master = True

    @classmethod
    def describe(cls, interval_seconds: float) -> str:
        return f"rendered, HAProxy stopped (SIGTERM) and started, every {interval_seconds:g} s"

    def replace(self) -> None:
        self.serving.stop()
        self.serving.start()


class Reload(Rendered):
    """A new process is started beside the old one, with -sf and without -x.

    So it binds listening sockets of its own (`SO_REUSEPORT` lets it) and then tells the old one to finish
    (management.txt, section 4). Connections that the kernel has completed for the old sockets, but which the old
    process has not accepted when it closes them, are reset. With -x, or in master-worker mode, the sockets
    themselves are handed over, and nothing is in between.
    """

    name = "reload, no hand-over"
    is_master = False

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._old: list[SpacedHAProxy] = []

    @classmethod
    def describe(cls, interval_seconds: float) -> str:
        return f"rendered, a new HAProxy started with -sf and without -x, every {interval_seconds:g} s"

    def replace(self) -> None:
        ready = self.another()
        ready.start("-sf", *(str(pid) for pid in self.workers()))
        before = (*self._old, self.serving)
        self._old = [one for one in before if one.process.running]
        self.serving = ready
        for one in before:
            if not one.process.running:
                one.stop()  # so that nothing of it stays in the process table

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            for one in self._old:
                one.stop()

    def workers(self) -> frozenset[int]:
        return frozenset(one.process.pid for one in (*self._old, self.serving) if one.process.running)


class SeamlessReload(Rendered):
    """Master and workers: the master starts a new worker, which gets the listening sockets."""

    name = "seamless reload"
    is_master = True

    @classmethod
    def describe(cls, interval_seconds: float) -> str:
        return f"rendered, the master reloaded through its socket, every {interval_seconds:g} s"

    def replace(self) -> None:
        self.serving.reload()


class Hapsync(Way):
    """`hapsync agent`, at once, through the Runtime API. The guard is set for a service that shrinks to a third."""

    options: ClassVar[str]
    slots: ClassVar[int]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        work = place.work
        self.haproxy = SpacedHAProxy(place.space, place.haproxy, work / "haproxy.cfg", work, is_master=True)
        self._settings = work / "hapsync.toml"
        self._agent: Process | None = None

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
            settings(paths, slots=self.slots, options=f"{self.options}\nmax_loss_fraction = 0.7"), encoding="utf-8"
        )
        command = self.place.space.command(str(HAPSYNC), "render", "--config", str(self._settings))
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        self.haproxy.config.write_text(ended.stdout, encoding="utf-8")

    def start(self) -> None:
        self.haproxy.start()
        command = self.place.space.command(str(HAPSYNC), "agent", "--config", str(self._settings))
        self._agent = agent = Process(command, self.place.work / "agent.log")
        report = self.place.work / "run" / "status.json"

        def reports() -> bool:
            return bool(json.loads(report.read_text(encoding="utf-8"))["pid"] == agent.pid)

        wait_until(reports, 20, "the agent's first report", process=agent)

    def stop(self) -> None:
        has_ended = self._agent is not None and not self._agent.running
        if self._agent is not None:
            self._agent.stop()
            self._agent = None
        self.haproxy.stop()
        if has_ended:
            raise WayError(f"{self.name}: the agent had ended")

    def workers(self) -> frozenset[int]:
        return workers_below(self.haproxy.process.pid)


class HapsyncSlots(Hapsync):
    name = "hapsync, slots"
    options = 'means = "slots"'
    slots = 40

    @classmethod
    def describe(cls, interval_seconds: float) -> str:  # noqa: ARG003
        return f"`hapsync agent` with {cls.slots} slots"


class HapsyncDynamic(Hapsync):
    name = "hapsync, dynamic"
    options = 'means = "dynamic"'
    slots = 1

    @classmethod
    def describe(cls, interval_seconds: float) -> str:  # noqa: ARG003
        return "`hapsync agent` that adds and deletes servers"

    @classmethod
    def program(cls) -> str:
        return fetched("3.0")


def fetched(version: str) -> str:
    """The path of the HAProxy of that version, fetched where it is not here yet; `UnavailableError` if it cannot."""
    command = (str(ROOT / "tests" / "roots.sh"), version)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"tests/roots.sh {version} ended with {ended.returncode}"]
        raise UnavailableError(f"no HAProxy {version}: {said[-1]}")
    return ended.stdout.strip()


def workers_below(master: int) -> frozenset[int]:
    """The workers of a master, by their process ids."""
    return frozenset(below(master))


WAYS: Mapping[str, type[Way]] = {
    way.name: way for way in (Restart, Reload, SeamlessReload, HapsyncSlots, HapsyncDynamic)
}
"""By name, in the order of the report."""

"""A way of keeping HAProxy in sync with Consul: `Way`, the interface that a cell goes by."""

import abc
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from attrs import frozen

from tests.harness.consul import Agent
from tests.harness.haproxy import HAProxy
from tests.harness.processes import Process
from tests.harness.procfs import below
from tests.harness.tools import ROOT, haproxy_path
from tests.lab.config import BACKEND
from tests.lab.network import Space
from tests.lab.programs import SpacedHAProxy
from tests.lab.traffic.sent import Traffic

_RELOADER = Path(__file__).with_name("reloader.py")


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
    """One way of keeping a backend of a HAProxy in sync with the Consul service `web`.

    The order is: `program`, then a new way at a place, `prepare`, `start`, `stop`.
    """

    name: ClassVar[str]
    left_out: ClassVar[Mapping[Traffic, str]] = {}
    """Kinds of traffic that it cannot carry, and why."""
    haproxy: SpacedHAProxy
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
        """What it does, and by what settings, in a sentence."""

    @property
    def backend(self) -> str:
        """The backend that is kept in sync, by the name that HAProxy has for it; known from `start` on."""
        return BACKEND

    @abc.abstractmethod
    def prepare(self) -> None:
        """Write the files, from what Consul holds now."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start HAProxy and what keeps it in sync; it listens on port 80."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End all of it; harmless when repeated. `WayError` when it had stopped doing its work before."""

    def workers(self) -> frozenset[int]:
        """The process ids of HAProxy's workers, those that are stopping as well: all that its master has."""
        return frozenset(below(self.haproxy.process.pid))

    @abc.abstractmethod
    def tools(self) -> frozenset[int]:
        """The process ids of what keeps HAProxy in sync, without HAProxy; none where HAProxy does it itself."""

    def revive(self) -> None:
        """Do what a supervisor (systemd with Restart=always) does once HAProxy has ended: start it with its file.

        Returns when HAProxy answers; `ProcessDiedError` when it does not.
        """
        self.haproxy.stop()
        self.haproxy.start()


def haproxy_at(place: Place, *, is_master: bool = True) -> SpacedHAProxy:
    """A HAProxy that is not started; its configuration is haproxy.cfg in the folder of the way."""
    return SpacedHAProxy(place.space, place.haproxy, place.work / "haproxy.cfg", place.work, is_master=is_master)


def reload_command(haproxy: HAProxy) -> tuple[str, ...]:
    """What reloads it and waits until that is done: the place of `systemctl reload haproxy` in a tool's settings."""
    return (sys.executable, "-I", "-S", str(_RELOADER), str(haproxy.master_path))


def all_of(process: Process | None) -> frozenset[int]:
    """A process and all that it has started, by their ids; none once it has ended."""
    return frozenset({process.pid, *below(process.pid)}) if process is not None and process.running else frozenset()


def fetched(version: str) -> str:
    """The path of the HAProxy of that version, fetched where it is not here yet; `UnavailableError` if it cannot."""
    command = (str(ROOT / "tests" / "roots.sh"), version)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"tests/roots.sh {version} ended with {ended.returncode}"]
        raise UnavailableError(f"no HAProxy {version}: {said[-1]}")
    return ended.stdout.strip()

"""A network of the lab's own: a namespace for each machine, on one bridge in a namespace of its own.

Nothing is added to the network of the machine itself, and none of these can reach it.
"""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen
from pyroute2 import NetNS, netns

from tests.harness.tools import ROOT
from tests.lab.sweeper import FOLDER, sweep

ROLES = ("balancer", "consul", "control", "clients", "servers")
"""The machines; `control` is where the lab itself stands."""
SERVERS = 100
_SWEEP_SECONDS = 20.0

_numbers = itertools.count(1)


@frozen
class Space:
    """One machine: the name of its namespace, and its addresses, of which it has one at least."""

    name: str
    addresses: Sequence[str]

    @property
    def address(self) -> str:
        return self.addresses[0]

    def command(self, *command: str) -> tuple[str, ...]:
        """What runs `command` there; as the process itself, so signals reach it. Needs root."""
        return ("nsenter", f"--net={FOLDER / self.name}", "--", *command)


@frozen
class Network:
    """The machines by their roles, and a folder for what they write; its path is short enough for unix sockets."""

    balancer: Space
    consul: Space
    control: Space
    clients: Space
    servers: Space
    folder: Path

    @property
    def spaces(self) -> tuple[Space, ...]:
        return (self.balancer, self.consul, self.control, self.clients, self.servers)


@contextmanager
def open_network() -> Iterator[Network]:
    """A new network, removed at the end with all that runs in it; also when this process is killed.

    Raises `PermissionError` without root, and pyroute2's `NetlinkError` where the kernel has no bridge or veth.
    """
    if os.geteuid() != 0:
        raise PermissionError("the lab makes network namespaces: run it as root")
    prefix = f"hslab-{os.getpid()}-{next(_numbers)}"
    wire = f"{prefix}-wire"
    machines = {role: Space(f"{prefix}-{role}", _addresses(role)) for role in ROLES}
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir="/tmp"))
    names = [wire, *(space.name for space in machines.values())]
    try:
        # Before the first namespace is there, so that none is ever without it.
        sweeper = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.sweeper", str(folder), *names],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        _make(wire, machines)
        yield Network(**machines, folder=folder)
    finally:
        assert sweeper.stdin is not None
        sweeper.stdin.close()
        if sweeper.wait(_SWEEP_SECONDS):
            sweep(names, folder)


def _addresses(role: str) -> tuple[str, ...]:
    if role == "servers":
        return tuple(f"10.77.1.{number}" for number in range(1, SERVERS + 1))
    return (f"10.77.0.{ROLES.index(role) + 1}",)


def _make(wire: str, machines: dict[str, Space]) -> None:
    for name in (wire, *(space.name for space in machines.values())):
        netns.create(name)
    with NetNS(wire) as switch:
        switch.link("add", ifname="bridge", kind="bridge")
        [bridge] = switch.link_lookup(ifname="bridge")
        switch.link("set", index=bridge, state="up")
        for role, space in machines.items():
            switch.link("add", ifname=role, kind="veth", peer={"ifname": "eth0", "net_ns_fd": space.name})
            [port] = switch.link_lookup(ifname=role)
            switch.link("set", index=port, master=bridge, state="up")
    for space in machines.values():
        with NetNS(space.name) as machine:
            [loopback] = machine.link_lookup(ifname="lo")
            [wired] = machine.link_lookup(ifname="eth0")
            for address in space.addresses:
                machine.addr("add", index=wired, address=address, prefixlen=16)
            for link in (loopback, wired):
                machine.link("set", index=link, state="up")

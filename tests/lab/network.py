"""A network of the lab's own: a namespace for each machine, on one bridge in a namespace of its own.

Balancer and agent are two parts of one machine: a link of their own takes the place of its loopback, so that what
its counters say is what passes between Consul's local agent and whoever asks it on the balancer. Nothing is added to
the network of the machine itself, and none of these can reach it.
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
from pyroute2 import NetlinkError, NetNS, netns

from tests.harness.tools import ROOT
from tests.lab.sweeper import FOLDER, PREFIX, held, sweep, sweep_left_behind

ROLES = ("balancer", "agent", "consul", "control", "clients", "servers")
"""The machines; `control` is where the lab itself stands, `agent` where the balancer's local Consul agent does."""
SERVERS = 100
CONSUL_SERVERS = 3
ASKING = "asking"
"""The link between balancer and agent, by the name that it has on both."""
_ASKING_ADDRESSES = {"balancer": "10.78.0.1", "agent": "10.78.0.2"}
_SWEEP_SECONDS = 20.0

_numbers = itertools.count(1)


class NetworkError(Exception):
    """No network of namespaces can be made on this machine; the message says why."""


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

    def carried_bytes(self, link: str) -> int:
        """What a link of it has carried until now, in both directions; `LookupError` when it has no such link."""
        command = self.command("cat", "/proc/net/dev")
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
            name, colon, figures = line.partition(":")
            if colon and name.strip() == link:
                received, sent = (int(figures.split()[column]) for column in (0, 8))
                return received + sent
        raise LookupError(f"{self.name} has no link {link}")


@frozen
class Network:
    """The machines by their roles, and a folder for what they write; its path is short enough for unix sockets."""

    balancer: Space
    agent: Space
    consul: Space
    control: Space
    clients: Space
    servers: Space
    folder: Path

    @property
    def spaces(self) -> tuple[Space, ...]:
        return (self.balancer, self.agent, self.consul, self.control, self.clients, self.servers)


@contextmanager
def open_network() -> Iterator[Network]:
    """A new network, removed at the end with all that runs in it; also when this process is killed.

    What labs that have ended left behind is removed first: their sweeper was killed with them.
    Raises `NetworkError` without root, and where the kernel, or a container, gives no namespaces, bridge or veth.
    """
    if os.geteuid() != 0:
        raise NetworkError("the lab makes network namespaces: run it as root")
    sweep_left_behind()
    prefix = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    wire = f"{prefix}-wire"
    machines = {role: Space(f"{prefix}-{role}", _addresses(role)) for role in ROLES}
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir="/tmp"))
    names = [wire, *(space.name for space in machines.values())]
    try:
        # Before the first namespace is there, so that none is ever without it.
        with held(folder) as lock:
            sweeper = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.sweeper", str(folder), *names],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                start_new_session=True,
                pass_fds=[lock],
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        try:
            _make(wire, machines)
        except (OSError, NetlinkError) as error:
            raise NetworkError(
                f"no network namespaces, bridge or veth can be made here: {error}; in a container, run it with all "
                "privileges, else see vagrant/README.md"
            ) from error
        yield Network(**machines, folder=folder)
    finally:
        assert sweeper.stdin is not None
        sweeper.stdin.close()
        if sweeper.wait(_SWEEP_SECONDS):
            sweep(names, folder)


def _addresses(role: str) -> tuple[str, ...]:
    if role == "servers":
        return tuple(f"10.77.1.{number}" for number in range(1, SERVERS + 1))
    if role == "consul":
        return tuple(f"10.77.2.{number}" for number in range(1, CONSUL_SERVERS + 1))
    on_bridge = f"10.77.0.{ROLES.index(role) + 1}"
    return (on_bridge, _ASKING_ADDRESSES[role]) if role == "agent" else (on_bridge,)


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
            for address in set(space.addresses) - set(_ASKING_ADDRESSES.values()):
                machine.addr("add", index=wired, address=address, prefixlen=16)
            for link in (loopback, wired):
                machine.link("set", index=link, state="up")
    _make_asking(machines)


def _make_asking(machines: dict[str, Space]) -> None:
    """The link between balancer and agent; `control` finds the agent's end of it over the bridge."""
    with NetNS(machines["balancer"].name) as balancer:
        peer = {"ifname": ASKING, "net_ns_fd": machines["agent"].name}
        balancer.link("add", ifname=ASKING, kind="veth", peer=peer)
    for role, address in _ASKING_ADDRESSES.items():
        with NetNS(machines[role].name) as machine:
            [link] = machine.link_lookup(ifname=ASKING)
            machine.addr("add", index=link, address=address, prefixlen=24)
            machine.link("set", index=link, state="up")
    with NetNS(machines["control"].name) as control:
        control.route("add", dst="10.78.0.0/24", gateway=machines["agent"].address)

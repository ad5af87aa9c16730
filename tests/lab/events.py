"""What happens to the service while it is measured; each begins with ten instances that serve."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

from attrs import frozen

from tests.harness.processes import wait_until
from tests.harness.procfs import has_ended
from tests.lab.fleet import Fleet
from tests.lab.programs import SpacedCluster
from tests.lab.watching import Seen
from tests.lab.ways import Way

INSTANCES, SCALED_INSTANCES = 10, 100
STEP_SECONDS = (0.1, 0.3)
"""A deploy goes on so long after each of its steps, at random: even steps would meet who looks ten times a second at
the same moment again and again.
"""
FLAPS, FLAP_SECONDS = 5, 1.0
FLAPPED_SECONDS = 3.0
"""How long one is waited for that flapped: who lets it wait on purpose lets it wait longer."""
LEADER_SECONDS = 30.0
STALE_SECONDS = 1.5
"""HAProxy is killed so long after the membership has changed."""
RESTART_SECONDS = 0.1
"""systemd's RestartSec, unless it is set."""
SERVES_SECONDS = 20.0


@frozen
class Scene:
    """What an event finds: `address` is where HAProxy listens on port 80."""

    fleet: Fleet
    cluster: SpacedCluster
    way: Way
    address: str


@frozen
class Killed:
    """HAProxy was killed, and answered a request again; times of the monotonic clock."""

    begun: float
    answered: float


@frozen
class Outage:
    """How long HAProxy was gone, and with which servers it came back; in seconds from when it was killed."""

    answers_seconds: float
    """Until it answered a request."""
    right_seconds: float | None
    """Until its servers were those that they should be; None when they never were."""
    is_right_at_once: bool
    """Whether they were so as soon as it had any."""

    @classmethod
    def of(cls, killed: Killed, history: Sequence[Seen], members: frozenset[str]) -> Self:
        """Of all that was seen; `members` are the servers that there should be."""
        after = [seen for seen in history if seen.when > killed.begun]
        gone = next((number for number, seen in enumerate(after) if not seen.serving), 0)
        back = [seen for seen in after[gone:] if seen.serving]
        right = next((seen.when for seen in back if seen.serving == members), None)
        return cls(
            round(killed.answered - killed.begun, 4),
            None if right is None else round(right - killed.begun, 4),
            bool(back) and back[0].serving == members,
        )


@frozen
class Event:
    """What it is, in words, and how it is done; it ends when HAProxy has followed, or does not."""

    describe: str
    play: Callable[[Scene], Killed | None]
    consul_servers: int = 1
    """It needs so many of them at least."""
    forces_failures: bool = False
    """Whether it fails requests that nobody could save."""


def steady(scene: Scene) -> None:
    time.sleep(scene.fleet.interval_seconds)


def deploy(scene: Scene) -> None:
    _replace(scene.fleet, list(scene.fleet.members))
    scene.fleet.settle()


def death(scene: Scene) -> None:
    scene.fleet.die(scene.fleet.members[0])
    scene.fleet.settle()


def critical(scene: Scene) -> None:
    fleet = scene.fleet
    host = fleet.members[0]
    fleet.fail(host)
    fleet.settle()
    _pause(fleet)
    fleet.recover(host)
    fleet.settle()


def flapping(scene: Scene) -> None:
    host = scene.fleet.members[0]
    for _ in range(FLAPS):
        scene.fleet.fail(host)
        time.sleep(FLAP_SECONDS / 2)
        scene.fleet.recover(host)
        time.sleep(FLAP_SECONDS / 2)
    scene.fleet.settle(FLAPPED_SECONDS)


def scale(scene: Scene) -> None:
    fleet = scene.fleet
    newcomers = fleet.add(SCALED_INSTANCES - len(fleet.members))
    fleet.settle()
    _pause(fleet)
    for host in newcomers:
        fleet.leave(host)
    fleet.settle()


def leader_lost(scene: Scene) -> None:
    cluster, fleet = scene.cluster, scene.fleet
    leader = cluster.leader()
    assert leader is not None, "no server leads"
    cluster.kill_server(leader)
    entry = cluster.entry()
    cluster.wait_for_another_leader(entry, leader, LEADER_SECONDS)
    fleet.told_to(entry)
    _replace(fleet, fleet.members[:5])
    fleet.settle()


def killed(scene: Scene) -> Killed:
    fleet, way = scene.fleet, scene.way
    fleet.add()
    fleet.leave(fleet.members[0])
    time.sleep(STALE_SECONDS)
    worker = way.haproxy.worker_pid()
    assert worker is not None, "HAProxy is stopping"
    os.kill(worker, signal.SIGKILL)
    begun = time.monotonic()
    wait_until(lambda: has_ended(worker), 5, "the worker to end", interval_seconds=0.001)
    probe = Probe(scene.address)
    probe.start()
    time.sleep(RESTART_SECONDS)
    way.revive()
    probe.join(SERVES_SECONDS)
    if probe.answered is None:
        raise TimeoutError(f"no request was answered in {SERVES_SECONDS:g} s after HAProxy had been started again")
    fleet.settle()
    return Killed(begun, probe.answered)


class Probe(threading.Thread):
    """Asks until it is answered with 200; `answered` is when."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.answered: float | None = None
        self._address = address

    def run(self) -> None:
        deadline = time.monotonic() + SERVES_SECONDS
        while self.answered is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((self._address, 80), timeout=0.2) as connection:
                connection.settimeout(1)
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if connection.recv(64).split(b" ")[1:2] == [b"200"]:
                    self.answered = time.monotonic()
                    return
            time.sleep(0.002)


def _replace(fleet: Fleet, hosts: Sequence[str]) -> None:
    for old in hosts:
        fleet.add()
        time.sleep(random.uniform(*STEP_SECONDS))
        fleet.leave(old)
        time.sleep(random.uniform(*STEP_SECONDS))


def _pause(fleet: Fleet) -> None:
    """As long as a clock's interval at most, at random: what it has just followed would tell when it comes again."""
    time.sleep(random.uniform(0, fleet.interval_seconds))


EVENTS: Mapping[str, Event] = {
    "steady": Event("nothing happens", steady),
    "deploy": Event("a rolling deploy: each instance is replaced by one on another address, one by one", deploy),
    "death": Event(
        "one server is gone without a word (counted from then on); critical in Consul 1 s later",
        death,
        forces_failures=True,
    ),
    "critical": Event("Consul calls one instance critical while it still answers, and passing again", critical),
    "flapping": Event(
        f"Consul calls one instance critical and passing again, {FLAPS} times in {FLAPS * FLAP_SECONDS:g} s, while "
        "it answers all the time",
        flapping,
    ),
    "scale": Event(f"{INSTANCES} instances become {SCALED_INSTANCES} at once, and {INSTANCES} again", scale),
    "leader lost": Event(
        "Consul's leader is killed; once there is another, half of the instances are replaced, one by one",
        leader_lost,
        consul_servers=3,
    ),
    "haproxy killed": Event(
        f"one instance comes and one leaves; {STALE_SECONDS:g} s later HAProxy's worker is killed (SIGKILL), its "
        f"master ends with it, and both are started again from the file that is there, {RESTART_SECONDS:g} s later, "
        "as systemd does",
        killed,
        forces_failures=True,
    ),
}
"""By name, in the order of the report."""

"""One cell: a way, under traffic, through an event; played for real, and what was measured."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import frozen

from tests.harness.processes import wait_until
from tests.lab.account import Account
from tests.lab.client import Clients, Traffic
from tests.lab.events import EVENTS, INSTANCES
from tests.lab.fleet import Fleet
from tests.lab.network import Network
from tests.lab.programs import SpacedConsul, SpacedOrigins
from tests.lab.watching import Change, Watch
from tests.lab.ways import WAYS, Place

RATE = 200.0
READY_SECONDS = 30.0
CALM_SECONDS = 1.0
"""How long the traffic runs at least before an event begins and after all has been followed."""
LEAST_INTERVALS = 3


@frozen
class Order:
    """What is to be played, and where; `haproxy` is the path of the one that the way needs.

    `phase`, from 0 to 1, is the part of an interval that the event is put off for: at random, or all changes of a
    kind would meet a clock at the same moment.
    """

    way: str
    traffic: Sequence[Traffic]
    """All at once."""
    event: str
    interval_seconds: float
    haproxy: str
    network: Network
    phase: float = 0.0


@frozen
class Delays:
    """How long changes took, in seconds, and how many did not come about before the next or the end."""

    seconds: Sequence[float]
    missed: int

    @classmethod
    def of(cls, changes: Sequence[Change]) -> "Delays":
        done = tuple(round(change.done - change.begun, 4) for change in changes if change.done is not None)
        return cls(done, len(changes) - len(done))


@frozen
class Measured:
    """What was measured in a cell."""

    seconds: float
    accounts: Mapping[Traffic, Account]
    live: Delays
    gone: Delays
    workers_peak: int
    workers_end: int
    workers_replaced: int
    haproxy: str
    """Its version."""
    consul: str
    """Its version."""


def play(order: Order) -> Measured:
    """Play it, in the network's `control` namespace; `AccountError` where requests are missing from the account."""
    network = order.network
    work = Path(tempfile.mkdtemp(prefix="", dir=network.folder))
    with ExitStack() as stack:
        consul = stack.enter_context(SpacedConsul(network.consul, work))
        origins = stack.enter_context(SpacedOrigins(network.servers, work))
        fleet = stack.enter_context(Fleet(consul, origins, network.servers.addresses, order.interval_seconds))
        for _ in range(INSTANCES):
            fleet.add()
        place = Place(network.balancer, work, consul, order.interval_seconds, order.haproxy)
        way = WAYS[order.way](place)
        way.prepare()
        stack.callback(way.stop)
        way.start()
        watch = stack.enter_context(Watch(way.haproxy, way.workers))
        watch.wait_serving(INSTANCES, READY_SECONDS)
        fleet.watched_by(watch)
        first = way.workers()
        versions = wait_until(way.haproxy.info, 10, "HAProxy")["Version"], consul.version
        host = network.balancer.address
        clients = {
            kind: stack.enter_context(Clients(network.clients, work, host, 80, traffic=kind, rate=RATE))
            for kind in order.traffic
        }
        begun = time.monotonic()
        time.sleep(CALM_SECONDS + order.phase * order.interval_seconds)
        EVENTS[order.event].play(fleet)
        fleet.settle()
        # As long for who follows at once as for who goes by a clock, so that both are asked as much.
        rest = begun + CALM_SECONDS + LEAST_INTERVALS * order.interval_seconds - time.monotonic()
        time.sleep(max(CALM_SECONDS, rest))
        accounts = {kind: Account.of(some.stop(), fleet.is_away) for kind, some in clients.items()}
        return Measured(
            seconds=round(time.monotonic() - begun, 1),
            accounts=accounts,
            live=Delays.of([change for change in watch.changes if change.is_live]),
            gone=Delays.of([change for change in watch.changes if not change.is_live]),
            workers_peak=watch.peak,
            workers_end=len(way.workers()),
            workers_replaced=len(watch.seen - first),
            haproxy=versions[0],
            consul=versions[1],
        )

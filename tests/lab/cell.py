"""One cell: a way, under traffic, through an event; played for real, and what was measured."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import frozen

from tests.harness.processes import wait_until
from tests.lab.account import Account, accounts
from tests.lab.asked import Asked
from tests.lab.certificate import make_certificate
from tests.lab.client import Clients, Target, Traffic, wait_for_lines
from tests.lab.config import BACKEND, PORT, TCP_PORT, TLS_PORT
from tests.lab.costs import Costs, Counter
from tests.lab.events import EVENTS, INSTANCES, Outage, Scene
from tests.lab.fleet import Fleet
from tests.lab.network import Network
from tests.lab.programs import SpacedCluster, SpacedOrigins
from tests.lab.watching import Change, Watch
from tests.lab.ways import WAYS, Place

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
    consul_servers: int = 1
    """Unless the event needs more. With several, an agent that happens to read from one that does not lead has each
    change 50 to 100 ms later, whatever the way: that would tell more of chance than of ways."""
    rate_fraction: float = 1.0
    """How much traffic there is, as a part of the usual."""


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
    """As long were the traffic, and all that is counted."""
    whole_seconds: float
    """The same with all that is before and after: starting, stopping."""
    accounts: Mapping[Traffic, Account]
    live: Delays
    gone: Delays
    outage: Outage | None
    costs: Costs
    asked: Asked
    looks_seconds: tuple[float, float]
    """From one look at HAProxy to the next while a change was awaited: median, 99th percentile."""
    haproxy: str
    """Its version."""
    consul: str
    """Its version."""


def play(order: Order) -> Measured:
    """Play it, in the network's `control` namespace; `AccountError` where requests are missing from the account."""
    started = time.monotonic()
    event, network = EVENTS[order.event], order.network
    work = Path(tempfile.mkdtemp(prefix="", dir=network.folder))
    with ExitStack() as stack:
        servers = max(order.consul_servers, event.consul_servers)
        cluster = stack.enter_context(SpacedCluster(network.consul, network.agent, work, servers))
        origins = stack.enter_context(SpacedOrigins(network.servers, work))
        addresses = network.servers.addresses
        fleet = stack.enter_context(Fleet(cluster.entry(), origins, addresses, order.interval_seconds))
        fleet.add(INSTANCES)
        wait_until(lambda: len(cluster.client.health(BACKEND)) == INSTANCES, 10, "Consul's agent to know them all")
        host = network.balancer.address
        target = Target(host, PORT, TLS_PORT, TCP_PORT, str(make_certificate(work, host)))
        way = WAYS[order.way](Place(network.balancer, work, cluster.client, order.interval_seconds, order.haproxy))
        way.prepare()
        stack.callback(way.stop)
        way.start()
        watch = stack.enter_context(Watch(way.haproxy, way.backend))
        watch.wait_serving(INSTANCES, READY_SECONDS)
        fleet.watched_by(watch)
        versions = wait_until(way.haproxy.info, 10, "HAProxy")["Version"], cluster.client.version
        traffic = [kind for kind in order.traffic if kind not in way.left_out]
        if "tcp" in traffic:
            wait_for_lines(target, INSTANCES, READY_SECONDS)
        clients = stack.enter_context(Clients(network.clients, work, target, traffic, order.rate_fraction))
        counter = stack.enter_context(Counter(way.workers, way.tools))
        asked = Asked.of(network, cluster)
        begun = time.monotonic()
        time.sleep(CALM_SECONDS + order.phase * order.interval_seconds)
        killed = event.play(Scene(fleet, cluster, way, host))
        # As long for who follows at once as for who goes by a clock, so that both are asked as much.
        rest = begun + CALM_SECONDS + LEAST_INTERVALS * order.interval_seconds - time.monotonic()
        time.sleep(max(CALM_SECONDS, rest))
        costs, asked = counter.stop(), Asked.of(network, cluster).since(asked)
        seconds = time.monotonic() - begun
        told = clients.stop()
        watch.stop()
        members = fleet.names
    return Measured(
        seconds=round(seconds, 1),
        whole_seconds=round(time.monotonic() - started, 1),
        accounts=accounts(told, fleet.is_away),
        live=Delays.of([change for change in watch.changes if change.is_live]),
        gone=Delays.of([change for change in watch.changes if not change.is_live]),
        outage=None if killed is None else Outage.of(killed, watch.history, members),
        costs=costs,
        asked=asked,
        looks_seconds=watch.gaps_seconds,
        haproxy=versions[0],
        consul=versions[1],
    )

"""One cell: a way, under traffic, through an event; played for real, and what was measured."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import frozen

from tests.harness.processes import wait_until
from tests.lab.client import Clients, Sent, Traffic
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


class AccountError(AssertionError):
    """Requests were begun of which nobody knows what became."""


@frozen
class Order:
    """What is to be played, and where; `haproxy` is the path of the one that the way needs.

    `phase`, from 0 to 1, is the part of an interval that the event is put off for: at random, or all changes of a
    kind would meet a clock at the same moment.
    """

    way: str
    traffic: Traffic
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
    requests: int
    kinds: Mapping[str, int]
    late: int
    """Answered by a server that Consul did not have as one that serves when the request was begun."""
    closed_idle: int
    live: Delays
    gone: Delays
    workers_peak: int
    workers_end: int
    workers_replaced: int
    p50_ms: float
    p99_ms: float
    haproxy: str
    consul: str

    @classmethod
    def of(
        cls,
        sent: Sent,
        changes: Sequence[Change],
        is_away: Callable[[str, float], bool],
        *,
        seconds: float,
        workers: tuple[int, int, int],
        versions: tuple[str, str],
    ) -> "Measured":
        """The measures of what was sent and seen.

        `is_away` tells whether a server, by its name, was one that Consul did not have at a time; `workers` are how
        many there were at most, how many at the end, how many came after the start; `versions` HAProxy's, Consul's.
        Raises `AccountError` where requests are missing from the account.
        """
        if sent.begun != len(sent.requests):
            raise AccountError(f"{sent.begun} requests were begun, and {len(sent.requests)} are accounted for")
        answered = sorted(request.seconds for request in sent.requests if request.kind == "answered")
        peak, end, replaced = workers
        haproxy, consul = versions
        return cls(
            seconds=round(seconds, 1),
            requests=sent.begun,
            kinds=sent.kinds(),
            late=sum(is_away(request.origin, request.begun) for request in sent.requests if request.origin),
            closed_idle=sent.closed_idle,
            live=Delays.of([change for change in changes if change.is_live]),
            gone=Delays.of([change for change in changes if not change.is_live]),
            workers_peak=peak,
            workers_end=end,
            workers_replaced=replaced,
            p50_ms=_milliseconds(answered, 0.5),
            p99_ms=_milliseconds(answered, 0.99),
            haproxy=haproxy,
            consul=consul,
        )


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
        with Clients(network.clients, work, host, 80, traffic=order.traffic, rate=RATE) as clients:
            begun = time.monotonic()
            time.sleep(CALM_SECONDS + order.phase * order.interval_seconds)
            EVENTS[order.event].play(fleet)
            fleet.settle()
            # As long for who follows at once as for who goes by a clock, so that both are asked as much.
            rest = begun + CALM_SECONDS + LEAST_INTERVALS * order.interval_seconds - time.monotonic()
            time.sleep(max(CALM_SECONDS, rest))
            sent = clients.stop()
            seconds = time.monotonic() - begun
        return Measured.of(
            sent,
            watch.changes,
            fleet.is_away,
            seconds=seconds,
            workers=(watch.peak, len(way.workers()), len(watch.seen - first)),
            versions=versions,
        )


def _milliseconds(ordered: Sequence[float], part: float) -> float:
    """The percentile of what is in order; 0 where there is nothing."""
    return round(ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000, 2) if ordered else 0.0

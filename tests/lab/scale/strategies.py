"""The ways of watching Consul: what a balancer asks in each, and how one of them is played here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import evolve, frozen

from hapsync.consul.wait_limit import JITTER
from hapsync.consul.watch_policy import SAFETY_SECONDS
from hapsync.consul.watch_state import UNCACHED_SECONDS
from tests.lab.scale.cluster import FleetCluster
from tests.lab.scale.model import Habits
from tests.lab.scale.players import (
    CONSUL_TEMPLATE_DITHER_SECONDS,
    CONSUL_TEMPLATE_FLOOR_SECONDS,
    CONSUL_TEMPLATE_WAIT_SECONDS,
    ConsulTemplate,
    Hapsync,
    Poll,
    Resolver,
    Tally,
)

CACHE_WAIT_SECONDS = 600.0
"""How long Consul's agent lets its own blocking query wait, for its cache (agent/cache-types, `defaultTimeout`)."""
PLAYED_PERIOD_SECONDS = 1.0
"""How often a balancer that polls reads all services when played here, whatever its period is."""
AGENT_CONNECTIONS = 4.0
"""TCP connections that an agent has to three servers' RPC port, whatever it asks (measured)."""
CHECKED_WAIT_SECONDS = 2.0
"""consul-template's wait in the check of the model: 30 times as many returns as it has."""


class Playing(Protocol):
    """A balancer that watches."""

    def stop(self) -> None:
        """End it."""


Play = Callable[[FleetCluster, int, Sequence[str], Tally], Playing]
"""Begin to play a balancer: the cluster, its number, the services it wants, and where to tell what it sees."""


@frozen
class Strategy:
    """One way: in words, in figures, and played.

    `habits` are those of a balancer in production. `watches`: blocking queries, so that a change wakes it.
    `is_leader_bound`: its reads are answered by the leader alone. `is_same_as` names the strategy that is played for
    this one, of which it only differs in how often it reads.
    """

    describe: str
    habits: Habits
    play: Play
    watches: bool = False
    is_leader_bound: bool = False
    is_streaming: bool = False
    is_same_as: str | None = None


def _returns(wait_seconds: float, pause_seconds: float) -> float:
    """How often a second a blocking query ends by itself; Consul adds up to a 16th of the wait to it at random."""
    return 1.0 / (wait_seconds * (1.0 + 1.0 / 32) + pause_seconds)


_SAFETY = 2.0 / sum(SAFETY_SECONDS)
_PAUSE_SECONDS = CONSUL_TEMPLATE_FLOOR_SECONDS + CONSUL_TEMPLATE_DITHER_SECONDS / 2


def _watching(
    wait_seconds: float | None, *, pause_seconds: float = 0.0, safety: float = 0.0, direct: bool = False
) -> Habits:
    return Habits(
        blocked_per_service=1.0,
        returns_per_service=0.0 if wait_seconds is None else _returns(wait_seconds, pause_seconds),
        reads_per_service=safety,
        reads=0.0,
        connections=0.0 if direct else AGENT_CONNECTIONS,
        connections_per_service=1.0 if direct else 0.0,
    )


def _polling(period_seconds: float, *, lists: bool = False) -> Habits:
    return Habits(
        blocked_per_service=0.0,
        returns_per_service=0.0,
        reads_per_service=1.0 / period_seconds,
        reads=1.0 / period_seconds if lists else 0.0,
        connections=AGENT_CONNECTIONS,
        connections_per_service=0.0,
    )


def _cached(cluster: FleetCluster, number: int, services: Sequence[str], tally: Tally) -> Playing:
    return Hapsync(cluster.agents[number % len(cluster.agents)], services, number, "cached", tally)


def _direct(cluster: FleetCluster, number: int, services: Sequence[str], tally: Tally) -> Playing:
    return Hapsync(cluster.servers[number % len(cluster.servers)], services, number, "stale", tally)


def _template(wait_seconds: float) -> Play:
    def play(cluster: FleetCluster, number: int, services: Sequence[str], tally: Tally) -> Playing:
        return ConsulTemplate(cluster.agents[number % len(cluster.agents)], services, tally, wait_seconds)

    return play


def _poll(query: str, *, lists: bool = False) -> Play:
    def play(cluster: FleetCluster, number: int, services: Sequence[str], tally: Tally) -> Playing:
        paths = [f"/v1/health/service/{service}{query}" for service in services]
        agent = cluster.agents[number % len(cluster.agents)]
        return Poll(agent, [*["/v1/catalog/services"] * lists, *paths], PLAYED_PERIOD_SECONDS, tally)

    return play


def _resolve(cluster: FleetCluster, number: int, services: Sequence[str], tally: Tally) -> Playing:
    agent = cluster.agents[number % len(cluster.agents)]
    return Resolver(agent, cluster.dns_port, services, PLAYED_PERIOD_SECONDS, tally)


_LISTING_POLL = _poll("", lists=True)

_TEMPLATE = _template(CACHE_WAIT_SECONDS)

STRATEGIES: Mapping[str, Strategy] = {
    "hapsync": Strategy(
        f"its own watches through the agent's cache; the agent holds a blocking query of {CACHE_WAIT_SECONDS:.0f} s "
        f"for each service, and hapsync reads each past the cache every {SAFETY_SECONDS[0]:.0f} to "
        f"{SAFETY_SECONDS[1]:.0f} s",
        _watching(CACHE_WAIT_SECONDS, safety=_SAFETY),
        _cached,
        watches=True,
    ),
    "hapsync, streaming": Strategy(
        "the same, where agent and servers stream (Consul 1.10 and newer)",
        _watching(None, safety=_SAFETY),
        _cached,
        watches=True,
        is_streaming=True,
    ),
    "hapsync, to a server": Strategy(
        '`address` is a server\'s, `consistency = "stale"`: no agent, no cache, a connection for each service',
        _watching(UNCACHED_SECONDS / JITTER, safety=_SAFETY, direct=True),
        _direct,
        watches=True,
    ),
    "consul-template": Strategy(
        f"a blocking query of {CONSUL_TEMPLATE_WAIT_SECONDS:.0f} s for each service, stale, through the agent, which "
        "hands each to a server",
        _watching(CONSUL_TEMPLATE_WAIT_SECONDS, pause_seconds=_PAUSE_SECONDS),
        # Longer here, so that none ends by itself while it is measured; what an end costs is a change's answer.
        _TEMPLATE,
        watches=True,
    ),
    "cron": Strategy(
        "every service read once a minute, stale, as `consul-template -once` does",
        _polling(60.0),
        _poll("?passing=1&stale="),
    ),
    "DNS": Strategy(
        "HAProxy's resolvers: an SRV query for each service every second, at the agent's DNS",
        _polling(1.0),
        _resolve,
    ),
    "Data Plane API, 10 s": Strategy(
        "the list of services, then each service, every 10 s, as documented; from the leader",
        _polling(10.0, lists=True),
        _LISTING_POLL,
        is_leader_bound=True,
    ),
    "Data Plane API, 1 s": Strategy(
        "the same every second, its fastest",
        _polling(1.0, lists=True),
        _LISTING_POLL,
        is_leader_bound=True,
        is_same_as="Data Plane API, 10 s",
    ),
}

PLAIN_READS = "cron"
"""Whose reads are those of one service, stale, through the agent."""
CHECK_NAME = "consul-template, short wait"
CHECK = Strategy(
    f"consul-template with a wait of {CHECKED_WAIT_SECONDS:.0f} s",
    _watching(CHECKED_WAIT_SECONDS, pause_seconds=_PAUSE_SECONDS),
    _template(CHECKED_WAIT_SECONDS),
    watches=True,
    is_same_as="consul-template",
)
"""What the model foretells from figures in which there is no such thing: blocking queries that end by themselves."""

MANY_NAME = "consul-template, many"
MANY = evolve(CHECK, describe="consul-template as it is", habits=STRATEGIES["consul-template"].habits, play=_TEMPLATE)
"""So many queries that wait, that what waiting costs is told from noise."""


def played(strategy: Strategy) -> Habits:
    """The habits of a balancer as it is played here: no query ends by itself, and whoever polls is fast."""
    if strategy.watches:
        return evolve(strategy.habits, returns_per_service=0.0, reads_per_service=0.0, reads=0.0)
    rate = 1.0 / PLAYED_PERIOD_SECONDS
    return evolve(strategy.habits, reads_per_service=rate, reads=rate if strategy.habits.reads else 0.0)

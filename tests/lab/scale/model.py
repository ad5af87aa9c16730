"""The load that a fleet puts on Consul's servers, from what one watcher costs. Pure: values in, values out.

What is taken to be so: every watcher costs the same, whoever else watches; a change of a service wakes everybody who
watches it, once; what a server does for one is done on one core, so that cores add up.
"""

from attrs import frozen


@frozen
class Habits:
    """What one balancer asks, by its strategy; all times in seconds, all rates of one balancer.

    `blocked_per_service`: blocking queries that a server holds for each service. `returns_per_service`: how many of
    these a second end because their wait is over, and are asked again. `reads_per_service`: other reads of each
    service in a second. `reads`: reads in a second that are not of a service. `connections` and
    `connections_per_service`: TCP connections to servers.
    """

    blocked_per_service: float
    returns_per_service: float
    reads_per_service: float
    reads: float
    connections: float
    connections_per_service: float


@frozen
class Costs:
    """What one watcher or read costs the servers, all of them together.

    `idle_cores`, `memory_bytes` and `goroutines` are of one blocked query. A *read* is one that is answered at once,
    a return of a blocking query included; a *wake-up* is what a change does to one balancer: the answer, and what is
    asked next. `change_cpu_seconds` is what a change costs besides, with nobody watching. `leader_fraction` is the
    leader's part of the CPU.
    """

    idle_cores: float
    memory_bytes: float
    goroutines: float
    read_cpu_seconds: float
    read_bytes: float
    wake_requests: float
    wake_cpu_seconds: float
    wake_bytes: float
    change_cpu_seconds: float
    leader_fraction: float


@frozen
class Fleet:
    """So many balancers, which watch the same so many services."""

    balancers: int
    services: int


@frozen
class Load:
    """On all servers together, at rest or under changes; rates are per second.

    `leader_cores` is what of `cores` the leader alone does; with three servers never less than a third.
    """

    blocked: float
    connections: float
    connections_per_balancer: float
    requests: float
    bytes: float
    cores: float
    leader_cores: float
    memory_bytes: float
    goroutines: float


@frozen
class Herd:
    """What one change of one service sets off at once: answers, their bytes, and the servers' CPU time for them."""

    answers: float
    bytes: float
    cpu_seconds: float


SERVERS = 3


def load(habits: Habits, costs: Costs, fleet: Fleet, changes_per_second: float = 0.0) -> Load:
    """The load of `fleet` with so many changes of single instances in a second, anywhere in the catalog."""
    blocked = fleet.balancers * fleet.services * habits.blocked_per_service
    reads = fleet.balancers * (
        fleet.services * (habits.returns_per_service + habits.reads_per_service) + habits.reads
    )
    one = herd(habits, costs, fleet)
    connections_of_one = habits.connections + fleet.services * habits.connections_per_service
    cores = (
        blocked * costs.idle_cores
        + reads * costs.read_cpu_seconds
        + changes_per_second * (one.cpu_seconds + costs.change_cpu_seconds)
    )
    return Load(
        blocked=blocked,
        connections=fleet.balancers * connections_of_one,
        connections_per_balancer=connections_of_one,
        requests=reads + changes_per_second * one.answers * costs.wake_requests,
        bytes=reads * costs.read_bytes + changes_per_second * one.bytes,
        cores=cores,
        leader_cores=cores * max(1 / SERVERS, costs.leader_fraction),
        memory_bytes=blocked * costs.memory_bytes,
        goroutines=blocked * costs.goroutines,
    )


def herd(habits: Habits, costs: Costs, fleet: Fleet) -> Herd:
    """What one change sets off: nothing in those that do not watch, for they find it when they read next."""
    woken = fleet.balancers * (1.0 if habits.blocked_per_service else 0.0)
    return Herd(woken, woken * costs.wake_bytes, woken * costs.wake_cpu_seconds)

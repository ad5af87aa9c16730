"""What happens to the service while it is measured; each begins with ten instances that serve."""

import time
from collections.abc import Callable, Mapping

from attrs import frozen

from tests.lab.fleet import Fleet

INSTANCES = 10


@frozen
class Event:
    """What it is, in words, and how it is done."""

    describe: str
    play: Callable[[Fleet], None]


def steady(fleet: Fleet) -> None:
    time.sleep(3 * fleet.interval_seconds)


def deploy(fleet: Fleet) -> None:
    for old in list(fleet.members):
        fleet.add()
        time.sleep(0.3)
        fleet.leave(old)
        time.sleep(0.3)


def death(fleet: Fleet) -> None:
    fleet.die(fleet.members[0])


def critical(fleet: Fleet) -> None:
    host = fleet.members[0]
    fleet.fail(host)
    fleet.settle()
    time.sleep(1)
    fleet.recover(host)


def scale(fleet: Fleet) -> None:
    before = list(fleet.members)
    while len(fleet.members) < 3 * INSTANCES:
        fleet.add()
    fleet.settle()
    time.sleep(1)
    for host in list(fleet.members):
        if host not in before:
            fleet.leave(host)


EVENTS: Mapping[str, Event] = {
    "steady": Event("nothing happens", steady),
    "deploy": Event("a rolling deploy: each instance is replaced by one on another address, one by one", deploy),
    "death": Event("one server is gone without a word (counted from then on); critical in Consul 1 s later", death),
    "critical": Event("Consul calls one instance critical while it still answers, and passing again", critical),
    "scale": Event("10 instances become 30 at once, and 10 again", scale),
}
"""By name, in the order of the report."""

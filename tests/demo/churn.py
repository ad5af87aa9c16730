"""Random changes of a fleet that stay inside the slots HAProxy has."""

import random
from collections.abc import Callable, Iterator
from functools import partial

from attrs import evolve, frozen

from tests.demo.fleet import Fleet, Member
from tests.demo.watching import free_slots
from tests.harness.consul import Status
from tests.harness.haproxy import HAProxy

STATUSES: tuple[Status, ...] = ("passing", "warning", "critical")


@frozen
class Change:
    """One change of Consul's catalog: in words, and the call that makes it."""

    what: str
    make: Callable[[], object]


class Churn:
    """Picks changes so that the fleet keeps between `smallest` and `largest` instances, and two always serve.

    Each is one that HAProxy has to follow. An instance comes only while HAProxy shows a free slot, so that none of
    them needs a reload.
    """

    def __init__(
        self, fleet: Fleet, haproxy: HAProxy, *, smallest: int, largest: int, seed: int | None = None
    ) -> None:
        self._fleet = fleet
        self._haproxy = haproxy
        self._smallest, self._largest = smallest, largest
        self._random = random.Random(seed)

    def next_change(self) -> Change:
        """A change to make now; where it needs a server, that listens already."""
        kinds = (self._come, self._leave, self._reweigh, self._check, self._maintain)
        while True:
            [kind] = self._random.choices(kinds, (3, 3, 3, 3, 2))
            if (change := kind()) is not None:
                return change

    def healing(self) -> Iterator[Change]:
        """The changes that make all instances passing again, of equal weight and out of maintenance."""
        for member in list(self._fleet.members.values()):
            healed = Member(member.name, member.node, member.port)
            if healed != member:
                yield Change(f"{member.name} as at first", partial(self._fleet.put, healed))

    def _come(self) -> Change | None:
        fleet = self._fleet
        if len(fleet.members) >= self._largest or not free_slots(self._haproxy, fleet.service, fleet.wanted()):
            return None
        member = fleet.start_server()
        return Change(f"{member.name} registered", partial(fleet.put, member))

    def _leave(self) -> Change | None:
        member = self._any()
        is_noticed = self._fleet.placed(member).state != "maint"
        if len(self._fleet.members) <= self._smallest or not is_noticed or not self._may_stop(member):
            return None
        return Change(f"{member.name} deregistered", partial(self._fleet.remove, member.name))

    def _reweigh(self) -> Change | None:
        member, weight = self._any(), self._random.randint(1, 20)
        return self._changed(member, evolve(member, weights=(weight, max(1, weight // 3))), f"weight {weight}")

    def _check(self) -> Change | None:
        member, status = self._any(), self._random.choice(STATUSES)
        return self._changed(member, evolve(member, status=status), status)

    def _maintain(self) -> Change | None:
        member = self._any()
        what = "out of maintenance" if member.maintenance else "in maintenance"
        return self._changed(member, evolve(member, maintenance=not member.maintenance), what)

    def _changed(self, old: Member, new: Member, what: str) -> Change | None:
        before, after = self._fleet.placed(old), self._fleet.placed(new)
        if before.looks_like(after) or (after.state != "ready" and not self._may_stop(old)):
            return None
        return Change(f"{new.name} {what}", partial(self._fleet.put, new))

    def _any(self) -> Member:
        return self._random.choice(list(self._fleet.members.values()))

    def _may_stop(self, member: Member) -> bool:
        serving = self._fleet.serving()
        return member not in serving or len(serving) > 2

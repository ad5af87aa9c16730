"""What goes on while hapsync is soaked: rounds of changes, each with a fault, and a rest at its end."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from attrs import evolve

from tests.demo.churn import Churn
from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.load import Load
from tests.harness.processes import wait_until

SLOTS = {"web": 12, "api": 6}
SMALLEST, LARGEST = {"web": 5, "api": 3}, {"web": 10, "api": 5}
CHANGES = 40
"""A round."""
APART_SECONDS = 0.2
GROWN = 3
"""So many more instances than slots make it grow; more often than a few times would only make the file long."""
LONGEST = 60
"""Slots, from which on HAProxy is started anew from the file of the beginning."""


class Storm:
    """The rounds; counts what was done, and the requests that faults had to cost."""

    def __init__(self, stage: Stage, fleets: dict[str, Fleet], loads: Sequence[Load], seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.forced = 0
        self._stage = stage
        self._fleets = fleets
        self._loads = loads
        self._random = random.Random(seed)
        self._config = stage.haproxy.config.read_text()
        self._churns = {
            name: Churn(
                fleet,
                stage.haproxy,
                smallest=SMALLEST[name],
                largest=LARGEST[name],
                seed=self._random.randrange(1 << 30),
            )
            for name, fleet in fleets.items()
        }
        self._faults: list[tuple[str, Callable[[], None]]] = [
            ("growth", self._grow),
            ("Consul restarted, empty", self._restart_consul),
            ("reload by others", self._reload),
            ("service vanished and came back", self._vanish),
            ("node in maintenance", self._maintain_node),
            ("HAProxy restarted", self._restart_haproxy),
        ]

    def begin(self) -> None:
        """Have as many instances as there should be at least."""
        for name, fleet in self._fleets.items():
            while len(fleet.members) < (SMALLEST[name] + LARGEST[name]) // 2:
                fleet.add()
        self.rest()

    def round(self, number: int) -> None:
        """Change much, with a fault in the middle; each kind of fault has its turn."""
        what, fault = self._faults[number % len(self._faults)]
        for place in range(CHANGES):
            name = self._random.choice(("web", "web", "api"))
            self._churns[name].next_change().make()
            self.done["changes"] += 1
            time.sleep(self._random.uniform(0, 2 * APART_SECONDS))
            if place == CHANGES // 2:
                fault()
                self.done[what] += 1
        if len(self._stage.haproxy.servers("web")) > LONGEST:
            self._restart_haproxy(from_the_beginning=True)
            self.done["HAProxy started with few slots again"] += 1
        self.rest()

    def rest(self) -> None:
        """Let all instances heal, and wait until HAProxy is what Consul says and the agent has nothing to do."""
        for name, fleet in self._fleets.items():
            for node in list(fleet.maintained_nodes):
                fleet.maintain_node(node, on=False)
            for change in self._churns[name].healing():
                change.make()
            self._become_equal(name)
        wait_until(lambda: self._stage.status()["agent"]["in_sync"], 30, "the agent to rest", interval_seconds=0.3)
        time.sleep(1)

    def _become_equal(self, name: str) -> None:
        """Wait for it; a service that came back too small after Consul forgot it is a person's to let go."""
        try:
            self._stage.wait_equal(name, 30)
        except TimeoutError:
            released = self._stage.hapsync("release", name)
            self.done[f"release of {name}"] += 1
            if released.returncode:
                raise
            self._stage.wait_equal(name, 30)

    def failed(self) -> int:
        return sum(load.snapshot().failed for load in self._loads)

    # Faults

    def _grow(self) -> None:
        fleet = self._fleets["web"]
        before = self._stage.reloads()
        more = [fleet.add() for _ in range(len(self._stage.haproxy.servers("web")) + GROWN - len(fleet.members))]
        wait_until(lambda: self._stage.reloads() > before, 30, "the reload")
        for member in more:
            fleet.remove(member.name)
            time.sleep(0.05)

    def _restart_consul(self) -> None:
        self._stage.consul.restart()
        for fleet in self._fleets.values():
            for member in list(fleet.members.values()):
                fleet.put(member)

    def _reload(self) -> None:
        wait_until(self._stage.haproxy.reload, 20, "the reload by others")

    def _vanish(self) -> None:
        fleet = self._fleets["api"]
        fleet.vanish()
        time.sleep(0.5)
        for member in list(fleet.members.values()):
            fleet.put(member)

    def _maintain_node(self) -> None:
        fleet = self._fleets["web"]
        node = next(iter(fleet.members.values())).node
        fleet.maintain_node(node, on=True)
        time.sleep(1)
        member = next(one for one in fleet.members.values() if one.node == node)
        fleet.maintained_nodes.discard(node)
        fleet.put(evolve(member))

    def _restart_haproxy(self, *, from_the_beginning: bool = False) -> None:
        with self._costing_requests():
            self._stage.haproxy.kill()
            if from_the_beginning:
                self._stage.haproxy.config.write_text(self._config)
            self._stage.haproxy.start()
            for name in self._fleets:
                wait_until(partial(self._serves, name), 20, f"{name} to be served again")

    def _serves(self, name: str) -> bool:
        return any(one.running for one in self._stage.haproxy.servers(name).values())

    @contextmanager
    def _costing_requests(self) -> Iterator[None]:
        """What is lost within the block, and just after it, was lost by the fault."""
        before = self.failed()
        yield
        last = -1
        deadline = time.monotonic() + 20
        while last != (last := self.failed()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.forced += last - before

"""The demo's scenes, one after the other."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve

from tests.demo.churn import Churn
from tests.demo.fleet import Fleet, Member
from tests.demo.screen import Screen
from tests.demo.stage import Stage
from tests.demo.summary import Summary
from tests.demo.truth import address, placed
from tests.demo.watching import WorkerWatch, wait_shown
from tests.harness.haproxy import ServerState
from tests.harness.load import Load, LoadResult
from tests.harness.processes import wait_until

BACKEND = "web"
SMALLEST, LARGEST = 3, 6  # instances while they change at random: a slot or two are always falling idle
LOOK_SECONDS = 1.6  # for a person to read what happened
CHURN_SECONDS = 10.0
CHURN_PERIOD_SECONDS = 0.23  # inside the agent's budget of five readings a second for a service
KEEP_PERIOD_SECONDS = 4.0  # time enough for the file to follow, so that a visitor mostly sees it in sync
INSTANCES = 12


class Story:
    """Tells the story on a stage; `tell` goes through all of it."""

    def __init__(self, stage: Stage, fleet: Fleet, screen: Screen, workers: WorkerWatch) -> None:
        self._stage = stage
        self._haproxy = stage.haproxy
        self._fleet = fleet
        self._screen = screen
        self._workers = workers
        self._churn = Churn(fleet, stage.haproxy, smallest=SMALLEST, largest=LARGEST)
        self._loads: list[Load] = []
        self._latencies_ms: list[float] = []
        self._replaced_too_early = False

    def tell(self) -> Summary:
        self._begin_traffic()
        self._scale_out()
        self._failing_check()
        self._warning()
        self._service_maintenance()
        self._node_maintenance()
        self._weights()
        self._scale_in()
        self._many_changes()
        self._vanish()
        self._run_out_of_slots()
        return self._sum_up()

    def go_on(self) -> None:
        """Change something at random every few seconds, until interrupted."""
        churn = Churn(self._fleet, self._haproxy, smallest=SMALLEST, largest=INSTANCES)
        while True:
            change = churn.next_change()
            self._change(change.what, change.make, is_terse=True)
            time.sleep(KEEP_PERIOD_SECONDS)

    def end_traffic(self) -> LoadResult:
        """Stop the clients; what all of them saw, from the beginning."""
        return _joined([load.stop() for load in self._loads])

    # The scenes

    def _begin_traffic(self) -> None:
        self._screen.heading("Three servers, and traffic")
        for _ in range(3):
            member = self._fleet.start_server()
            self._put(f"{member.name} registered on {member.node}", member)
        for load, what in (
            (
                self._stage.load(clients=16, closing=4, rate=300),
                "12 keep-alive and 4 closing clients, 300 requests/s",
            ),
            (self._stage.load(clients=8, closing=0, rate=2), "8 keep-alive clients that ask every 4 s only"),
        ):
            load.start()
            self._loads.append(load)
            self._screen.line("traffic", what)
        wait_until(lambda: self._traffic().requests >= 200, 20, "the traffic to be under way")
        time.sleep(LOOK_SECONDS)

    def _scale_out(self) -> None:
        self._heading("Scale-out from 3 to 7")
        for _ in range(4):
            member = self._fleet.start_server()
            self._put(f"{member.name} registered on {member.node}", member)
            time.sleep(LOOK_SECONDS / 2)

    def _failing_check(self) -> None:
        self._heading("A check fails, and recovers")
        member = self._fleet.members["web-2"]
        self._fleet.set_health(member.name, ok=False)
        self._put(f"{member.name} critical", evolve(member, status="critical"))
        time.sleep(LOOK_SECONDS)
        self._fleet.set_health(member.name, ok=True)
        self._put(f"{member.name} passing", member)
        time.sleep(LOOK_SECONDS)

    def _warning(self) -> None:
        self._heading("A warning: less traffic, by Weights.Warning")
        member = self._fleet.members["web-3"]
        self._put(f"{member.name} warning", evolve(member, status="warning"))
        time.sleep(LOOK_SECONDS)
        self._put(f"{member.name} passing", member)
        time.sleep(LOOK_SECONDS)

    def _service_maintenance(self) -> None:
        self._heading("Maintenance of an instance: drained")
        member = self._fleet.members["web-4"]
        self._put(f"{member.name} in maintenance", evolve(member, maintenance=True))
        time.sleep(LOOK_SECONDS)
        self._put(f"{member.name} out of maintenance", member)
        time.sleep(LOOK_SECONDS)

    def _node_maintenance(self) -> None:
        node = self._fleet.members["web-1"].node
        self._heading("Maintenance of a node: all on it drained")
        self._change(f"{node} in maintenance", lambda: self._fleet.maintain_node(node, on=True))
        time.sleep(LOOK_SECONDS)
        self._change(f"{node} out of maintenance", lambda: self._fleet.maintain_node(node, on=False))
        time.sleep(LOOK_SECONDS)

    def _weights(self) -> None:
        self._heading("Weights are edited")
        member = self._fleet.members["web-5"]
        for weight in (40, 5, 10):
            self._put(f"{member.name} weight {weight}", evolve(member, weights=(weight, 3)))
            time.sleep(LOOK_SECONDS)

    def _scale_in(self) -> None:
        self._heading("Scale-in from 7 to 4: deregistered, then stopped")
        for name in list(self._fleet.members)[-3:]:
            self._change(f"{name} deregistered", partial(self._fleet.remove, name))
            time.sleep(LOOK_SECONDS / 2)

    def _many_changes(self) -> None:
        self._heading(f"Random changes for {CHURN_SECONDS:.0f} s")
        end = time.monotonic() + CHURN_SECONDS
        while (begin := time.monotonic()) < end:
            change = self._churn.next_change()
            self._change(change.what, change.make, is_terse=True)
            time.sleep(max(0.0, begin + CHURN_PERIOD_SECONDS - time.monotonic()))
        for change in self._churn.healing():
            self._change(change.what, change.make, is_terse=True)
            time.sleep(CHURN_PERIOD_SECONDS)

    def _vanish(self) -> None:
        self._heading("All is deregistered by mistake: nothing is removed")
        before = _serving(self._haproxy.servers(BACKEND))
        self._fleet.vanish()
        self._screen.line("Consul", f"service {BACKEND} has no instance any more")
        time.sleep(LOOK_SECONDS * 2)
        after = _serving(self._haproxy.servers(BACKEND))
        assert after == before, f"of {before} only {after} serve"
        self._screen.line("HAProxy", f"{len(after)} servers of {len(before)} still serve")
        for member in self._fleet.members.values():
            self._fleet.put(member)
        self._screen.line("Consul", "all are registered again")
        wait_shown(self._haproxy, BACKEND, self._fleet.wanted())
        time.sleep(LOOK_SECONDS)

    def _run_out_of_slots(self) -> None:
        before = self._haproxy.servers(BACKEND)
        self._heading(f"{INSTANCES} instances, {len(before)} slots: the one reload")
        drained = next(iter(self._fleet.members.values()))
        self._put(f"{drained.name} in maintenance, and so it stays for now", evolve(drained, maintenance=True))
        self._replaced_too_early = bool(self._workers.replacements)
        old = self._haproxy.worker_pid()
        new = [self._fleet.start_server() for _ in range(INSTANCES - len(self._fleet.members))]
        self._screen.line("Consul", f"{len(new)} more registered: {new[0].name} to {new[-1].name}")
        begin = time.monotonic()
        for member in new:
            self._fleet.put(member)
        after = wait_shown(self._haproxy, BACKEND, self._fleet.wanted(), 30)
        ms = (time.monotonic() - begin) * 1000
        self._screen.line("HAProxy", f"reloaded: {len(before)} > {len(after)} slots, all {INSTANCES} there", ms)
        self._screen.line("HAProxy", f"worker {old} replaced by {self._haproxy.worker_pid()}")
        still = [name for name, server in after.items() if address(server) == drained.address]
        assert still, f"{drained.name}, which was draining, lost its slot"
        self._screen.line("HAProxy", f"{still[0]} still drains, in the new worker")
        for member in new[:3]:
            # They stop while the old worker, which never learns of it, still has clients.
            self._change(f"{member.name} deregistered", partial(self._fleet.remove, member.name))
        self._put(f"{drained.name} out of maintenance", drained)
        wait_until(lambda: not Path(f"/proc/{old}").exists(), 20, "the old worker to leave")
        self._screen.line("HAProxy", f"old worker {old} has left; its clients have moved on")
        time.sleep(LOOK_SECONDS)

    # The end

    def _sum_up(self) -> Summary:
        self._screen.heading("Summary")
        wait_shown(self._haproxy, BACKEND, self._fleet.wanted())
        status = self._status_in_step()
        traffic = self._traffic()
        return Summary(
            requests=traffic.requests,
            failed=traffic.failed,
            failures=traffic.failures,
            runtime_changes=status["agent"]["counters"]["changes"],
            reloads=self._stage.reloads(),
            replacements=self._workers.replacements,
            replaced_too_early=self._replaced_too_early,
            latencies_ms=self._latencies_ms,
            differences=self._stage.differences(BACKEND),
            out_of_sync="" if status["sync"]["verdict"] == "in_sync" else json.dumps(status["sync"]["reasons"]),
        )

    def _status_in_step(self) -> Mapping[str, Any]:
        """The last status, in sync unless that takes too long: the file follows after a second of quiet."""
        deadline = time.monotonic() + 15
        while True:
            status = self._stage.status()
            if status["sync"]["verdict"] == "in_sync" or time.monotonic() > deadline:
                return status
            time.sleep(0.3)

    # Changes

    def _put(self, what: str, member: Member) -> None:
        self._change(what, lambda: self._fleet.put(member))

    def _change(self, what: str, make: Callable[[], object], *, is_terse: bool = False) -> None:
        """Make one change and tell when HAProxy shows it: in two lines, or, tersely, in one."""
        self._stage.agent.check()
        before = self._haproxy.servers(BACKEND)
        if not is_terse:
            self._screen.line("Consul", what)
        begin = time.monotonic()
        make()
        after = wait_shown(self._haproxy, BACKEND, self._fleet.wanted())
        ms = (time.monotonic() - begin) * 1000
        self._latencies_ms.append(ms)
        shown = _changed(before, after)
        self._screen.line(*(("random", f"{what}: {shown}") if is_terse else ("HAProxy", shown)), ms)

    def _heading(self, title: str) -> None:
        traffic = self._traffic()
        self._screen.heading(title, f"{traffic.requests} requests, {traffic.failed} failed")

    def _traffic(self) -> LoadResult:
        return _joined([load.snapshot() for load in self._loads])


def _serving(servers: Mapping[str, ServerState]) -> list[str]:
    return [name for name, server in servers.items() if placed(server).state == "ready"]


def _changed(before: Mapping[str, ServerState], after: Mapping[str, ServerState]) -> str:
    """The servers that are not as they were, by how they are now."""
    names: dict[str, list[str]] = {}
    for name, server in after.items():
        old = before.get(name)
        how = placed(server)
        if old is None or address(old) != address(server) or not placed(old).looks_like(how):
            names.setdefault(str(how), []).append(name)
    return "; ".join(f"{', '.join(group)} {how}" for how, group in names.items())


def _joined(results: Sequence[LoadResult]) -> LoadResult:
    """The sum of what several loads saw; latencies are the first one's."""
    return evolve(
        results[0],
        requests=sum(result.requests for result in results),
        failed=sum(result.failed for result in results),
        failures=tuple(failure for result in results for failure in result.failures),
    )

"""The stories of the matrix: what happens, and what must be true on whatever HAProxy; each is played under load."""

import re
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

from attrs import evolve

from tests.demo.fleet import HOST, Fleet, Member
from tests.demo.stage import NO_GUARD, Stage
from tests.demo.watching import BETWEEN_WORKERS
from tests.harness.ports import free_ports
from tests.harness.processes import wait_until
from tests.matrix.affinity import (
    clients_stay_with_a_cookie,
    keys_stay_with_a_consistent_hash,
    stick_entries_end_with_their_server,
)
from tests.matrix.agents import agents_lead_the_servers_that_serve
from tests.matrix.backends import a_backend_is_new, services_appear_and_vanish
from tests.matrix.playing import SETTLED_SECONDS, Story, Told, must, story
from tests.matrix.transport import a_program_checks_the_servers, servers_are_told_by_proxy_lines, servers_speak_tls


def an_instance_comes(version: str) -> Told:
    with story(version) as it:
        for _ in range(3):
            it.fleet.add()
            it.settle()
        return it.end(0)


def an_instance_goes(version: str) -> Told:
    with story(version, instances=5, options=NO_GUARD) as it:
        for name in list(it.fleet.members)[:3]:
            it.fleet.remove(name)
            it.settle()
        return it.end(0)


def an_instance_drains(version: str) -> Told:
    with story(version) as it:
        first = next(iter(it.fleet.members.values()))
        it.fleet.put(evolve(first, maintenance=True))
        it.settle()
        time.sleep(0.5)
        it.fleet.put(first)
        it.settle()
        return it.end(0)


def a_weight_changes(version: str) -> Told:
    with story(version) as it:
        first = next(iter(it.fleet.members.values()))
        for weight in (1, 50, 256, 10):
            it.fleet.put(evolve(first, weights=(weight, 1)))
            it.settle()
        return it.end(0)


def an_instance_is_critical(version: str) -> Told:
    with story(version) as it:
        first = next(iter(it.fleet.members.values()))
        it.fleet.put(evolve(first, status="critical"))
        it.settle()
        it.fleet.put(first)
        it.settle()
        return it.end(0)


def more_come_than_there_are_slots(version: str) -> Told:
    with story(version, slots=3) as it:
        for _ in range(6):
            it.fleet.add()
        it.settle()
        live = 6 if it.adds_live else 0
        must(it.dynamic == live, f"{it.dynamic} were added live, not {live}")
        return it.end(0, f"{live} added live") if live else it.end(1, "1 reload grows the slots")


def a_service_vanishes(version: str) -> Told:
    with story(version) as it:
        before = {one.address for one in it.fleet.members.values()}
        it.fleet.vanish()
        wait_until(lambda: len(it.stage.status()["deferred"]) == len(before), 10, "its servers to be held")
        time.sleep(1)
        held = len(it.stage.status()["deferred"])
        for member in it.fleet.members.values():
            it.fleet.put(member)
        it.settle()
        return it.end(0, f"{held} deferred until it is back")


def a_vanished_service_is_released(version: str) -> Told:
    """Another backend than the load's, which must not notice."""
    with story(version, others={"api": 4}) as it, Fleet(it.stage, "api") as api:
        for _ in range(3):
            api.add()
        it.settle("api")
        with it.stage.load(path="/api/", clients=4, closing=1, rate=100) as load:
            api.vanish()
            wait_until(lambda: len(it.stage.status()["deferred"]) == 3, 10, "its servers to be held")
            enough = load.snapshot().requests + 100
            wait_until(lambda: load.snapshot().requests > enough, 10, "requests to the servers that are held")
            result = load.stop()
        must(not result.failed, f"the held servers lost {result.failed} of {result.requests}: {result.failures[:3]}")
        must(len(it.stage.status()["deferred"]) == 3, "not all are held any more")
        released = it.stage.hapsync("release", "api")
        must(released.returncode == 0, f"release ended with {released.returncode}: {released.stderr}")
        it.settle("api")  # which means that its servers are in maint
        it.settle()
        wait_until(lambda: not it.stage.status()["deferred"], 10, "nothing to be held")
        it.wait_requests(200)
        must(len(it.fleet.serving()) == 3, "the other backend lost a server")
        return it.end(0, "3 deferred, then released and taken out")


def a_reload_under_load(version: str) -> Told:
    with story(version) as it:
        template = it.stage.work / "haproxy.cfg.j2"
        for turn in range(3):
            template.write_text(re.sub(r"timeout client \d+s", f"timeout client {31 + turn}s", template.read_text()))
            it.stage.agent.signal(signal.SIGHUP)
            it.wait_reloads(turn + 1)
            it.settle()
        return it.end(3, "3 reloads asked for")


def hapsync_is_killed_in_a_reload(version: str) -> Told:
    with story(version, slots=2, instances=2, options='scaling = "slots"') as it:
        early, most = 0, 0
        for what, moment in MOMENTS_OF_A_RELOAD.items():
            begun, reloads, worker = moment(it.stage), it.reloads, it.stage.haproxy.worker_pid()
            for _ in range(len(it.stage.haproxy.servers("web")) + 1 - len(it.fleet.members)):
                it.fleet.add()
            wait_until(begun, 15, what, interval_seconds=0.0005)
            it.stage.kill_agent()
            early += _worker_that_answers(it.stage) in {None, worker}
            it.stage.start_agent()
            it.settle()
            wait_until(lambda: it.stage.hapsync("status").returncode == 0, 15, "status to say in sync")
            made = it.reloads - reloads
            must(1 <= made <= 2, f"killed when {what}: {made} reloads")
            most = max(most, made)
        must(early > 0, "it was never killed before the new worker answered")
        must(early < len(MOMENTS_OF_A_RELOAD), "it was never killed after the new worker answered")
        return it.end(
            None,
            f"killed {len(MOMENTS_OF_A_RELOAD)} times, {early} before the new worker answered; "
            f"{most} reload{'s' * (most > 1)} at most",
            same_worker=False,
        )


def _worker_that_answers(stage: Stage) -> int | None:
    """The worker that answers; None while nobody does."""
    try:
        return stage.haproxy.worker_pid()
    except BETWEEN_WORKERS:
        return None


def _file_in_place(stage: Stage) -> Callable[[], bool]:
    def servers() -> int:
        return stage.haproxy.config.read_text().count("\n    server ")

    before = servers()
    return lambda: servers() > before


def _reload_begun(stage: Stage) -> Callable[[], bool]:
    """HAProxy's master runs itself anew, with other arguments: the workers that are to leave."""
    arguments = Path(f"/proc/{stage.haproxy.process.pid}/cmdline")
    before = arguments.read_bytes()
    return lambda: arguments.read_bytes() != before


def _worker_started(stage: Stage) -> Callable[[], bool]:
    master = stage.haproxy.process.pid
    children = Path(f"/proc/{master}/task/{master}/children")
    before = set(children.read_text().split())
    return lambda: bool(set(children.read_text().split()) - before)


def _worker_answers(stage: Stage) -> Callable[[], bool]:
    before = stage.haproxy.worker_pid()
    return lambda: stage.haproxy.worker_pid() not in {None, before}


MOMENTS_OF_A_RELOAD: Mapping[str, Callable[[Stage], Callable[[], bool]]] = {
    "the file is in place": _file_in_place,
    "the reload has begun": _reload_begun,
    "the new worker is started": _worker_started,
    "the new worker answers": _worker_answers,
}
"""Where hapsync is killed: what a stage is to be asked from before the reload on, until it says yes."""


def a_dead_newcomer_is_checked_first(version: str) -> Told:
    """One that finds a free slot and one that does not; where nobody listens, no request is tried."""
    with story(version, slots=4, instances=3, options='start = "checked"') as it:
        dead = [Member(f"web-dead-{port}", "node-x", port) for port in free_ports(2)]
        for one in dead:
            it.fleet.put(one)
            wait_until(partial(_is_found_dead, it, one), SETTLED_SECONDS, f"HAProxy to check {one.address}")
            it.wait_requests(200)
            for each in dead[: dead.index(one) + 1]:
                tried = _tried(it, each)
                must(tried == 0, f"{tried} requests were tried at {each.address}, where nobody listens")
        it.stage.origins.open(HOST, dead[1].port)
        wait_until(lambda: _tried(it, dead[1]) > 0, SETTLED_SECONDS, "requests at the newcomer that lives at last")
        must(_tried(it, dead[0]) == 0, "requests were tried at the one that is dead still")
        return it.end(0 if it.adds_live else 1, "0 tried at 2 dead newcomers, until one of them lived")


def _is_found_dead(it: Story, member: Member) -> bool:
    stat = it.stage.haproxy.stat("web")[it.server_of(member)]
    return stat["check_status"] == "L4CON" and stat["status"].startswith("DOWN")


def _tried(it: Story, member: Member) -> int:
    """How often HAProxy sent a request there, or meant to, since its worker started."""
    stat = it.stage.haproxy.stat("web")[it.server_of(member)]
    return sum(int(stat[column] or 0) for column in ("lbtot", "stot", "econ", "eresp", "wretr", "wredis"))


def a_thousand_come_and_go(version: str) -> Told:
    rounds, many = 50, 20
    with story(version, slots=2, instances=2, options=f'scaling = "dynamic"\n{NO_GUARD}') as it:
        for _ in range(rounds):
            members = [it.fleet.add() for _ in range(many)]
            it.settle()
            for member in members:
                it.fleet.remove(member.name)
            it.settle()
        return it.end(0, f"{rounds * many} in, {rounds * many} out")


def requests_are_as_fast_while_servers_come_and_go(version: str) -> Told:
    turns, seconds, many = 6, 4.0, 6
    with story(version, slots=12, instances=4, options=NO_GUARD) as it:
        changes = 0

        def rest() -> None:
            time.sleep(seconds)

        def churn() -> None:
            nonlocal changes
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                members = [it.fleet.add() for _ in range(many)]
                it.settle()
                for member in members:
                    it.fleet.remove(member.name)
                it.settle()
                changes += 2 * many

        calm: list[float] = []
        churned: list[float] = []
        both = [(calm, rest), (churned, churn)]
        for _ in range(turns):
            for found, do in both:
                found.append(_p99_ms(it.stage, do))
            both.reverse()  # so that neither has the place after the other for itself
        ratio = median(churned) / median(calm)
        return it.end(
            None,
            f"99th percentile {median(churned):.2f} ms under {changes} changes, {median(calm):.2f} ms without: "
            f"ratio {ratio:.2f}",
        )


def _p99_ms(stage: Stage, do: Callable[[], None]) -> float:
    """The 99th percentile of the latency of requests while `do` is done."""
    with stage.load(clients=12, closing=4, rate=300) as load:
        do()
        result = load.stop()
    must(not result.failed, f"lost {result.failed} of {result.requests}: {result.failures[:3]}")
    return result.p99_ms


STORIES: Mapping[str, Callable[[str], Told]] = {
    "add": an_instance_comes,
    "remove": an_instance_goes,
    "drain": an_instance_drains,
    "weight": a_weight_changes,
    "disable": an_instance_is_critical,
    "grow": more_come_than_there_are_slots,
    "new backend": a_backend_is_new,
    "discovered": services_appear_and_vanish,
    "vanished": a_service_vanishes,
    "released": a_vanished_service_is_released,
    "checked": a_dead_newcomer_is_checked_first,
    "reload": a_reload_under_load,
    "killed in reload": hapsync_is_killed_in_a_reload,
    "hash": keys_stay_with_a_consistent_hash,
    "cookie": clients_stay_with_a_cookie,
    "stick table": stick_entries_end_with_their_server,
    "TLS": servers_speak_tls,
    "PROXY": servers_are_told_by_proxy_lines,
    "external check": a_program_checks_the_servers,
    "agent check": agents_lead_the_servers_that_serve,
}
"""What every version is put through, by the column's name."""
LONG_STORIES: Mapping[str, Callable[[str], Told]] = {
    "churn": a_thousand_come_and_go,
    "latency": requests_are_as_fast_while_servers_come_and_go,
}
"""Played only where they are asked for; the first only where servers can be added."""

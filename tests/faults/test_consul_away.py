"""Consul goes away, all of it or a part, and comes back, with its data or without: HAProxy serves what it had."""

import contextlib
import http.client
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from hapsync.agent.report_file import SNAPSHOT_FILE
from tests.demo.fleet import HOST, Fleet, Member
from tests.demo.stage import Stage
from tests.faults.helpers import (
    IMPATIENT,
    INSTANCES,
    OFTEN,
    QUICK_CHECKS,
    Believer,
    Scene,
    figure,
    scene,
    seconds_since,
    under_load,
)
from tests.harness.cluster import Cluster
from tests.harness.consul import Agent, Consul, ConsulError
from tests.harness.looks import Looks
from tests.harness.ports import free_ports
from tests.harness.processes import wait_until
from tests.harness.tools import consul_path, consul_version

AWAY = "Consul does not answer"
NO_LEADER = "Consul's servers have no leader"
STALE = "Consul's answer is too old"
SNAPSHOT = "Consul has not answered since the start"
FALLBACK = "Consul has not answered and there is no snapshot"
GONE = "the whole service is gone from Consul"
BACKWARDS = "went back to an older state"
QUORUM_LOST_SECONDS = 15.0
HALF_OPEN_SECONDS = 15.0
PROMISED_SECONDS = 3.0
"""A change made as soon as Consul is back is in HAProxy so long after the local agent gives it."""


@contextmanager
def clustered(
    work: Path, consul_options: str = "", client_config: Mapping[str, object] | None = None
) -> Iterator[tuple[Scene, Cluster]]:
    """A scene beside the client agent of a cluster with three servers."""
    with (
        Cluster(work, client_config=client_config) as cluster,
        scene(consul=cluster.client, consul_options=consul_options) as web,
    ):
        yield web, cluster


def put_when_possible(web: Scene, member: Member) -> None:
    """Have Consul hold `member`, as soon as its servers take anything."""

    def put() -> bool:
        web.fleet.put(member)
        return True

    wait_until(put, 60, "Consul to take a change")


# -- one agent ------------------------------------------------------------------------------------------------


def test_an_agent_that_comes_back_with_nothing_takes_nothing_away_while_it_fills_up_again(work: Path) -> None:
    with Consul(work) as consul, scene(consul=consul) as web, Believer(web) as believer:
        members = list(web.fleet.members.values())
        with web.unchanged():
            consul.kill()
            web.wait_for_doubt(AWAY)
            time.sleep(20)
            assert web.stage.status()["catalog"]["age_seconds"] >= 20
            consul.start()
            web.wait_for_held(GONE)
            for one in members:
                assert web.backend()["refilling"]
                web.fleet.put(one)
                time.sleep(1)
        lost = believer.end()

        wait_until(lambda: not web.backend()["refilling"], 20, "the end of the refill")
        assert BACKWARDS in web.log
        web.follows()
        web.fleet.remove(members[0].name)
        web.wait_equal()
        result = web.end()
        figure(
            f"Consul killed for 20 s, back empty, its services registered anew one a second: 0 of {result.requests} "
            f"requests lost, the naive follower {lost.failed} of {lost.requests}"
        )


def test_a_consul_that_lost_its_state_while_hapsync_was_down_takes_nothing_away_though_some_are_back(
    work: Path,
) -> None:
    with Consul(work) as consul, scene(consul=consul) as web:
        members = list(web.fleet.members.values())
        for _ in range(10):  # so that the new index is the lower one, whatever else the new agent writes
            for one in members:
                web.fleet.put(evolve(one, weights=(7, 3)))
                web.fleet.put(one)
        web.wait_equal()
        wait_until(lambda: web.stage.status()["sync"]["verdict"] == "in_sync", 20, "the snapshot")
        with web.unchanged():
            web.stage.kill_agent()
            consul.kill()
            consul.start()
            for one in members[: len(members) // 2]:
                web.fleet.put(one)
            web.stage.start_agent()
            wait_until(lambda: web.backend()["refilling"], 20, "the loss to be noticed")
            time.sleep(5)
            for one in members[len(members) // 2 :]:
                web.fleet.put(one)
            wait_until(lambda: not web.backend()["refilling"], 20, "the end of the refill")
        assert BACKWARDS in web.log
        web.follows()
        result = web.end()
        figure(
            f"Consul lost its state while hapsync was down, half of the instances were back before it started: 0 of "
            f"{result.requests} requests lost"
        )


# -- a cluster ------------------------------------------------------------------------------------------------


def test_a_leader_killed_while_the_catalog_changes_costs_no_request(work: Path) -> None:
    with clustered(work) as (web, cluster):
        leader = cluster.leader()
        assert leader is not None
        made = 0
        for number in range(40):
            member = list(web.fleet.members.values())[number % INSTANCES]
            with contextlib.suppress(ConsulError):  # while there is no leader
                web.fleet.put(evolve(member, weights=(number + 1, 3)))
                made += 1
            if number == 10:
                cluster.kill_server(leader)
            time.sleep(0.1)
        cluster.wait_for_leader()
        began = time.monotonic()
        web.follows()
        took = seconds_since(began)

        assert web.eyes.fewest == INSTANCES
        result = web.end()
        figure(
            f"leader killed under changes, {made} of 40 taken: 0 of {result.requests} requests lost, "
            f"a change after the election in HAProxy and checked {took:.1f} s later"
        )


def test_servers_without_a_majority_take_nothing_away(work: Path) -> None:
    with clustered(work) as (web, cluster):
        leader = cluster.leader()
        assert leader is not None
        dead = [leader, next(number for number in cluster.servers if number != leader)]
        began = time.monotonic()
        with web.unchanged():
            for number in dead:
                cluster.kill_server(number)
            # A query that blocks at the server that is left goes on there: only a new one shows what happened.
            cluster.client.restart()
            wait_until(lambda: web.backend()["doubt"] in {NO_LEADER, AWAY}, 30, "status", interval_seconds=0.2)
            with pytest.raises(ConsulError):
                web.fleet.put(next(iter(web.fleet.members.values())))
            time.sleep(max(0.0, QUORUM_LOST_SECONDS - seconds_since(began)))
        web.put_stray()
        wait_until(lambda: web.deferred() and web.deferred() <= {NO_LEADER, AWAY}, 10, "the stray to be held")
        with web.unchanged():
            time.sleep(3)
        took = seconds_since(began)
        for number in dead:
            cluster.start_server(number)
        cluster.wait_for_leader()
        web.follows(30)
        web.wait_for_doubt(None)
        result = web.end()
        figure(f"two of three servers dead for {took:.0f} s: 0 of {result.requests} requests lost")


@pytest.mark.timeout(240)
def test_a_change_made_right_after_the_servers_return_is_in_haproxy_soon_after_the_agent_gives_it(work: Path) -> None:
    late = {}
    with clustered(work) as (web, cluster):
        for away_seconds in (2, 8, 20):
            with web.unchanged():
                cluster.kill_all_servers()
                web.wait_for_doubt(AWAY)
                time.sleep(away_seconds)
                assert web.stage.status()["catalog"]["age_seconds"] >= away_seconds
            late[away_seconds] = _change_at_once(web, cluster)
            web.wait_equal()
            web.wait_for_doubt(None)
        result = web.end()
    figure(
        "all servers killed and back with their data, a change made at once: seconds from the local agent's word "
        f"to HAProxy, by seconds away: {', '.join(f'{away}: {late[away]:.2f}' for away in late)}; "
        f"0 of {result.requests} requests lost"
    )
    assert max(late.values()) <= PROMISED_SECONDS


def _change_at_once(web: Scene, cluster: Cluster) -> float:
    """Start the servers and make a change as soon as they take one.

    Returns how many seconds after the client agent gave it HAProxy had it; below 0 when HAProxy was first.
    """
    member = web.fleet.start_server()
    with Given(cluster.client, member) as given:
        cluster.start_all_servers()
        put_when_possible(web, member)
        wait_until(lambda: _has(web, member), 60, "the change")
        shown = time.monotonic()
        wait_until(lambda: given.at is not None, 10, "the agent to give it")
        assert given.at is not None
        return shown - given.at


def _has(web: Scene, member: Member) -> bool:
    return any(one.port == member.port and one.running for one in web.stage.haproxy.servers("web").values())


class Given(Looks):
    """Asks an agent, with `?stale`, every 20 ms whether it gives a member yet; `at` is when it first did."""

    def __init__(self, agent: Agent, member: Member) -> None:
        super().__init__()
        self.at: float | None = None
        self._agent, self._member = agent, member

    def note(self) -> None:
        with contextlib.suppress(ConsulError, OSError, http.client.HTTPException):
            entries = self._agent.request("GET", "/v1/health/service/web?stale")
            if self.at is None and any(entry["Service"]["ID"] == self._member.name for entry in entries):
                self.at = time.monotonic()


def test_servers_that_lost_everything_take_nothing_away_while_they_fill_up_again(work: Path) -> None:
    with clustered(work) as (web, cluster):
        members = list(web.fleet.members.values())
        with web.unchanged():
            cluster.wipe_all_servers()
            web.wait_for_doubt(AWAY)
            cluster.start_all_servers()
            web.wait_for_held(GONE, seconds=60)
            for one in members:
                put_when_possible(web, one)
                time.sleep(1)
        wait_until(lambda: not web.backend()["refilling"], 20, "the end of the refill")
        assert BACKWARDS in web.log
        web.follows()
        web.fleet.remove(members[0].name)
        web.wait_equal()
        result = web.end()
        figure(f"all servers back without their data: 0 of {result.requests} requests lost")


def test_an_agent_that_stands_still_takes_nothing_away(work: Path) -> None:
    with clustered(work, IMPATIENT) as (web, cluster):
        with web.unchanged():
            cluster.client.pause()
            web.wait_for_doubt(AWAY)
            web_age = web.stage.status()["catalog"]["age_seconds"]
            time.sleep(HALF_OPEN_SECONDS)
            assert web.stage.status()["catalog"]["age_seconds"] >= web_age + HALF_OPEN_SECONDS
        web.put_stray()
        web.wait_for_held(AWAY)
        cluster.client.resume()
        began = time.monotonic()
        web.follows(30)
        took = seconds_since(began)
        result = web.end()
        figure(
            f"client agent stopped for {HALF_OPEN_SECONDS:.0f} s (half open): 0 of {result.requests} requests lost, "
            f"a change after it in HAProxy after {took:.1f} s"
        )


def test_an_agent_that_restarts_takes_nothing_away(work: Path) -> None:
    with clustered(work) as (web, cluster):
        with web.unchanged():
            for end in (Agent.stop, Agent.kill):
                end(cluster.client)
                web.wait_for_doubt(AWAY)
                cluster.client.start()
                web.wait_for_doubt(None)
                time.sleep(2)
        web.follows()
        result = web.end()
        figure(f"client agent restarted twice: 0 of {result.requests} requests lost")


@pytest.mark.timeout(240)
def test_an_answer_out_of_a_cache_that_lost_its_servers_is_no_evidence_for_a_removal(work: Path) -> None:
    # A view that streams has no age; older Consuls refuse the key.
    has_view = consul_version(consul_path()) >= (1, 10)
    config = {"use_streaming_backend": False} if has_view else {}
    with clustered(work, client_config=config) as (web, cluster):
        for server in cluster.servers.values():
            server.pause()
        web.wait_for_doubt(AWAY, 60)
        age = wait_until(lambda: _cached_age(cluster.client) > 31 and _cached_age(cluster.client), 90, "an old cache")
        web.put_stray()
        wait_until(lambda: web.deferred() and web.deferred() <= {AWAY, STALE}, 20, "the stray to be held")
        with web.unchanged():
            time.sleep(5)

        for server in cluster.servers.values():
            server.resume()
        cluster.wait_for_leader()
        web.wait_for_doubt(None, 60)
        web.follows(30)
        result = web.end()
        figure(
            f"servers stopped until the agent's cache was {age} s old: 0 of {result.requests} requests lost, "
            "a server that Consul does not know was kept meanwhile"
        )


def _cached_age(agent: Agent) -> int:
    connection = http.client.HTTPConnection(agent.host, agent.port, timeout=10)
    try:
        connection.request("GET", "/v1/health/service/web?cached")
        response = connection.getresponse()
        response.read()
        return int(response.headers["Age"])
    finally:
        connection.close()


# -- a start without Consul -----------------------------------------------------------------------------------


@contextmanager
def stopped_stage(backend_options: str = "") -> Iterator[tuple[Stage, Fleet, str]]:
    """A stage with four servers, its agent and Consul ended; and HAProxy's first file, which has none."""
    with (
        Stage({"web": 8}, server_options=QUICK_CHECKS, agent_options=OFTEN, backend_options=backend_options) as stage,
        Fleet(stage) as fleet,
    ):
        empty = stage.haproxy.config.read_text(encoding="utf-8")
        for _ in range(4):
            fleet.add()
        stage.wait_equal()
        wait_until(lambda: stage.status()["backends"]["web"]["capacity"] == 4, 15, "the first checks")
        stage.stop_agent()
        stage.consul.kill()
        yield stage, fleet, empty


def start_haproxy_with(stage: Stage, text: str) -> None:
    stage.haproxy.kill()
    stage.haproxy.config.write_text(text, encoding="utf-8")
    stage.haproxy.start()


def ports_up(stage: Stage) -> set[int]:
    return {one.port for one in stage.haproxy.servers("web").values() if one.running and not one.in_maintenance}


def ports_of(fleet: Fleet) -> set[int]:
    return {one.port for one in fleet.members.values()}


def come_back(web: Scene) -> None:
    """Consul returns with nothing, and its services are registered anew, one by one."""
    web.stage.consul.start()
    for one in list(web.fleet.members.values()):
        time.sleep(0.5)
        web.fleet.put(one)
    web.wait_for_doubt(None)
    web.follows(30)


@pytest.mark.quick
def test_a_start_without_consul_brings_back_the_servers_of_the_snapshot() -> None:
    with stopped_stage() as (stage, fleet, empty):
        start_haproxy_with(stage, empty)
        assert ports_up(stage) == set()

        began = time.monotonic()
        stage.start_agent()
        wait_until(lambda: ports_up(stage) == ports_of(fleet), 20, "the servers")
        took = seconds_since(began)

        with under_load(stage, fleet, 4) as web:
            with web.unchanged():
                web.wait_for_doubt(SNAPSHOT)
            web.put_stray()
            web.wait_for_held(SNAPSHOT)
            web.eyes.forget()
            come_back(web)
            # Where the first answer has some of them already, the guard alone tells what may go: half of five.
            assert web.eyes.fewest >= 3
            result = web.end()
        figure(
            f"start without Consul, HAProxy without servers: those of the snapshot after {took:.1f} s; "
            f"0 of {result.requests} requests lost until Consul was back"
        )


def test_a_damaged_snapshot_is_refused_and_haproxy_stays_as_it_is() -> None:
    with stopped_stage() as (stage, fleet, _):
        snapshot = stage.work / "state" / SNAPSHOT_FILE
        text = snapshot.read_text(encoding="utf-8")
        port = min(ports_of(fleet))
        assert str(port) in text
        snapshot.write_text(text.replace(str(port), str(port + 1)), encoding="utf-8")
        stage.start_agent()

        with under_load(stage, fleet, 4) as web:
            assert "is damaged; not used" in web.log
            with web.unchanged():
                time.sleep(5)
                told = web.stage.status()
            assert told["sync"]["verdict"] == "cannot_tell"
            assert not told["backends"]["web"]["known"]
            come_back(web)
            result = web.end()
        figure(f"start without Consul, snapshot damaged: HAProxy as it was, 0 of {result.requests} requests lost")


def test_a_start_without_consul_and_without_a_snapshot_serves_from_the_fallback_list() -> None:
    fallback = free_ports(2)
    options = f"fallback = {json.dumps([f'{HOST}:{port}' for port in fallback])}"
    with stopped_stage(options) as (stage, fleet, empty):
        for port in fallback:
            stage.origins.open(HOST, port)
        shutil.rmtree(stage.work / "state")
        start_haproxy_with(stage, empty)

        began = time.monotonic()
        stage.start_agent()
        wait_until(lambda: ports_up(stage) == set(fallback), 20, "the fallback list")
        took = seconds_since(began)

        with under_load(stage, fleet, 2) as web:
            with web.unchanged():
                web.wait_for_doubt(FALLBACK)
                time.sleep(2)
            come_back(web)
            assert ports_up(stage) == ports_of(fleet)
            result = web.end()
        figure(
            f"start without Consul and snapshot: the fallback list serves after {took:.1f} s; "
            f"0 of {result.requests} requests lost until Consul was back"
        )


def test_a_start_with_nothing_to_go_by_leaves_haproxy_as_it_is() -> None:
    with stopped_stage() as (stage, fleet, _):
        shutil.rmtree(stage.work / "state")
        file = stage.haproxy.config.read_text(encoding="utf-8")
        stage.start_agent()

        with under_load(stage, fleet, 4) as web:
            with web.unchanged():
                time.sleep(5)
                told = web.stage.status()
            assert told["sync"]["verdict"] == "cannot_tell"
            assert stage.haproxy.config.read_text(encoding="utf-8") == file
            come_back(web)
            result = web.end()
        figure(f"start without Consul, snapshot and fallback: as it was, 0 of {result.requests} requests lost")

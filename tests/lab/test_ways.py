"""Every way does what it says, in a cell that is played for real."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from attrs import frozen
from pyroute2 import netns

from tests.harness.processes import wait_until
from tests.harness.tools import ROOT
from tests.lab.__main__ import cell_of, play_there
from tests.lab.account import Account
from tests.lab.cell import Measured, Order
from tests.lab.certificate import make_certificate
from tests.lab.client import Traffic
from tests.lab.events import INSTANCES
from tests.lab.fleet import Fleet
from tests.lab.network import Network, open_network
from tests.lab.programs import SpacedCluster, SpacedOrigins
from tests.lab.report import Run
from tests.lab.watching import Watch
from tests.lab.ways import WAYS, HapsyncDynamic, Place, Restart, UnavailableError, Way, WayError
from tests.lab.ways.dataplane import FastDataPlane
from tests.lab.ways.plug import HOLD_SECONDS, held

INTERVAL_SECONDS = 1.0
RUN = Run("", "", "", "", INTERVAL_SECONDS, dict.fromkeys(WAYS, ""), {})


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with open_network() as made:
        yield made


def played(network: Network, way: str, traffic: Traffic, event: str) -> tuple[Measured, Account]:
    order = Order(way, (traffic,), event, INTERVAL_SECONDS, WAYS[way].program(), network)
    cell = cell_of(way, event, RUN, play_there(order))
    assert cell.measured is not None, cell.error
    one = cell.measured
    account = one.accounts[traffic]
    assert sum(account.kinds.values()) == account.requests > 200
    assert (one.live.missed, one.gone.missed) == (0, 0)
    return one, account


@frozen
class Stage:
    """A way that is at work, on ten instances."""

    way: Way
    fleet: Fleet
    watch: Watch


@contextmanager
def at_work(network: Network, name: str, program: str) -> Iterator[Stage]:
    """The way, with this test on the lab's own machine in the network."""
    work = Path(tempfile.mkdtemp(prefix="", dir=network.folder))
    with ExitStack() as stack:
        netns.pushns(network.control.name)
        stack.callback(netns.popns)
        cluster = stack.enter_context(SpacedCluster(network.consul, network.agent, work, 1))
        origins = stack.enter_context(SpacedOrigins(network.servers, work))
        fleet = stack.enter_context(Fleet(cluster.entry(), origins, network.servers.addresses, INTERVAL_SECONDS))
        fleet.add(INSTANCES)
        make_certificate(work, network.balancer.address)
        way = WAYS[name](Place(network.balancer, work, cluster.client, INTERVAL_SECONDS, program))
        way.prepare()
        stack.callback(way.stop)
        way.start()
        watch = stack.enter_context(Watch(way.haproxy, way.backend))
        watch.wait_serving(INSTANCES, 30)
        fleet.watched_by(watch)
        yield Stage(way, fleet, watch)


def program_of(name: str) -> str | None:
    """The HAProxy that the way needs; None where the way is not to be had on this machine, which it says why."""
    try:
        return WAYS[name].program()
    except UnavailableError as error:
        reason = str(error)
    assert reason.partition(": ")[2]
    return None


def programs(pids: frozenset[int]) -> set[str]:
    found = set()
    for pid in pids:
        with suppress(FileNotFoundError):  # it has ended meanwhile
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
    return found


@pytest.mark.timeout(900)  # a tool may have to be built first
@pytest.mark.parametrize("name", WAYS)
def test_a_way_names_its_tools_and_goes_on_once_haproxy_was_killed_and_started_again(
    network: Network, name: str
) -> None:
    if not (program := program_of(name)):
        return
    with at_work(network, name, program) as stage:
        way = stage.way
        before = way.workers()
        tools = way.tools()
        assert bool(programs(tools)) == (not name.startswith("dns"))
        assert not tools & before

        way.haproxy.kill()
        way.revive()
        stage.watch.wait_serving(INSTANCES, 30)
        assert way.workers()
        assert not way.workers() & before

        stage.fleet.add()
        stage.fleet.leave(stage.fleet.members[0])
        assert stage.fleet.settle()
        assert bool(programs(way.tools())) == (not name.startswith("dns"))


def test_dns_answers_hold_a_hundred_instances_so_that_none_comes_and_goes(network: Network) -> None:
    name = "dns srv, 100 ms"
    with at_work(network, name, WAYS[name].program()) as stage:
        stage.fleet.add(len(network.servers.addresses) - INSTANCES)
        assert stage.fleet.settle()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert len(stage.watch.serving or ()) == len(stage.fleet.members)
            time.sleep(0.02)


@pytest.mark.parametrize("name", ["dns srv, 100 ms", "consul-template"])
def test_a_way_that_follows_each_change_loses_no_request_of_a_deploy(network: Network, name: str) -> None:
    if not program_of(name):
        return
    one, account = played(network, name, "new", "deploy")

    assert account.kinds["answered"] == account.requests
    assert (one.costs.workers_replaced > 0) == (name == "consul-template")


def test_the_data_plane_api_follows_by_its_own_clock_with_a_reload_for_what_came_meanwhile(network: Network) -> None:
    name = "data plane api"
    if not program_of(name):
        return
    one, account = played(network, name, "new", "scale")

    assert account.kinds["refused"] == account.kinds["reset"] == account.kinds["cut"] == 0
    assert len(one.live.seconds) == len(one.gone.seconds) == 90
    assert (
        max((*one.live.seconds, *one.gone.seconds)) < FastDataPlane.retry_seconds + FastDataPlane.reload_seconds + 3
    )
    # All that it finds at once is one reload; what it finds in two polls is two at most.
    assert 2 <= one.costs.workers_replaced <= 4
    assert one.asked.requests >= 2 * (one.seconds - 2) / FastDataPlane.retry_seconds


def test_the_data_plane_api_leaves_critical_instances_out_and_takes_them_back(network: Network) -> None:
    """Into as many slots as its default is, which all instances together fill."""
    name = "data plane api, 10 s"
    if not (program := program_of(name)):
        return
    with at_work(network, name, program) as stage:
        host = stage.fleet.members[0]
        stage.fleet.fail(host)
        assert stage.fleet.settle()
        serving = stage.watch.serving
        assert serving is not None
        assert len(serving) == INSTANCES - 1
        assert host not in {address.partition(":")[0] for address in serving}

        stage.fleet.recover(host)
        assert stage.fleet.settle()


def test_connections_begun_while_syns_are_held_are_made_once_they_are_let_go(network: Network) -> None:
    """And those that are there go on. They are let go as well when whoever holds them is killed."""
    name = "reload, SYNs held"
    if not (program := program_of(name)):
        return
    connect = "import socket, sys; socket.create_connection((sys.argv[1], 80), 2)"
    asked = network.clients.command(sys.executable, "-c", connect, network.balancer.address)

    def answers() -> bool:
        return not subprocess.run(asked, check=False, capture_output=True).returncode

    with at_work(network, name, program):
        assert answers()
        with held(network.balancer):
            assert not answers()
        assert answers()

        code = (
            "import sys, time; from tests.lab.network import Space; from tests.lab.ways.plug import held\n"
            "with held(Space(sys.argv[1], ())): print('held', flush=True); time.sleep(60)"
        )
        command = (sys.executable, "-c", code, network.balancer.name)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline()
            assert not answers()
            holder.kill()
            wait_until(answers, HOLD_SECONDS / 2, "what it held to be let go")


@pytest.mark.parametrize("way", ["restart", "reload, no hand-over", "seamless reload"])
def test_what_goes_by_the_clock_replaces_workers_and_follows_when_it_is_time(network: Network, way: str) -> None:
    one, account = played(network, way, "new", "scale")

    assert one.costs.workers_replaced >= 3
    assert one.costs.workers_end <= 2  # none in the middle of a restart, two in that of a reload
    assert len(one.live.seconds) == len(one.gone.seconds) == 90
    assert max((*one.live.seconds, *one.gone.seconds)) < INTERVAL_SECONDS + 2
    assert account.late > 0
    assert (account.kinds["refused"] > 0) == (way == "restart")


def test_a_haproxy_that_is_killed_is_started_again_with_the_servers_of_hapsyncs_file(network: Network) -> None:
    one, account = played(network, "hapsync, slots", "new", "haproxy killed")

    assert one.outage is not None
    assert one.outage.is_right_at_once
    assert one.outage.right_seconds is not None
    assert 0.1 < one.outage.answers_seconds < 3
    assert one.costs.workers_replaced == 1
    assert account.kinds["refused"] > 0


def test_hapsync_follows_a_new_leader_of_consul_and_what_it_asks_is_counted(network: Network) -> None:
    one, account = played(network, "hapsync, dynamic", "new", "leader lost")

    assert account.kinds["answered"] == account.requests
    assert len(one.live.seconds) == len(one.gone.seconds) == 5
    assert 5 <= one.asked.requests < 100
    assert one.asked.bytes > 10_000
    assert 0 < one.costs.tool_cpu_seconds < one.seconds


def test_a_way_that_stopped_doing_its_work_is_a_cell_that_went_wrong(network: Network) -> None:
    """Its HAProxy refuses every configuration but the first."""
    program = network.folder / "haproxy-that-refuses"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && [ -e {program}.once ] && exit 1\n: >{program}.once\n'
        f'exec {Restart.program()} "$@"\n'
    )
    program.chmod(0o755)
    order = Order("seamless reload", ("new",), "steady", 1.0, str(program), network)

    assert "WayError: seamless reload" in str(play_there(order)["error"])


def test_a_way_whose_tool_had_ended_went_wrong(network: Network) -> None:
    name = "hapsync, slots"
    with at_work(network, name, WAYS[name].program()) as stage:
        for pid in stage.way.tools():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not stage.way.tools(), 5, "the agent to end")
        with pytest.raises(WayError, match="hapsync, slots: hapsync had ended"):
            stage.way.stop()


def test_a_way_whose_haproxy_cannot_be_fetched_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/there-is-no-room-here")

    with pytest.raises(UnavailableError, match=r"no HAProxy 3\.0: .+"):
        HapsyncDynamic.program()

"""Consul answers, and not with the truth: nothing is taken away for it, and what is true is followed afterwards."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from attrs import evolve

from tests.faults.helpers import IMPATIENT, INSTANCES, Believer, Scene, figure, scene, seconds_since
from tests.harness.chaos import HEALTH, Chaos, http_answer
from tests.harness.consul import AclConsul, Consul, acl_consul
from tests.harness.processes import wait_until
from tests.harness.tools import consul_path, consul_version

AWAY = "Consul does not answer"
NO_LEADER = "Consul's servers have no leader"
FILTERED = "the token may not read all of it"
UNCONFIRMED = "a second read of Consul did not confirm the answer"
GONE = "the whole service is gone from Consul"
MAX_LOSS = "more than max_loss_fraction would be lost within the window"
LIE_SECONDS = 8.0
SAYS_FILTERED = (1, 11)
"""From this Consul on an answer says that the token may not read all of it."""
READ_ALL = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'


@contextmanager
def scene_behind_chaos(work: Path) -> Iterator[tuple[Scene, Chaos]]:
    with (
        Consul(work) as consul,
        Chaos(work, consul.host, consul.port) as chaos,
        scene(consul=consul, url=chaos.url, consul_options=IMPATIENT) as web,
    ):
        yield web, chaos


# -- no whole answer ------------------------------------------------------------------------------------------

NO_ANSWERS: dict[str, Callable[[Chaos], None]] = {
    "refused connections": Chaos.refuse,
    "resets": Chaos.reset_new,
    "connections that are half open": Chaos.half_open,
    "an agent that stands still": Chaos.stall,
    "too many requests": lambda chaos: chaos.answer(
        http_answer(429, "Your IP is issuing too many concurrent connections")
    ),
    "errors of the servers": lambda chaos: chaos.answer(http_answer(500, "No cluster leader")),
    "refusals of the token": lambda chaos: chaos.answer(http_answer(403, "ACL not found")),
    "a page of something else": lambda chaos: chaos.answer(
        http_answer(200, "<html>[]</html>", {"X-Consul-Index": "9", "X-Consul-KnownLeader": "true"})
    ),
    "an empty list that has no index": lambda chaos: chaos.answer(http_answer(200, "[]")),
    "bytes that are no HTTP": lambda chaos: chaos.answer(b"\x00\xff\x00garbage\r\n\r\n[]"),
    "half a list": lambda chaos: chaos.cut_after(1500),
    "a list that is reset in the middle": lambda chaos: chaos.cut_after(1500, is_reset=True),
    "an answer that drips": lambda chaos: chaos.slow(400.0),
}


@pytest.mark.parametrize("begin", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_whatever_comes_in_place_of_a_whole_answer_takes_nothing_away(
    work: Path, begin: Callable[[Chaos], None], request: pytest.FixtureRequest
) -> None:
    with scene_behind_chaos(work) as (web, chaos):
        begin(chaos)
        chaos.reset_all()
        web.wait_for_doubt(AWAY)
        stray = web.put_stray()
        web.wait_for_held(AWAY)

        with web.unchanged():
            time.sleep(LIE_SECONDS)
            status = web.stage.status()

        assert status["catalog"]["age_seconds"] >= LIE_SECONDS
        assert status["agent"]["services"]["web"]["error"]
        chaos.pass_through()
        chaos.reset_all()
        began = time.monotonic()
        member = web.follows()
        took = seconds_since(began)
        assert web.stage.haproxy.servers("web")[stray].port in {1, member.port} or (
            web.stage.haproxy.servers("web")[stray].in_maintenance
        )
        result = web.end()
        figure(
            f"{request.node.callspec.id} for {LIE_SECONDS:.0f} s: 0 of {result.requests} requests lost, "
            f"in sync {took:.1f} s after it ended"
        )


def test_an_agent_without_a_free_connection_takes_nothing_away(work: Path) -> None:
    limit = 16
    with (
        Consul(work, config={"limits": {"http_max_conns_per_client": limit}}) as consul,
        Chaos(work, consul.host, consul.port) as chaos,
        scene(consul=consul, url=chaos.url, consul_options=IMPATIENT) as web,
    ):
        with hogging(consul, 2 * limit) as deferred:
            consul.hang_up()
            chaos.refuse()  # the agent comes when all places are taken: it is never the first at a free one
            wait_until(lambda: len(deferred) == limit, 20, "the others")
            chaos.pass_through()
            web.wait_for_doubt(AWAY)
            web.put_stray()
            with web.unchanged():
                time.sleep(LIE_SECONDS)
            assert web.deferred() == {AWAY}
        web.follows()
        result = web.end()
        figure(
            f"all {limit} connections of the agent taken by others for {LIE_SECONDS:.0f} s: "
            f"0 of {result.requests} requests lost"
        )


@contextmanager
def hogging(consul: Consul, count: int) -> Iterator[set[int]]:
    """Others that want `count` connections all the time, and take each that comes free; those that hold one.

    Their queries block for 2 s only: Consul 1.8 counts a connection whose client has left until its query ends. It
    closes at once a connection that is one too many, and answers on each other one.
    """
    end = threading.Event()
    deferred: set[int] = set()
    request = b"GET /v1/health/service/hog?index=1000000&wait=2s HTTP/1.1\r\nHost: hog\r\n\r\n"

    def want(number: int) -> None:
        while not end.is_set():
            with suppress(OSError), socket.create_connection((consul.host, consul.port), timeout=5) as connection:
                connection.sendall(request)
                connection.settimeout(0.2)
                while not end.is_set():
                    with suppress(TimeoutError):
                        if not connection.recv(4096):
                            break
                        deferred.add(number)
            deferred.discard(number)
            end.wait(0.002)

    threads = [threading.Thread(target=want, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield deferred
    finally:
        end.set()
        for thread in threads:
            thread.join()


# -- whole answers that are not true --------------------------------------------------------------------------


@pytest.mark.quick
def test_an_empty_list_takes_nothing_away_though_the_leader_itself_gives_it(work: Path) -> None:
    with scene_behind_chaos(work) as (web, chaos), Believer(web, url=chaos.url) as believer:
        chaos.rewrite(body="[]", only=HEALTH + "web")
        with web.unchanged():
            chaos.reset_all()
            web.wait_for_held(GONE)
            time.sleep(LIE_SECONDS / 2)
            assert web.backend()["doubt"] is None
            assert web.deferred() == {GONE}
        lost = believer.end()

        chaos.pass_through()
        web.follows()
        wait_until(lambda: not web.backend()["refilling"], 20, "the end of the refill")
        result = web.end()
        figure(
            f"`[]` in place of a service: 0 of {result.requests} requests lost, "
            f"the naive follower {lost.failed} of {lost.requests}"
        )


def test_an_empty_list_from_an_agent_that_gives_only_empty_lists_is_doubted(work: Path) -> None:
    with scene_behind_chaos(work) as (web, chaos):
        chaos.rewrite(body="[]", only=HEALTH)
        with web.unchanged():
            chaos.reset_all()
            web.wait_for_doubt(UNCONFIRMED)
            time.sleep(LIE_SECONDS)
            assert web.deferred() == {UNCONFIRMED}
        chaos.pass_through()
        web.follows()
        result = web.end()
        figure(f"`[]` for everything, the canary too, {LIE_SECONDS:.0f} s: 0 of {result.requests} requests lost")


HEADERS = {
    NO_LEADER: {"X-Consul-KnownLeader": "false"},
    FILTERED: {"X-Consul-Results-Filtered-By-ACLs": "true"},
}


@pytest.mark.parametrize("doubt", HEADERS)
def test_a_short_list_whose_headers_speak_against_it_takes_nothing_away(work: Path, doubt: str) -> None:
    with scene_behind_chaos(work) as (web, chaos), Believer(web, url=chaos.url) as believer:
        chaos.rewrite(headers=HEADERS[doubt], keep=1)
        with web.unchanged():
            chaos.reset_all()
            web.wait_for_doubt(doubt)
            time.sleep(LIE_SECONDS)
            assert web.deferred() == {doubt}
        assert believer.differences()
        chaos.pass_through()
        web.follows(30)
        result = web.end()
        figure(f"one of {INSTANCES} instances in an answer of which {doubt!r}: 0 of {result.requests} requests lost")


def test_a_cache_that_stopped_in_the_past_is_no_evidence_and_the_servers_are_followed_past_it(work: Path) -> None:
    with scene_behind_chaos(work) as (web, chaos):
        chaos.rewrite(headers={"Age": "45"}, keep=1, only=HEALTH + "web?cached")
        with web.unchanged():
            chaos.reset_all()
            wait_until(
                lambda: not web.stage.status()["agent"]["services"]["web"]["is_cached"], 15, "to go past the cache"
            )
            time.sleep(LIE_SECONDS)
            assert web.deferred() == set()
        web.follows()
        chaos.pass_through()
        web.follows()
        result = web.end()
        figure(f"a cache 45 s old with one of {INSTANCES} instances: 0 of {result.requests} requests lost")


def test_what_even_the_leader_says_takes_no_more_than_half_within_the_window(work: Path) -> None:
    with scene_behind_chaos(work) as (web, chaos), Believer(web, url=chaos.url) as believer:
        chaos.rewrite(keep=1, only=HEALTH + "web")
        chaos.reset_all()
        web.wait_for_held(MAX_LOSS)
        time.sleep(LIE_SECONDS)

        assert web.eyes.fewest == INSTANCES // 2
        assert web.backend()["capacity"] == web.backend()["floor"] == INSTANCES // 2
        wait_until(lambda: len(believer.differences()) >= INSTANCES - 1, 5, "the follower to believe it")
        chaos.pass_through()
        web.follows()
        result = web.end()
        figure(f"one of {INSTANCES} instances, confirmed: {web.eyes.fewest} stayed, 0 of {result.requests} lost")


# -- rights ---------------------------------------------------------------------------------------------------


@contextmanager
def guarded_scene(work: Path, more: str = "") -> Iterator[tuple[Scene, AclConsul, Path]]:
    """A scene whose token is in a file and may read everything."""
    path = work / "token"
    with acl_consul(work) as consul:
        consul.set_policy("readers", READ_ALL)
        path.write_text(consul.token("readers"))
        with scene(consul=consul, consul_options=f'token_file = "{path}"\n{IMPATIENT}\n{more}') as web:
            yield web, consul, path


@pytest.mark.parametrize("consistency", ["cached", "stale"])
def test_a_token_that_loses_its_rights_takes_nothing_away_and_is_followed_once_it_has_them_again(
    work: Path, consistency: str
) -> None:
    with guarded_scene(work, f'consistency = "{consistency}"') as (web, consul, path), ExitStack() as beside:
        # Sorted by distance no answer is streamed: a change that its token may not see ends its query then.
        believer = beside.enter_context(Believer(web, query=f"token={path.read_text()}&near=_agent"))
        with web.unchanged():
            consul.set_policy("readers", "")
            changed = next(iter(web.fleet.members.values()))
            web.fleet.put(evolve(changed, weights=(7, 3)))  # whatever wakes the query that was begun with the rights
            if consistency == "stale":
                # Through the cache Consul 1.8 goes on with the rights of the query it began itself.
                web.wait_for_doubt(FILTERED if consul_version(consul_path()) >= SAYS_FILTERED else UNCONFIRMED)
            web.fleet.put(changed)
            time.sleep(LIE_SECONDS)
        lost = believer.end()

        consul.set_policy("readers", READ_ALL)
        web.follows(30)
        web.wait_for_doubt(None)
        result = web.end()
        figure(
            f"policy emptied for {LIE_SECONDS:.0f} s ({consistency}): 0 of {result.requests} requests lost, "
            f"the naive follower {lost.failed} of {lost.requests}"
        )


def test_a_token_that_is_deleted_takes_nothing_away_and_its_successor_is_used_without_a_restart(work: Path) -> None:
    with guarded_scene(work, 'consistency = "stale"') as (web, consul, path):
        pid = web.stage.agent.pid
        with web.unchanged():
            consul.delete_token(path.read_text())
            # Whatever ends the query that was begun with the token.
            web.fleet.put(evolve(next(iter(web.fleet.members.values())), weights=(7, 3)))
            web.wait_for_doubt(AWAY)
            told = web.stage.status()["agent"]["services"]["web"]["error"]
            time.sleep(LIE_SECONDS)
        web.put_stray()
        web.wait_for_held(AWAY)
        path.write_text(consul.token("readers"))
        began = time.monotonic()
        web.follows(30)
        took = seconds_since(began)

        assert "403" in told
        assert path.read_text() not in web.log
        assert web.stage.agent.pid == pid
        assert web.stage.agent.running
        result = web.end()
        figure(
            f"token deleted, another in token_file {LIE_SECONDS:.0f} s later: 0 of {result.requests} requests lost, "
            f"in sync after {took:.1f} s"
        )

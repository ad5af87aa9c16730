"""What the guard is for: Consul means what it says, and to act on all of it at once would lose requests."""

import time
from pathlib import Path

import pytest
from attrs import evolve

from tests.demo.fleet import HOST, Member
from tests.demo.truth import address
from tests.faults.helpers import Believer, Scene, figure, scene, seconds_since
from tests.harness.consul import Consul
from tests.harness.haproxy import ServerState
from tests.harness.ports import free_ports
from tests.harness.processes import wait_until

MAX_LOSS = "more than max_loss_fraction would be lost within the window"
MIN_READY = "fewer than min_ready would be left"
GONE = "the whole service is gone from Consul"
HOLD_SECONDS = 5.0


def replace_at_once(web: Scene, newcomers: list[Member], leaving: list[Member]) -> None:
    """Have Consul hold `newcomers` in place of `leaving` in one step; all servers go on."""
    service = web.fleet.service

    def operation(verb: str, member: Member, **more: object) -> dict[str, object]:
        one = {"Service": service, "ID": member.name, **more}
        return {"Service": {"Verb": verb, "Node": member.node, "Service": one}}

    web.stage.consul.request(
        "PUT",
        "/v1/txn",
        [
            *(
                operation("set", one, Address=HOST, Port=one.port, Weights={"Passing": 10, "Warning": 3})
                for one in newcomers
            ),
            *(operation("delete", one) for one in leaving),
        ],
    )
    for one in leaving:
        del web.fleet.members[one.name]
    web.fleet.members.update({one.name: one for one in newcomers})


def up(web: Scene) -> dict[str, ServerState]:
    """By address, what HAProxy can send to."""
    servers = web.stage.haproxy.servers("web").values()
    return {address(one): one for one in servers if one.running and not one.in_maintenance and not one.draining}


@pytest.mark.quick
def test_four_dead_newcomers_do_not_send_four_good_servers_away() -> None:
    with scene(instances=4) as web, Believer(web) as believer:
        good = list(web.fleet.members.values())
        addresses = {one.address for one in good}
        dead = [Member(f"dead-{port}", good[0].node, port) for port in free_ports(4)]

        replace_at_once(web, dead, good)
        web.wait_for_held(MAX_LOSS)
        wait_until(lambda: set(up(web)) <= addresses, 20, "HAProxy to find the dead ones out")
        forced = web.load.snapshot()
        time.sleep(HOLD_SECONDS)
        lost = believer.end()

        assert len(up(web)) == 2
        status = web.backend()
        assert (status["capacity"], status["floor"]) == (2, 2)
        replace_at_once(web, good, dead)
        web.wait_equal()
        # HAProxy serves from a newcomer until its first check has failed. A request is tried four times (`retries 3`)
        # and fails if it meets all four dead ones, which stand side by side in the round.
        result = web.load.stop()
        assert result.failed == forced.failed, result.failures
        assert set(result.by_reason) <= {"status 503"}
        figure(
            f"four dead newcomers for four good servers: {result.failed} of {result.requests} requests lost, "
            f"none of them after HAProxy's first check of these; the naive follower {lost.failed} of {lost.requests}"
        )


def test_dead_newcomers_that_are_fewer_than_the_tries_of_a_request_cost_nothing() -> None:
    with scene(instances=4) as web:
        good = list(web.fleet.members.values())
        dead = [Member(f"dead-{port}", good[0].node, port) for port in free_ports(3)]

        replace_at_once(web, dead, good[:3])
        web.wait_for_held(MAX_LOSS)
        time.sleep(HOLD_SECONDS)

        assert len(up(web)) == 2
        replace_at_once(web, good[:3], dead)
        web.wait_equal()
        result = web.end()
        figure(f"three dead newcomers for three of four good servers: 0 of {result.requests} requests lost")


def test_newcomers_that_are_still_starting_send_nobody_away_until_their_checks_pass() -> None:
    with scene(instances=4) as web:
        old = list(web.fleet.members.values())
        new = [evolve(web.fleet.start_server(), node=old[0].node) for _ in range(4)]
        for one in new:
            web.stage.origins.set_health(HOST, one.port, False)

        replace_at_once(web, new, old)
        web.wait_for_held(MAX_LOSS)
        wait_until(lambda: len(up(web)) == 2, 20, "HAProxy to find that they are not ready")
        time.sleep(HOLD_SECONDS)
        assert set(up(web)) <= {one.address for one in old}
        for one in new:
            web.fleet.set_health(one.name, ok=True)
        began = time.monotonic()
        web.wait_equal()
        took = seconds_since(began)

        assert web.eyes.fewest == 2
        result = web.end()
        figure(
            f"four newcomers that are still starting for four good servers: two stayed, and left {took:.1f} s after "
            f"the newcomers were ready; 0 of {result.requests} requests lost"
        )


def test_ten_checks_that_fail_at_once_while_all_servers_answer_leave_half_of_them() -> None:
    with scene(instances=10) as web, Believer(web) as believer:
        members = list(web.fleet.members.values())
        for one in members:
            web.fleet.put(evolve(one, status="critical"))
        web.wait_for_held(MAX_LOSS)
        time.sleep(HOLD_SECONDS)
        lost = believer.end()

        assert web.eyes.fewest == 5
        assert (web.backend()["capacity"], web.backend()["floor"]) == (5, 5)
        for one in members:
            web.fleet.put(one)
        web.follows()
        result = web.end()
        figure(
            f"ten of ten critical at once: 5 stayed, 0 of {result.requests} requests lost, "
            f"the naive follower {lost.failed} of {lost.requests}"
        )


def test_a_rolling_replacement_waits_for_first_checks_and_never_for_the_window() -> None:
    longest = 0.0
    with scene(instances=6, slots=16) as web:
        for one in list(web.fleet.members.values()):
            web.fleet.add()
            # The old server goes on: only the newcomer's check can let it leave.
            web.stage.consul.remove(one.node, one.name)
            del web.fleet.members[one.name]
            began = time.monotonic()
            web.wait_equal(20)  # the window has 60
            longest = max(longest, seconds_since(began))

        assert web.eyes.fewest >= 5
        result = web.end()
        figure(
            f"six instances replaced one after the other, checked every 500 ms: the longest took {longest:.1f} s, "
            f"0 of {result.requests} requests lost"
        )


def test_a_server_that_haproxy_holds_down_leaves_at_once_though_the_others_may_not() -> None:
    with scene(instances=4) as web:
        members = list(web.fleet.members.values())
        for one in members[:3]:
            web.fleet.put(evolve(one, status="critical"))
        web.wait_for_held(MAX_LOSS)
        kept = next(one for one in members[:3] if one.address in up(web))
        web.fleet.set_health(kept.name, ok=False)

        wait_until(lambda: _is_in_maintenance(web, kept), 15, "the server to leave")
        assert len(up(web)) == 1
        result = web.end()
        figure(f"a held server that fails HAProxy's own check leaves: 0 of {result.requests} requests lost")


def _is_in_maintenance(web: Scene, member: Member) -> bool:
    servers = web.stage.haproxy.servers("web").values()
    return all(one.in_maintenance for one in servers if one.port == member.port)


def test_min_ready_servers_stay_whatever_part_of_them_may_be_lost() -> None:
    with scene(instances=5, backend_options="min_ready = 4\nmax_loss_fraction = 1.0") as web:
        members = list(web.fleet.members.values())
        for one in members[:3]:
            web.fleet.put(evolve(one, status="critical"))
        web.wait_for_held(MIN_READY)
        time.sleep(HOLD_SECONDS)

        assert web.eyes.fewest == 4
        web.fleet.put(members[0])
        web.fleet.put(members[1])
        web.wait_equal()
        result = web.end()
        figure(f"three of five critical with min_ready = 4: four stayed, 0 of {result.requests} requests lost")


def test_the_window_lets_go_half_of_what_is_left_each_time_and_never_the_last_one() -> None:
    with scene(instances=8, backend_options="guard_window_seconds = 5") as web:
        members = list(web.fleet.members.values())
        began = time.monotonic()
        for one in members:
            web.fleet.put(evolve(one, status="critical"))
        fewest = {count: _seconds_until(web, count, began) for count in (4, 2, 1)}
        web.wait_for_held(MIN_READY)
        time.sleep(7)

        assert web.eyes.fewest == 1
        assert fewest[2] >= 5
        assert fewest[1] >= 10
        for one in members:
            web.fleet.put(one)
        web.wait_equal(30)
        result = web.end()
        steps = ", ".join(f"{count} after {seconds:.1f} s" for count, seconds in fewest.items())
        figure(f"eight critical for long, a window of 5 s: {steps}; 0 of {result.requests} requests lost")


def _seconds_until(web: Scene, count: int, began: float) -> float:
    wait_until(lambda: len(up(web)) <= count, 30, f"{count} to be left")
    return seconds_since(began)


def test_a_service_that_is_deregistered_whole_is_kept_until_a_person_lets_it_go() -> None:
    with scene(instances=4) as web:
        with web.unchanged():
            web.fleet.vanish()
            web.wait_for_held(GONE)
            time.sleep(HOLD_SECONDS)
            assert GONE in web.stage.hapsync("plan").stdout
        result = web.end()

        released = web.stage.hapsync("release", "web")
        assert released.returncode == 0, released
        assert up(web) == {}
        figure(
            f"a service deregistered whole: all 4 stayed, 0 of {result.requests} requests lost, until a person let go"
        )


def test_a_service_that_comes_back_in_part_keeps_what_it_had_until_it_is_whole() -> None:
    with scene(instances=6) as web:
        members = list(web.fleet.members.values())
        with web.unchanged():
            web.fleet.vanish()
            web.wait_for_held(GONE)
            for one in members:
                assert web.deferred()
                web.fleet.put(one)
                time.sleep(0.5)
        wait_until(lambda: web.deferred() == set(), 20, "nothing to be held")
        web.fleet.remove(members[0].name)
        web.wait_equal()
        result = web.end()
        figure(f"a service that vanishes and returns one by one: 0 of {result.requests} requests lost")


def test_instances_deregistered_one_by_one_to_nothing_leave_half_of_them_and_then_all_that_is_left() -> None:
    with scene(instances=4) as web, Believer(web) as believer:
        for one in list(web.fleet.members.values()):
            # Their servers go on, as when a tool takes them out by mistake.
            web.stage.consul.remove(one.node, one.name)
            time.sleep(0.5)
        web.wait_for_held(GONE)
        time.sleep(HOLD_SECONDS)
        lost = believer.end()

        assert web.eyes.fewest == 2
        for one in list(web.fleet.members.values()):
            web.fleet.put(one)
        web.follows()
        result = web.end()
        figure(
            f"four instances deregistered one by one: two stayed, 0 of {result.requests} requests lost, "
            f"the naive follower {lost.failed} of {lost.requests}"
        )


def test_what_is_held_is_still_served_after_a_reload_for_growth() -> None:
    with scene(slots=8, instances=6) as web:
        stage, members = web.stage, list(web.fleet.members.values())
        for one in members:
            web.fleet.put(evolve(one, status="critical"))
        web.wait_for_held(MAX_LOSS)
        deferred = set(up(web))
        assert len(deferred) == 3

        newcomers = web.fleet.add_at_once(5)  # more than there are slots
        wait_until(lambda: stage.reloads() == 1, 15, "the reload")
        wait_until(lambda: {one.address for one in newcomers} <= set(up(web)), 20, "the newcomers")
        assert web.eyes.fewest >= 3
        wait_until(lambda: stage.status()["agent"]["in_sync"], 20, "the file")
        result = web.end()
        figure(f"a reload for growth while three servers are held: 0 of {result.requests} requests lost")


def test_an_haproxy_killed_while_servers_are_held_comes_back_with_them() -> None:
    with scene(instances=4) as web:
        stage = web.stage
        for one in list(web.fleet.members.values()):
            web.fleet.put(evolve(one, status="critical"))
        web.wait_for_held(MAX_LOSS)
        deferred = set(up(web))
        wait_until(lambda: stage.status()["agent"]["in_sync"], 20, "the file")
        web.end()

        stage.haproxy.kill()
        stage.haproxy.start()
        at_once = set(up(web))
        time.sleep(HOLD_SECONDS)

        assert len(deferred) == 2
        assert at_once == deferred
        assert set(up(web)) == deferred
        figure("HAProxy killed while two servers are held: it comes back with both")


def test_an_agent_killed_while_servers_are_held_does_not_forget_how_many_there_were(work: Path) -> None:
    with Consul(work) as consul, scene(instances=8, consul=consul) as web:
        members = list(web.fleet.members.values())
        for one in members:
            web.fleet.put(evolve(one, status="critical"))
        web.wait_for_held(MAX_LOSS)
        for _ in range(3):
            web.stage.kill_agent()
            web.stage.start_agent()
            time.sleep(1)

        assert web.eyes.fewest == 4
        for one in members:
            web.fleet.put(one)
        web.wait_equal()
        result = web.end()
        figure(f"the agent killed three times while four servers are held: four stayed, 0 of {result.requests} lost")

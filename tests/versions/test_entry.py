"""How a newcomer comes in: at once on Consul's word, or once HAProxy's own check of it has passed."""

import time
from typing import Any

import pytest

from tests.demo.fleet import HOST, Fleet, Member
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.ports import free_port
from tests.harness.processes import wait_until

CHECKED = 'start = "checked"\n'
OPTIONS = "check inter 1s fall 3 rise 2"


def add_dead(fleet: Fleet, name: str = "dead") -> Member:
    """Register an instance where nobody listens."""
    member = Member(f"{fleet.service}-{name}", "node-x", free_port())
    fleet.put(member)
    return member


def stat_of(stage: Stage, member: Member) -> dict[str, str]:
    """HAProxy's counters of the server at a member's address; `LookupError` while there is none."""
    for name, one in stage.haproxy.servers("web").items():
        if one.port == member.port and not one.in_maintenance:
            return stage.haproxy.stat("web")[name]
    raise LookupError(member.address)


def tried(stat: dict[str, str]) -> int:
    """How often HAProxy sent a request there, or meant to."""
    return sum(int(stat[column] or 0) for column in ("stot", "econ", "eresp", "wretr", "wredis"))


def played(backend_options: str, **of: Any) -> int:
    """How often a dead newcomer was tried before HAProxy's first checks of it had failed, with 3 good servers."""
    with (
        Stage({"web": of.get("slots", 8)}, server_options=OPTIONS, backend_options=backend_options) as stage,
        Fleet(stage) as fleet,
    ):
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        with stage.load(rate=300) as load:
            dead = add_dead(fleet)
            wait_until(lambda: stat_of(stage, dead), 20, "the newcomer in HAProxy")
            time.sleep(5)
            wait_until(lambda: stat_of(stage, dead)["status"].startswith("DOWN"), 20, "its checks to have failed")
            wait_until(lambda: load.snapshot().requests > 500, 30, "some requests")
            result = load.stop()
        stat = stat_of(stage, dead)
        if "checked" in backend_options:
            assert (result.failed, result.failures) == (0, ())
        assert stat["status"].startswith("DOWN")
        return tried(stat)


@pytest.mark.parametrize("means", ["slots", "dynamic"])
def test_a_dead_newcomer_that_is_checked_first_never_gets_a_request(means: str) -> None:
    assert played(f'scaling = "{means}"\n{CHECKED}') == 0


def test_a_dead_newcomer_that_is_trusted_is_tried_until_its_checks_have_failed() -> None:
    # Its first check may come before its first turn.
    assert any(played("") > 0 for _ in range(4))


def test_a_dead_newcomer_that_comes_by_a_reload_never_gets_a_request_either() -> None:
    assert played(f'scaling = "slots"\n{CHECKED}', slots=3) == 0


def test_a_dead_newcomer_is_not_tried_either_after_a_reload_that_others_need() -> None:
    with (
        Stage({"web": 4}, server_options=OPTIONS, backend_options=f'scaling = "slots"\n{CHECKED}') as stage,
        Fleet(stage) as fleet,
    ):
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        dead = add_dead(fleet)
        wait_until(lambda: stat_of(stage, dead)["check_status"] == "L4CON", 20, "HAProxy to check the dead newcomer")
        with stage.load(rate=300) as load:
            newcomer = fleet.add()
            wait_until(lambda: newcomer.address in load.snapshot().by_origin, 20, "the newcomer to serve")
            wait_until(lambda: stat_of(stage, dead)["check_status"] == "L4CON", 20, "the new worker to check, too")
            result = load.stop()

        assert stage.reloads() == 1
        assert (result.failed, result.failures) == (0, ())
        assert tried(stat_of(stage, dead)) == 0
        assert stat_of(stage, dead)["status"].startswith("DOWN")


def stage_capacity(stage: Stage) -> int:
    """How many servers HAProxy sends to."""
    rows = stage.haproxy.stat("web").items()
    return sum(row["status"].startswith("UP") and int(row["weight"]) > 0 for name, row in rows if name != "BACKEND")


def test_a_whole_replacement_by_checked_newcomers_costs_no_request_and_no_capacity() -> None:
    with (
        Stage({"web": 12}, server_options="check inter 500ms", backend_options=CHECKED) as stage,
        Fleet(stage, linger_seconds=5) as fleet,
    ):
        old = [fleet.add() for _ in range(4)]
        stage.wait_equal()
        wait_until(lambda: stage.status()["backends"]["web"]["capacity"] == 4, 20, "the first checks")
        with stage.load(rate=300) as load:
            for _ in range(4):
                fleet.add()
            for one in old:
                fleet.remove(one.name)
            least = stage_capacity(stage)
            deadline = time.monotonic() + 20
            while stage.differences() and time.monotonic() < deadline:
                least = min(least, stage_capacity(stage))
            stage.wait_equal()
            least = min(least, stage_capacity(stage))
            time.sleep(1)
            result = load.stop()

        assert least >= 4  # never fewer than there were, all of them up
        assert (result.failed, result.failures) == (0, ())
        assert {member.address for member in fleet.members.values()} <= set(result.by_origin)
        assert stage.reloads() == 0


def test_a_backend_in_which_nothing_serves_trusts_consul_at_once() -> None:
    with (
        Stage({"web": 4}, server_options="check inter 30s", backend_options=CHECKED + NO_GUARD) as stage,
        Fleet(stage) as fleet,
    ):
        stage.origins.open(HOST, port := free_port())
        stage.origins.set_health(HOST, port, ok=False)
        fleet.put(Member("web-1", "node-a", port))

        stage.wait_equal()  # up, though its check would never pass


def test_apply_waits_for_the_checks_of_newcomers_before_it_takes_out_whom_they_replace() -> None:
    with (
        Stage({"web": 6}, server_options="check inter 300ms", backend_options=CHECKED, agent=False) as stage,
        Fleet(stage, linger_seconds=10) as fleet,
    ):
        old = [fleet.add() for _ in range(2)]
        assert stage.hapsync("apply").returncode == 0
        for _ in range(2):
            fleet.add()
        for one in old:
            fleet.remove(one.name)
        applied = stage.hapsync("apply")

        assert (applied.returncode, stage.differences()) == (0, []), applied.stdout
        assert stage_capacity(stage) == 2

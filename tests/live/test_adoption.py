"""hapsync comes to an HAProxy that has servers of its own: none that serves goes without a word and a reason."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.demo.fleet import Fleet, Member
from tests.demo.stage import Stage
from tests.harness.processes import wait_until

SLOT_LINE = re.compile(r"(?m)^ *server srv\S* .*\n")


def static_lines(members: Sequence[Member]) -> str:
    return "".join(
        f"    server old{number} {member.address} check\n" for number, member in enumerate(members, start=1)
    )


@contextmanager
def a_box(servers: int, known: int) -> Iterator[tuple[Stage, Fleet]]:
    """An HAProxy with static `servers` in its own haproxy.cfg, of which Consul knows the first few."""
    with Stage({"web": 8}, agent=False, server_options="check") as stage, Fleet(stage) as fleet:
        members = [fleet.start_server() for _ in range(servers)]
        for member in members[:known]:
            fleet.put(member)
        config = stage.haproxy.config
        bare = SLOT_LINE.sub("", config.read_text(encoding="utf-8").partition("\n")[2])
        config.write_text(bare.rstrip("\n") + "\n" + static_lines(members), encoding="utf-8")
        stage.haproxy.reload()
        yield stage, fleet


def ready(stage: Stage) -> set[str]:
    """The servers of any name that HAProxy may send to, by address."""
    servers = stage.haproxy.servers("web").values()
    return {f"{one.address}:{one.port}" for one in servers if one.running and not one.in_maintenance}


def wait_logged(stage: Stage, words: str) -> None:
    log = stage.work / "agent.log"
    wait_until(lambda: words in log.read_text(encoding="utf-8"), 20, f"the log to say {words!r}")


@pytest.mark.quick
def test_the_first_apply_takes_out_no_static_server_that_consul_does_not_name_unless_a_person_says_so() -> None:
    with a_box(servers=5, known=1) as (stage, _):
        before = ready(stage)
        assert len(before) == 5
        checked, planned, applied = (stage.hapsync(command) for command in ("check", "plan", "apply"))

        assert checked.returncode == 2
        assert "the next reload will not be made: backend web: 4 ready servers of 5" in checked.stdout
        assert [planned.stdout.count(f"lose    web/old{number} ") for number in range(1, 6)] == [0, 1, 1, 1, 1]
        assert applied.returncode == 2
        assert "old5" in applied.stdout
        assert "`hapsync apply --force`" in applied.stdout
        assert ready(stage) == before
        assert "old5" in stage.haproxy.config.read_text(encoding="utf-8")

        forced = stage.hapsync("apply", "--force")
        assert forced.returncode == 0, forced.stdout
        assert forced.stdout.count("taken out with the reload: web/old") == 4
        assert len(ready(stage)) == 1


def test_an_agent_that_starts_takes_out_no_static_server_until_it_is_released() -> None:
    with a_box(servers=5, known=1) as (stage, _):
        before, reloads = ready(stage), stage.reloads()
        stage.start_agent()
        wait_until(lambda: "4 ready servers of 5" in stage.hapsync("status").stdout, 20, "status to name them")
        assert ready(stage) == before
        assert stage.reloads() == reloads

        released = stage.hapsync("release", "web")
        assert released.returncode == 2
        assert "web/old2, web/old3, web/old4, web/old5" in released.stdout
        wait_until(lambda: len(ready(stage)) == 1, 20, "the reload")
        stage.wait_equal()
        wait_logged(stage, "the reload took out foreign servers: web/old2 ")


@pytest.mark.quick
def test_a_box_whose_static_servers_are_all_in_consul_is_adopted_at_once() -> None:
    with a_box(servers=5, known=5) as (stage, _):
        before = ready(stage)
        assert stage.hapsync("check").returncode == 0
        assert "lose" not in stage.hapsync("plan").stdout
        stage.start_agent()
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")
        assert ready(stage) == before
        assert "old1" not in stage.haproxy.config.read_text(encoding="utf-8")


def test_a_static_server_that_the_guard_lets_go_is_named_in_plan_check_and_log() -> None:
    with a_box(servers=5, known=4) as (stage, _):
        checked = stage.hapsync("check")
        assert checked.returncode == 0
        assert re.search(r"(?m)^advice web/old5 \S+ is foreign, and the next reload takes it out$", checked.stdout)
        assert "lose    web/old5 " in stage.hapsync("plan").stdout
        stage.start_agent()
        stage.wait_equal()
        wait_until(lambda: len(ready(stage)) == 4, 20, "the reload")
        wait_logged(stage, "the reload took out foreign servers: web/old5 ")


def test_an_edit_of_the_template_that_removes_serving_servers_beside_the_slots_waits_for_a_person() -> None:
    with Stage({"web": 4}, agent=False) as stage, Fleet(stage) as fleet:
        template = stage.work / "haproxy.cfg.j2"
        text = template.read_text(encoding="utf-8")
        static = [fleet.start_server() for _ in range(4)]
        template.write_text(text.rstrip("\n") + "\n" + static_lines(static), encoding="utf-8")
        fleet.add()
        assert stage.hapsync("apply").returncode == 0
        before = ready(stage)
        assert len(before) == 5
        stage.start_agent()
        template.write_text(text, encoding="utf-8")
        stage.hapsync("apply")
        wait_until(lambda: "settings not taken" in stage.hapsync("status").stdout, 20, "status to say so")
        fleet.add()
        wait_until(lambda: len(ready(stage)) == 6, 10, "the old settings to go on")
        assert before < ready(stage)

        assert stage.hapsync("release", "web").returncode == 2
        wait_until(lambda: len(ready(stage)) == 2, 20, "the reload")
        stage.wait_equal()


def test_who_lets_static_servers_go_takes_out_nobody_whom_the_guard_holds() -> None:
    with Stage({"web": 4}, agent=False, backend_options="min_ready = 2") as stage, Fleet(stage) as fleet:
        template = stage.work / "haproxy.cfg.j2"
        text = template.read_text(encoding="utf-8")
        static = [fleet.start_server() for _ in range(2)]
        template.write_text(text.rstrip("\n") + "\n" + static_lines(static), encoding="utf-8")
        members = [fleet.add() for _ in range(2)]
        assert stage.hapsync("apply").returncode == 0
        stage.start_agent()
        wait_until(lambda: len(ready(stage)) == 4, 20, "all to serve")
        for member in members:
            stage.consul.remove(member.node, member.name)
        wait_until(lambda: len(stage.status()["deferred"]) == 2, 20, "the vanished service to be held")
        template.write_text(text, encoding="utf-8")
        stage.hapsync("apply")
        wait_until(lambda: "settings not taken" in stage.hapsync("status").stdout, 20, "status to say so")
        (said,) = re.findall(r"settings not taken: .*", stage.hapsync("status").stdout)
        assert "wait until Consul is trusted again" in said

        released = stage.hapsync("release", "web")
        assert released.returncode == 2
        assert "the changes that the guard defers in web stay deferred" in released.stdout
        wait_until(lambda: len(ready(stage)) == 2, 20, "the reload")
        assert ready(stage) == {member.address for member in members}


def test_a_haproxy_that_is_down_is_not_started_without_the_static_servers_of_its_file() -> None:
    with a_box(servers=5, known=1) as (stage, _):
        stage.haproxy.kill()
        stage.start_agent()
        wait_until(lambda: "4 ready servers of 5" in stage.hapsync("status").stdout, 20, "status to name them")
        assert stage.haproxy.config.read_text(encoding="utf-8").count("server old") == 5
        stage.haproxy.start()
        assert len(ready(stage)) == 5

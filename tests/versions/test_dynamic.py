"""Servers that are added and deleted live, where there is no slot for them."""

import time
from collections.abc import Callable

import pytest

from hapsync.agent.reconcile import Outcome, run_pass
from hapsync.agent.settings import read_settings
from hapsync.haproxy.probe import Probe
from hapsync.model.catalog import Instance, Reading
from hapsync.model.changes import Create, Delete, Reason
from hapsync.model.server import Address, CheckStatus
from hapsync.plan.assessment import Rules
from hapsync.plan.desired import Desired, desired_backend
from hapsync.plan.diff import REST_SECONDS
from hapsync.plan.guard import Caution
from tests.demo.fleet import Fleet
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.processes import wait_until

DYNAMIC = f'scaling = "dynamic"\n{NO_GUARD}'
"""Whatever the version: 2.6 has dynamic servers, too, but chooses them only when told so."""


def added(stage: Stage) -> dict[str, int]:
    """The dynamic servers of the backend `web`, and the ids they have."""
    return {name: one.id for name, one in stage.haproxy.servers("web").items() if name.startswith("dyn-")}


def test_servers_come_and_go_live_beyond_the_slots() -> None:
    with Stage({"web": 1}, backend_options=DYNAMIC) as stage, Fleet(stage) as fleet:
        kept = fleet.add()
        stage.wait_equal()
        before = stage.haproxy.worker_pid()
        with stage.load(rate=300) as load:
            for _ in range(6):
                members = [fleet.add() for _ in range(5)]
                stage.wait_equal()
                time.sleep(0.3)
                for member in members:
                    fleet.remove(member.name)
                stage.wait_equal()
            result = load.stop()

        assert (result.failed, result.failures) == (0, ())
        assert stage.haproxy.worker_pid() == before
        assert stage.reloads() == 0
        wait_until(lambda: len(added(stage)) == 1, 40, "what is gone to be deleted")
        [(name, number)] = added(stage).items()
        assert name == f"dyn-{kept.name}-{number:07x}"


def test_dynamic_servers_outlive_reloads_restarts_and_the_agent_with_their_names_and_ids() -> None:
    with Stage({"web": 1}, backend_options=DYNAMIC) as stage, Fleet(stage) as fleet:
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        names = added(stage)
        assert len(names) == 3
        wait_until(lambda: all(name in stage.haproxy.config.read_text() for name in names), 10, "the file to follow")

        stage.haproxy.reload()
        assert added(stage) == names
        stage.wait_equal()
        stage.haproxy.kill()
        stage.haproxy.start()
        assert added(stage) == names
        stage.wait_equal()
        stage.kill_agent()
        stage.start_agent()
        wait_until(lambda: stage.hapsync("plan").returncode == 0, 20, "an empty plan")
        assert added(stage) == names
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("default-server inter 3s", "`default-server inter 3s` is not heeded by `add server`"),
        ("balance static-rr", "dynamic load balancing"),
    ],
)
def test_a_backend_that_takes_no_dynamic_servers_grows_by_a_reload_and_says_why(line: str, why: str) -> None:
    with Stage({"web": 1}, backend_options=DYNAMIC, agent=False) as stage, Fleet(stage) as fleet:
        template = stage.work / "haproxy.cfg.j2"
        text = template.read_text().replace("    balance roundrobin\n", f"    {line}\n")
        template.write_text(text if "balance" in line else text.replace(line, f"balance roundrobin\n    {line}"))
        stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout)
        stage.haproxy.reload()
        for _ in range(3):
            fleet.add()
        stage.start_agent()
        wait_until(lambda: stage.reloads() == 2, 20, "the reload that grows the slots")
        wait_until(lambda: running(stage) == 3, 20, "three servers")
        means = stage.status()["backends"]["web"]["scaling"]

        assert added(stage) == {}
        assert not means["dynamic"]
        assert why in means["why_not"]
        assert why in stage.hapsync("check").stdout


def running(stage: Stage) -> int:
    return sum(one.running for one in stage.haproxy.servers("web").values())


def test_a_dynamic_server_that_a_person_holds_is_neither_enabled_nor_deleted_until_released() -> None:
    options = f'scaling = "dynamic"\n{NO_GUARD}'
    with (
        Stage({"web": 1}, backend_options=options, agent_options="resync_seconds = 1") as stage,
        Fleet(stage) as fleet,
    ):
        members = [fleet.add() for _ in range(2)]
        stage.wait_equal()
        deferred = next(name for name in added(stage) if members[0].name in name)
        assert stage.hapsync("hold", f"web/{deferred}").returncode == 0
        fleet.remove(members[0].name)
        time.sleep(6)
        assert stage.haproxy.servers("web")[deferred].in_maintenance
        assert stage.hapsync("release", f"web/{deferred}").returncode == 0
        wait_until(lambda: deferred not in added(stage), 20, "it to be deleted")


def test_a_pass_lets_in_who_comes_before_it_looks_at_what_can_be_deleted() -> None:
    with Stage({"web": 1}, backend_options=DYNAMIC, agent=False) as stage:
        make_pass = passes_with_one_at_rest(stage)

        outcome = make_pass("10.0.0.1", "10.0.0.3")

        assert [(type(one), str(one.address)) for one in outcome.first.plan.changes] == [(Create, "10.0.0.3:80")]
        assert [type(one) for one in outcome.done] == [Create, Delete]
        assert outcome.last.plan.is_empty
        assert len(added(stage)) == 2


def test_a_pass_deletes_what_it_can_while_whoever_comes_has_to_wait() -> None:
    with Stage({"web": 1}, backend_options=DYNAMIC, agent=False) as stage:
        make_pass = passes_with_one_at_rest(stage)

        outcome = make_pass("10.0.0.1", "10.0.0.3", damped="10.0.0.3")

        assert [type(one) for one in outcome.done] == [Delete]
        assert [one.reason for one in outcome.last.plan.deferred] == [Reason.FLAPPING]
        assert len(added(stage)) == 1


def passes_with_one_at_rest(stage: Stage) -> Callable[..., Outcome]:
    """Make passes over the backend `web`, each with the hosts that are to serve; the guard holds nothing else.

    One host serves, and one has left so long ago that its server can be deleted.
    """
    config = read_settings(str(stage.config_path)).config
    probe = Probe(config)

    def make_pass(*hosts: str, damped: str | None = None) -> Outcome:
        instances = tuple(Instance("n1", host, Address(host, 80), CheckStatus.PASSING) for host in hosts)
        wanted = Desired({"web": desired_backend("web", config.backends["web"], Reading("web", instances))})
        waits = frozenset({Address(damped, 80)} if damped else ())
        rules = Rules({"web": Caution(max_loss_fraction=1.0, min_ready=0, damped=waits)})
        return run_pass(config.haproxy.socket, 5, wanted, ("web",), rules, probe=probe)

    make_pass("10.0.0.1", "10.0.0.2")
    make_pass("10.0.0.1")
    time.sleep(REST_SECONDS + 1)
    return make_pass

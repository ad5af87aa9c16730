"""Agent checks: what an agent may say of a server, and what hapsync and persons have said of it."""

import attrs
import pytest

from hapsync.config.schema import BackendConfig, Config, Template
from hapsync.haproxy.cfg import observed_from_file, skeleton
from hapsync.haproxy.commands import address_commands, agents_in, quiet_commands, state_commands
from hapsync.haproxy.compare import shows
from hapsync.haproxy.render import render
from hapsync.model.catalog import Doubt
from hapsync.model.changes import (
    Add,
    Change,
    Create,
    Delete,
    Disable,
    Drain,
    Enable,
    Reason,
    Remove,
    Reweigh,
    SetAgent,
    SetOverride,
    takes_out,
)
from hapsync.model.server import (
    AGENT_RUNS,
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    CheckStatus,
    Observed,
    Scaling,
    Server,
)
from hapsync.plan.assessment import unserved
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer, scale_weights
from hapsync.plan.diff import diff
from hapsync.plan.guard import Caution, guard
from hapsync.plan.judge import broken_by_plan, broken_by_target
from hapsync.plan.moves import Facts
from hapsync.plan.plan import make_plan
from hapsync.plan.simulate import FREE_SLOT, as_new_worker
from hapsync.plan.target import TargetState, target_grown, target_now

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
STATUS = {READY: CheckStatus.PASSING, DRAIN: CheckStatus.MAINTENANCE, MAINT: CheckStatus.CRITICAL}
ON, OFF = 0x10 | AGENT_RUNS, 0x12
ONE, TWO = Address("10.0.0.1", 80), Address("10.0.0.2", 80)


def led(admin: AdminState, weight: int, agent: int = ON, address: Address = ONE) -> Server:
    return Server("srv1", address, admin, weight, is_up=admin is not MAINT, load=NO_LOAD, agent=agent)


def wanted(admin: AdminState | None, weight: int = 100, address: Address = ONE) -> Desired:
    other = DesiredServer(TWO, READY, 100, "n2", "web-2", CheckStatus.PASSING)
    this = (DesiredServer(address, admin, weight, "n1", "web-1", STATUS[admin]),) if admin else ()
    return Desired({"web": DesiredBackend("web", 2, (*this, other))})


def seen(*servers: Server) -> Observed:
    other = Server("srv2", TWO, READY, 100, is_up=True, load=NO_LOAD, agent=ON)
    return Observed({"web": Backend("web", (*servers, other))})


def changes(desired: Desired, observed: Observed) -> tuple[Change, ...]:
    found = diff(desired, observed)
    assert found.deferred == ()
    return found.changes


@pytest.mark.parametrize(
    ("due", "have", "kinds"),
    [
        (READY, led(READY, 30), []),  # its weight is the agent's
        (READY, led(READY, 0), []),
        (READY, led(DRAIN, 100), []),  # so are drain and maint
        (READY, led(MAINT, 100), []),
        (READY, led(MAINT, 0), [Enable]),  # hapsync wrote it into the file so
        (READY, led(MAINT, 0, OFF), [Enable]),
        (READY, led(READY, 100, OFF), [SetAgent]),  # who let it in was killed before its agent was on
        (READY, led(READY, 30, OFF), [Reweigh]),
        (DRAIN, led(READY, 30), [Drain]),
        (DRAIN, led(DRAIN, 30), [Drain]),
        (DRAIN, led(DRAIN, 0, OFF), []),
        (MAINT, led(DRAIN, 30), [Disable]),
        (MAINT, led(MAINT, 30), [Disable]),
        (MAINT, led(MAINT, 0, OFF), []),
        (None, led(READY, 30), [Remove]),
        (None, led(DRAIN, 30), [Remove]),
        (None, led(MAINT, 30), [Remove]),
        (None, led(MAINT, 0), [Remove]),
        (None, led(MAINT, 0, OFF), []),
    ],
)
def test_an_agent_leads_a_server_that_serves_and_no_other(
    due: AdminState | None, have: Server, kinds: list[type[Change]]
) -> None:
    assert [type(change) for change in changes(wanted(due), seen(have))] == kinds


def test_what_an_agent_did_is_no_persons_hand_and_what_was_done_with_its_check_off_is() -> None:
    assert not led(DRAIN, 100).is_overridden
    assert not led(MAINT, 100).is_overridden
    assert led(DRAIN, 100, OFF).is_overridden
    assert led(MAINT, 100, 0).is_overridden


def test_a_slot_that_an_agent_may_still_lift_out_of_maint_is_given_to_nobody() -> None:
    newcomer = wanted(READY, address=Address("10.0.0.3", 80))

    assert [type(one) for one in changes(newcomer, seen(led(MAINT, 0)))] == [Remove]
    assert [type(one) for one in changes(newcomer, seen(led(MAINT, 0, OFF)))] == [Add]


def test_the_agents_of_free_slots_are_switched_off_in_any_doubt() -> None:
    free = attrs.evolve(FREE_SLOT, name="srv1", agent=ON)
    desired = wanted(None)
    found = diff(desired, seen(free))
    doubted = Desired({"web": attrs.evolve(desired.backends["web"], is_backwards=True)})
    deferred = guard(diff(doubted, seen(free)), seen(free), doubted, {})

    assert found.changes == (SetAgent("web", "srv1", PLACEHOLDER, runs=False),)
    assert deferred.changes == found.changes
    assert not takes_out(found.changes[0])
    assert make_plan(found, seen(free)).outgoing == found.changes
    assert diff(desired, seen(attrs.evolve(free, agent=OFF))).changes == ()


def test_an_agent_is_off_before_its_server_leaves_and_on_last_when_it_enters() -> None:
    agents = agents_in(seen(led(READY, 1)))
    leaving = (
        Drain("web", "srv1", ONE, Reason.MAINTENANCE),
        Disable("web", "srv1", ONE, Reason.CRITICAL),
        Remove("web", "srv1", ONE, Reason.GONE),
        SetOverride("web", "srv1", ONE, MAINT, 1),
    )
    entering = (Add("web", "srv1", ONE, 3, Reason.PASSING), Enable("web", "srv1", ONE, 3, Reason.PASSING))

    assert [one.line for _, one in quiet_commands(leaving, agents)] == ["disable agent web/srv1"] * 4
    assert quiet_commands(leaving, ()) == quiet_commands(entering, agents) == []
    assert address_commands(entering, agents)[0][1].line == "disable agent web/srv1"
    for change in entering:
        assert state_commands([change], agents)[-1][1].line == "enable agent web/srv1"
        assert state_commands([change])[-1][1].line == "set server web/srv1 weight 3"
    assert [one.line for _, one in state_commands([SetAgent("web", "srv1", ONE, runs=True)])] == [
        "enable agent web/srv1"
    ]


def test_a_dynamic_server_with_an_agent_is_added_with_the_weight_that_the_agent_gives_parts_of() -> None:
    change = Create("web", "dyn-a-0000001", ONE, 100, "check agent-check", Reason.PASSING)
    lines = [one.line for _, one in (*address_commands([change]), *state_commands([change]))]

    assert lines[0].startswith("add server web/dyn-a-0000001 10.0.0.1:80 id 1 weight 100 check agent-check")
    assert lines[1] == "set server web/dyn-a-0000001 weight 0"
    assert lines[-1] == "enable agent web/dyn-a-0000001"
    assert "enable agent web/dyn-a-0000001" not in lines[:-1]


def test_the_file_and_a_new_worker_know_nothing_of_what_an_agent_said() -> None:
    observed = seen(led(DRAIN, 30))
    [slot, _] = as_new_worker(observed).backends["web"].slots
    target = target_now(wanted(READY), observed)

    assert (slot.admin, slot.agent) == (READY, 0)
    assert [(one.admin, one.weight) for one in target.backends["web"].slots] == [(READY, 100), (READY, 100)]
    assert shows(observed, target) == ()
    assert shows(seen(led(DRAIN, 30, OFF)), target) != ()
    assert shows(seen(led(READY, 100, address=Address("10.0.0.9", 80))), target) != ()


@pytest.mark.parametrize("doubt", [None, Doubt.STALE])
def test_a_weight_of_0_is_an_agents_to_give_in_the_file_and_at_a_reload_too(doubt: Doubt | None) -> None:
    at = [Address(f"10.0.0.{number}", 80) for number in range(1, 5)]
    servers = [attrs.evolve(led(READY, 100, address=one), name=f"srv{one.host[-1]}") for one in at]
    wants = [DesiredServer(one, READY, 100 if one == at[0] else 0, "n", str(one), CheckStatus.PASSING) for one in at]
    facts = Facts(
        Desired({"web": DesiredBackend("web", 4, tuple(wants), doubt=doubt)}),
        Observed({"web": Backend("web", tuple(servers))}),
    )

    assert diff(facts.desired, facts.observed).changes == ()
    for target in (target_now(facts.desired, facts.observed), target_grown(facts.desired, facts.observed, ["web"])):
        assert [slot.weight for slot in target.backends["web"].slots if slot.admin is READY] == [100] * 4
        assert broken_by_target(target, facts) == ()


def test_of_two_servers_at_an_address_none_leaves_for_a_weight_of_0_that_is_an_agents_to_give() -> None:
    one, two = (attrs.evolve(led(admin, 30), name=name) for admin, name in ((DRAIN, "srv1"), (READY, "srv2")))
    facts = Facts(wanted(READY, 0), Observed({"web": Backend("web", (one, two))}), {"web": Caution()})

    assert broken_by_target(target_now(facts.desired, facts.observed), facts) == ()


def test_a_dynamic_server_is_deleted_once_its_agent_check_is_off() -> None:
    gone = attrs.evolve(led(MAINT, 100, address=Address("10.0.0.9", 80)), name="dyn-web-1-0000001", since_seconds=9)
    other = Server("srv2", TWO, READY, 100, is_up=True, load=NO_LOAD)
    desired = wanted(None)
    for server, kind in ((gone, Remove), (attrs.evolve(gone, weight=0, agent=OFF), Delete)):
        backend = Backend("web", (other, server), scaling=Scaling(can_add=True))
        observed = Observed({"web": backend})
        plan = make_plan(diff(desired, observed), observed)

        assert [(type(one), one.server) for one in plan.changes] == [(kind, gone.name)]
        assert broken_by_plan(plan, Facts(desired, observed)) == ()


@pytest.mark.parametrize(
    ("given", "scaled"), [((1, 1), (100, 100)), ((10, 3), (100, 30)), ((0, 0), (0, 0)), ((150, 3), (150, 3))]
)
def test_weights_are_large_enough_for_an_agent_to_give_parts_of_them(
    given: tuple[int, int], scaled: tuple[int, int]
) -> None:
    assert scale_weights(dict(zip((ONE, TWO), given, strict=True)), least=100) == dict(
        zip((ONE, TWO), scaled, strict=True)
    )


def test_a_free_slot_has_such_a_weight_in_the_file_which_says_nothing_of_it() -> None:
    config = Config(backends={"web": BackendConfig(service="web", server_options="check agent-check")})
    target = TargetState({"web": Backend("web", (attrs.evolve(FREE_SLOT, name="srv1"),))})
    text = render(Template("t", 'backend web\n    {{ servers("web") }}\n'), target, config, {})

    assert "server srv1 127.0.0.1:1 weight 100 check agent-check disabled" in text
    assert observed_from_file(text, ("web",)).backends["web"].slots[0].weight == 1


@pytest.mark.parametrize("place", ["defaults\n    {}\nbackend web\n", "backend web\n    {}\n"])
@pytest.mark.parametrize(
    ("line", "is_said"),
    [
        ("default-server inter 1s disabled", True),
        ("default-server disabled enabled", False),
        ("# default-server disabled", False),
        ("\"default-server\" inter 1s 'disabled'", True),
        ("default-server inter 1s # disabled", False),
        ("default-server inter 1s", False),
    ],
)
def test_a_line_says_enabled_only_where_default_server_would_disable_it(
    place: str, line: str, *, is_said: bool
) -> None:
    config = Config(backends={"web": BackendConfig(service="web")})
    target = TargetState({"web": Backend("web", (led(READY, 1, 0), attrs.evolve(FREE_SLOT, name="srv2")))})
    head = place.format(line)
    text = render(Template("t", head + '    {{ servers("web") }}\n'), target, config, {})

    assert ("weight 1 check enabled  #" in text) is is_said
    assert "server srv2 127.0.0.1:1 weight 1 check disabled  #" in text
    assert [one.admin for one in observed_from_file(text, ("web",)).backends["web"].slots] == [READY, MAINT]
    assert skeleton(text).count("server  check") == 1


def test_a_backend_that_sends_to_nobody_by_a_hand_that_nobody_knows_of_is_told() -> None:
    overridden = attrs.evolve(led(MAINT, 1, 0), name="srv1")
    both = Observed({"web": Backend("web", (overridden, attrs.evolve(overridden, name="srv2", address=TWO)))})
    overrides = attrs.evolve(wanted(READY), overrides={"web": {ONE: MAINT, TWO: DRAIN}})
    agents = Observed({"web": Backend("web", (led(DRAIN, 1),))})

    assert "`hapsync release web/srv1`" in unserved(wanted(READY), both)[0]
    assert unserved(overrides, both) == []
    assert unserved(wanted(READY), seen(overridden)) == []
    assert "the agents of srv1" in unserved(wanted(READY), agents)[0]
    assert unserved(Desired({}), both) == []

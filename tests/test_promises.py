"""The page of promises: no plan and no target that hapsync makes breaks one, and each can be broken alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given

from hapsync.agent.file_text import Seen, judged
from hapsync.errors import BrokenPromise
from hapsync.haproxy.commands import address_commands, state_commands
from hapsync.model.catalog import Doubt
from hapsync.model.changes import (
    Add,
    Change,
    ClearOverride,
    Create,
    Defect,
    Delete,
    Disable,
    Enable,
    EndSessions,
    Reason,
    Remove,
    Reweigh,
    SetOverride,
    Shortage,
)
from hapsync.model.overrides import Freeze, SavedState
from hapsync.model.server import (
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    CheckStatus,
    Load,
    Observed,
    Server,
)
from hapsync.plan import promises
from hapsync.plan.assessment import Rules
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.guard import Caution
from hapsync.plan.judge import broken_by_plan, broken_by_target, sentence_of
from hapsync.plan.moves import Facts
from hapsync.plan.plan import Plan
from hapsync.plan.promises import PROMISES, command_says_its_change, emptied
from hapsync.plan.simulate import as_new_worker
from hapsync.plan.target import TargetState, target_grown, target_now
from tests.harness.tools import ROOT
from tests.strategies import World, worlds
from tests.test_laws import found_in, laws, planned, short_of
from tests.test_scenarios import SCENARIOS, facts_and_plan

HERE = tuple(Address(f"10.0.0.{number}", 80) for number in range(10))
"""Where instances are; the first four serve."""
ELSEWHERE = Address("10.9.9.9", 80)
PASSING = Reason.PASSING
GONE = Reason.GONE


def serving(number: int) -> Server:
    return Server(f"srv{number}", HERE[number], AdminState.READY, 1, is_up=True, load=NO_LOAD)


def in_maint(name: str, address: Address, load: Load | None = NO_LOAD, *, weight: int = 0, since: int = 9) -> Server:
    return Server(name, address, AdminState.MAINT, weight, load=load, since_seconds=since)


def wanted(number: int, admin: AdminState = AdminState.READY) -> DesiredServer:
    status = CheckStatus.PASSING if admin is AdminState.READY else CheckStatus.CRITICAL
    return DesiredServer(HERE[number], admin, 1, "n", f"web-{number}", status)


WEB = Backend(
    "web",
    (
        *map(serving, range(1, 5)),
        in_maint("srv5", ELSEWHERE, Load(1, 0, 0, 0)),
        in_maint("srv6", ELSEWHERE),
        in_maint("srv7", HERE[7], weight=1),
        in_maint("srv8", PLACEHOLDER, None, weight=1),
        in_maint("dyn-web-1000001", ELSEWHERE),
        in_maint("dyn-web-1000002", ELSEWHERE, Load(0, 0, 0, 1)),
    ),
    (Server("sorry", HERE[9], AdminState.READY, 1, is_up=True),),
)
WANT = DesiredBackend("web", 8, tuple(wanted(number) for number in (1, 2, 5, 6)), drain_seconds=5)
FACTS = Facts(Desired({"web": WANT}), Observed({"web": WEB}), {"web": Caution(max_loss_fraction=0.5, min_ready=1)})
FROZEN = SavedState(freeze=Freeze(0.0, None, "root", ""))
LEAVE = Remove("web", "srv3", HERE[3], GONE)
ENTER = Add("web", "srv6", HERE[5], 1, PASSING)


def with_want(**changed: Any) -> Facts:
    return attrs.evolve(FACTS, desired=Desired({"web": attrs.evolve(WANT, **changed)}))


def with_overrides(overrides: Mapping[Address, AdminState | None]) -> Facts:
    return attrs.evolve(FACTS, desired=Desired({"web": WANT}, {"web": overrides}))


def with_caution(**known: Any) -> Facts:
    return attrs.evolve(FACTS, cautions={"web": attrs.evolve(FACTS.cautions["web"], **known)})


def out(*changes: Change) -> Plan:
    return Plan(outgoing=changes)


KEPT = Plan(
    (ENTER, Enable("web", "srv1", HERE[1], 1, PASSING)),
    (LEAVE, Delete("web", "dyn-web-1000001", ELSEWHERE, waits=False)),
)
"""A plan that keeps all of them."""
BREAKS: Mapping[str, tuple[str, Facts, Plan]] = {
    "frozen": ("nothing_while_stopped", attrs.evolve(FACTS, saved=FROZEN), KEPT),
    "frozen until later": (
        "nothing_while_stopped",
        attrs.evolve(FACTS, saved=SavedState(freeze=Freeze(0.0, 9.0, "root", "")), now_seconds=8.0),
        KEPT,
    ),
    "observing": ("nothing_while_stopped", attrs.evolve(FACTS, mode="observe"), KEPT),
    "another version": ("nothing_while_stopped", attrs.evolve(FACTS, saved=SavedState(unread_version="3")), KEPT),
    "a foreign server": ("only_own_servers", FACTS, out(Reweigh("web", "sorry", HERE[9], 3, 1, PASSING))),
    "a name like a slot's": ("only_own_servers", FACTS, out(Disable("web", "srv03", HERE[3], GONE))),
    "a server that is not there": ("only_own_servers", FACTS, out(Disable("web", "srv99", HERE[3], GONE))),
    "a backend nobody asked for": ("only_own_servers", attrs.evolve(FACTS, desired=Desired({})), out(LEAVE)),
    "a weight": ("only_plain_values", FACTS, Plan((Reweigh("web", "srv1", HERE[1], 257, 1, PASSING),))),
    "an address that ends the command": (
        "only_plain_values",
        with_want(servers=(attrs.evolve(wanted(1), address=Address("10.0.0.1; quit", 80)),)),
        Plan((Add("web", "srv6", Address("10.0.0.1; quit", 80), 1, PASSING),)),
    ),
    "an address nobody gave": (
        "only_given_addresses",
        FACTS,
        Plan((Add("web", "srv6", Address("10.0.0.77", 80), 1, PASSING),)),
    ),
    "an instance that is critical": (
        "only_given_addresses",
        with_want(servers=(wanted(5, AdminState.MAINT),)),
        Plan((ENTER,)),
    ),
    "a slot with a session": ("no_busy_server_given_away", FACTS, Plan((Add("web", "srv5", HERE[5], 1, PASSING),))),
    "a server that serves": (
        "no_busy_server_given_away",
        FACTS,
        out(Delete("web", "dyn-web-1000002", ELSEWHERE, waits=False)),
    ),
    "a slot that is deleted": (
        "no_busy_server_given_away",
        FACTS,
        out(Delete("web", "srv6", ELSEWHERE, waits=False)),
    ),
    "an end of sessions too early": (
        "only_overdue_sessions_ended",
        with_want(drain_seconds=10),
        out(EndSessions("web", "srv5", ELSEWHERE, 1)),
    ),
    "an end of sessions on a doubt": (
        "only_overdue_sessions_ended",
        with_want(doubt=Doubt.STALE),
        out(EndSessions("web", "srv5", ELSEWHERE, 1)),
    ),
    "a doubt": ("no_server_leaves_on_a_doubt", with_want(doubt=Doubt.STALE), out(LEAVE)),
    "a service that is gone": ("no_server_leaves_on_a_doubt", with_want(servers=()), out(LEAVE)),
    "a refill": ("no_server_leaves_on_a_doubt", with_caution(is_refilling=True), out(LEAVE)),
    "an older state": ("no_server_leaves_on_a_doubt", with_want(is_backwards=True), out(LEAVE)),
    "a weight of 0 on a doubt": (
        "no_server_leaves_on_a_doubt",
        with_want(doubt=Doubt.AWAY),
        out(Reweigh("web", "srv3", HERE[3], 0, 1, PASSING)),
    ),
    "max_loss_fraction": (
        "capacity_stays_above_its_floor",
        FACTS,
        out(*(Remove("web", f"srv{number}", HERE[number], GONE) for number in (2, 3, 4))),
    ),
    "min_ready": ("capacity_stays_above_its_floor", with_caution(min_ready=4), out(LEAVE)),
    "the window": ("capacity_stays_above_its_floor", with_caution(peak=8), out(LEAVE)),
    "out before in": ("capacity_in_before_out", FACTS, Plan((LEAVE, ENTER))),
    "less than half while short": (
        "capacity_in_before_out",
        FACTS,
        attrs.evolve(out(LEAVE), shortages=(Shortage("web", (HERE[6],), 8),)),
    ),
    "an override": (
        "operators_have_the_last_word",
        with_want(servers=(wanted(7),)),
        Plan((Enable("web", "srv7", HERE[7], 1, PASSING),)),
    ),
    "an override that nobody set": (
        "operators_have_the_last_word",
        FACTS,
        out(SetOverride("web", "srv1", HERE[1], AdminState.MAINT, 1)),
    ),
    "an override that nobody cleared": (
        "operators_have_the_last_word",
        FACTS,
        Plan((ClearOverride("web", "srv7", HERE[7]),)),
    ),
    "an entry of what an operator holds": (
        "operators_have_the_last_word",
        with_overrides({HERE[5]: AdminState.MAINT}),
        Plan((ENTER,)),
    ),
    "another weight of what an operator holds": (
        "operators_have_the_last_word",
        with_overrides({HERE[1]: AdminState.MAINT}),
        Plan((Reweigh("web", "srv1", HERE[1], 3, 1, PASSING),)),
    ),
    "the fallback list": (
        "fallback_only_where_nothing_serves",
        with_want(doubt=Doubt.FALLBACK),
        Plan((ENTER,)),
    ),
}


def test_a_plan_keeps_all_promises() -> None:
    assert broken_by_plan(KEPT, FACTS) == ()


@pytest.mark.parametrize("how", BREAKS)
def test_a_plan_breaks_one_promise_and_no_other(how: str) -> None:
    name, facts, plan = BREAKS[how]

    assert broken_by_plan(plan, facts) == (Defect("web", sentence_of(getattr(promises, name))),)


def test_each_promise_can_be_broken() -> None:
    names = {name for name, _, _ in BREAKS.values()}

    assert {sentence_of(getattr(promises, name)) for name in names} == {sentence_of(one) for one in PROMISES}


def test_only_the_backend_of_a_broken_promise_is_dropped() -> None:
    other = attrs.evolve(WEB, name="api")
    desired = Desired({"web": attrs.evolve(WANT, doubt=Doubt.STALE), "api": attrs.evolve(WANT, name="api")})
    facts = Facts(desired, Observed({"web": WEB, "api": other}), FACTS.cautions)
    both = out(LEAVE, attrs.evolve(LEAVE, backend="api"))
    left = both.without(broken_by_plan(both, facts))

    assert left.changes == (attrs.evolve(LEAVE, backend="api"),)
    assert [(one.change, one.reason) for one in left.deferred] == [(LEAVE, Reason.DEFECT)]
    assert [one.backend for one in left.defects] == ["web"]
    assert not left.is_empty
    assert "No server leaves on an answer that is in doubt" in str(left)


TARGET = TargetState(as_new_worker(Observed({"web": WEB})).backends)


def with_slot(name: str, /, **changed: Any) -> TargetState:
    slots = (attrs.evolve(one, **changed) if one.name == name else one for one in WEB.slots)
    return TargetState(as_new_worker(Observed({"web": attrs.evolve(WEB, slots=tuple(slots))})).backends)


@pytest.mark.parametrize(
    ("target", "facts", "name"),
    [
        (with_slot("srv3", admin=AdminState.MAINT), attrs.evolve(FACTS, saved=FROZEN), "nothing_while_stopped"),
        (with_slot("srv3", admin=AdminState.MAINT), with_want(doubt=Doubt.STALE), "no_server_leaves_on_a_doubt"),
        (with_slot("srv3", address=HERE[5]), with_want(doubt=Doubt.STALE), "no_server_leaves_on_a_doubt"),
        (with_slot("srv3", admin=AdminState.MAINT), with_caution(peak=8), "capacity_stays_above_its_floor"),
        (with_slot("srv7", weight=0), FACTS, "operators_have_the_last_word"),
        (with_slot("srv6", admin=AdminState.READY, weight=1), FACTS, "only_given_addresses"),
        (with_slot("srv6", weight=300), FACTS, "only_plain_values"),
        (with_slot("srv6", name="sorry"), FACTS, "only_own_servers"),
    ],
)
def test_a_target_breaks_one_promise_and_no_other(target: TargetState, facts: Facts, name: str) -> None:
    assert broken_by_target(TARGET, FACTS) == ()
    assert broken_by_target(target, facts) == (Defect("web", sentence_of(getattr(promises, name))),)


def test_a_file_or_reload_that_would_break_a_promise_is_refused_with_the_promise() -> None:
    seen = Seen(FACTS.observed, (), with_want(doubt=Doubt.STALE).desired, Rules(FACTS.cautions))

    assert judged(TARGET, seen) is TARGET
    with pytest.raises(BrokenPromise, match=r"backend web: .*No server leaves on an answer that is in doubt"):
        judged(with_slot("srv3", admin=AdminState.MAINT), seen)
    with pytest.raises(BrokenPromise, match="Nothing is changed while frozen"):
        judged(TARGET, attrs.evolve(seen, rules=Rules(FACTS.cautions, saved=FROZEN)))


CREATE = Create("web", "dyn-web-1000003", HERE[5], 1, "check", PASSING)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (ENTER, "set server web/srv6 addr 10.0.0.5 port 81"),
        (ENTER, "set server web/srv6 addr 10.0.0.6 port 80"),
        (ENTER, "set server web/srv5 addr 10.0.0.5 port 80"),
        (ENTER, "set server web/srv6 addr"),
        (ENTER, "set server api/srv6 state ready"),
        (ENTER, "set server web/srv6 state ready; quit"),
        (ENTER, "set server web/srv6 state ready\nquit"),
        (CREATE, "add server web/dyn-web-1000003 10.0.0.5:81 id 16777219 weight 0 check"),
    ],
)
def test_a_command_that_does_not_say_its_change_breaks_its_promise(change: Change, line: str) -> None:
    assert not command_says_its_change(change, line)


CHECKED_ELSEWHERE = attrs.evolve(CREATE, options="check addr 10.0.0.9 port 81")


@pytest.mark.parametrize(
    "change", [*KEPT.changes, CREATE, CHECKED_ELSEWHERE, attrs.evolve(ENTER, forgets=(("web", 6),))]
)
def test_the_commands_of_a_change_keep_their_promise(change: Change) -> None:
    commands = (*address_commands([change]), *state_commands([change]))

    assert commands
    assert all(command_says_its_change(change, command.line) for _, command in commands)


def test_a_server_that_has_a_port_of_0_may_leave() -> None:
    odd = attrs.evolve(serving(4), address=Address("10.0.0.4", 0))
    web = attrs.evolve(WEB, slots=(*WEB.slots[:3], odd, *WEB.slots[4:]))

    plan = Plan(outgoing=(Remove("web", "srv4", odd.address, GONE),))
    assert broken_by_plan(plan, attrs.evolve(FACTS, observed=Observed({"web": web}))) == ()


def test_a_backend_that_serves_is_emptied_by_a_file_without_an_enabled_server() -> None:
    assert emptied(FACTS.observed, {"web": 1}) == ()
    assert emptied(FACTS.observed, {"web": 0}) == ("web",)
    assert emptied(FACTS.observed, {}) == ("web",)
    assert emptied(Observed({"web": Backend("web", (in_maint("srv1", ELSEWHERE),))}), {}) == ()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda folder: folder.name)
def test_no_plan_of_a_scenario_breaks_a_promise(scenario: Path) -> None:
    facts, plan = facts_and_plan(scenario)

    assert broken_by_plan(plan, facts) == ()


@laws
@given(worlds())
def test_no_plan_breaks_a_promise(world: World) -> None:
    plan = planned(world)
    facts = Facts(world.desired, world.observed, world.cautions)

    assert broken_by_plan(plan, facts) == ()
    steps = (*address_commands(plan.incoming), *state_commands(plan.changes))
    assert all(command_says_its_change(change, command.line) for change, command in steps)


@laws
@given(worlds())
def test_no_target_breaks_a_promise(world: World) -> None:
    found, facts = found_in(world), Facts(world.desired, world.observed, world.cautions)
    for lets_in in (True, False):
        for target in (
            target_now(world.desired, world.observed, found.deferred, lets_in=lets_in),
            target_grown(world.desired, world.observed, short_of(found), found.deferred, lets_in=lets_in),
        ):
            assert broken_by_target(target, facts) == ()


OF_PLANS = (
    promises.no_busy_server_given_away,
    promises.only_overdue_sessions_ended,
    promises.capacity_in_before_out,
    promises.fallback_only_where_nothing_serves,
)
"""What is said of a running HAProxy only."""


def test_the_table_in_the_documents_is_the_page() -> None:
    rows = [
        *((sentence_of(one), "plans" if one in OF_PLANS else "plans, files and reloads") for one in PROMISES),
        (sentence_of(command_says_its_change), "commands"),
        (sentence_of(emptied), "reloads"),
    ]
    table = "".join(f"| {sentence} | {of} |\n" for sentence, of in rows)

    assert f"| promise | judged of |\n|---|---|\n{table}\n" in (ROOT / "docs/reliability.md").read_text()

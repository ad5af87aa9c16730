"""Capacity goes in before any goes out, and half of what serves stays while slots are short."""

import attrs
import pytest

from hapsync.model.changes import (
    Add,
    Change,
    ClearOverride,
    Deferred,
    Disable,
    Drain,
    Enable,
    Reason,
    Remove,
    Reweigh,
    SetOverride,
    Shortage,
)
from hapsync.model.server import NO_LOAD, Address, AdminState, Backend, CheckStatus, Load, Observed, Server
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.diff import Diff, diff
from hapsync.plan.guard import guard
from hapsync.plan.plan import Plan, describe, describe_shortage, keep_half, make_plan
from hapsync.plan.simulate import FREE_SLOT, after

BUSY = Load(1, 0, 0, 0)


def at(number: int) -> Address:
    return Address(f"10.0.0.{number}", 80)


def ready(name: int, number: int, weight: int = 1, load: Load = NO_LOAD) -> Server:
    return Server(f"srv{name}", at(number), AdminState.READY, weight, is_up=True, load=load)


def removal(name: int, backend: str = "web") -> Remove:
    return Remove(backend, f"srv{name}", at(name), Reason.GONE)


def serving(count: int, backend: str = "web") -> Observed:
    return Observed({backend: Backend(backend, tuple(ready(number, number) for number in range(1, count + 1)))})


def wants(*numbers: int) -> Desired:
    servers = tuple(
        DesiredServer(at(number), AdminState.READY, 1, f"n{number}", f"web-{number}", CheckStatus.PASSING)
        for number in sorted(numbers)
    )
    return Desired({"web": DesiredBackend("web", 4, servers)})


ADD = Add("web", "srv4", at(4), 1, Reason.PASSING)
ENABLE = Enable("web", "srv9", at(9), 1, Reason.PASSING)
MORE = Reweigh("web", "srv2", at(2), 5, 1, Reason.WEIGHT)
LESS = Reweigh("web", "srv3", at(3), 1, 5, Reason.WEIGHT)
DRAIN = Drain("web", "srv8", at(8), Reason.MAINTENANCE)
DISABLE = Disable("web", "srv7", at(7), Reason.CRITICAL)
REMOVE = removal(6)
ALL = (REMOVE, DISABLE, DRAIN, LESS, MORE, ADD, ENABLE)


def test_what_brings_capacity_comes_before_what_takes_it() -> None:
    plan = make_plan(Diff(ALL), serving(9))

    assert plan.incoming == (ENABLE, ADD, MORE)
    assert plan.outgoing == (LESS, DRAIN, DISABLE, REMOVE)
    assert plan.changes == (*plan.incoming, *plan.outgoing)


def test_a_plan_has_one_order() -> None:
    assert make_plan(Diff(ALL), serving(9)) == make_plan(Diff(tuple(reversed(ALL))), serving(9))


def test_slots_are_ordered_by_number_and_backends_by_name() -> None:
    changes = (removal(10), removal(9), removal(2, "api"))

    assert make_plan(Diff(changes), Observed({})).outgoing == (removal(2, "api"), removal(9), removal(10))


@pytest.mark.parametrize(
    ("ready_now", "wanted", "go"),
    [
        (0, 2, 0),
        (1, 2, 0),
        (2, 2, 1),
        (3, 3, 1),
        (4, 4, 2),
        (5, 5, 2),
        (8, 8, 4),
        (8, 1, 7),
        (8, 0, 8),
        (3, 9, 0),
        (2, 9, 0),
    ],
)
def test_half_of_what_is_wanted_rounded_up_stays_while_a_backend_is_short(
    ready_now: int, wanted: int, go: int
) -> None:
    removals = tuple(removal(number) for number in range(1, ready_now + 1))
    plan = make_plan(Diff(removals, (Shortage("web", (at(99),), wanted),)), serving(ready_now))

    assert plan.outgoing == removals[:go]
    assert plan.waiting == tuple(Deferred(one, Reason.CAPACITY_FIRST) for one in removals[go:])


def test_everything_goes_where_nothing_is_short() -> None:
    removals = tuple(removal(number) for number in range(1, 5))
    plan = make_plan(Diff(removals, (Shortage("api", (at(99),), 9),)), serving(4))

    assert plan.outgoing == removals
    assert plan.waiting == ()


def test_what_does_not_serve_may_always_go() -> None:
    slots = (
        attrs.evolve(ready(1, 1), admin=AdminState.DRAIN),
        attrs.evolve(ready(2, 2), weight=0),
        ready(3, 3),
    )
    removals = [removal(number) for number in (1, 2, 3)]

    assert keep_half(removals, Observed({"web": Backend("web", slots)}), {"web": 2}, ()) == (
        removals[:2],
        removals[2:],
    )


def test_what_comes_in_before_counts_as_serving() -> None:
    removals = [removal(number) for number in (1, 2)]
    silent = attrs.evolve(ADD, weight=0)

    assert keep_half(removals, serving(2), {"web": 4}, ()) == ([], removals)
    assert keep_half(removals, serving(2), {"web": 4}, [ADD]) == (removals[:1], removals[1:])
    assert keep_half(removals, serving(2), {"web": 4}, [ADD, ENABLE]) == (removals, [])
    assert keep_half(removals, serving(2), {"web": 4}, [silent, MORE]) == ([], removals)
    assert keep_half(removals, serving(2), {"web": 4}, [attrs.evolve(ADD, backend="api")]) == ([], removals)


def test_a_weight_that_falls_takes_nothing_out_unless_it_falls_to_zero() -> None:
    silence = Reweigh("web", "srv1", at(1), 0, 5, Reason.WEIGHT)

    assert keep_half([LESS, silence], serving(1), {"web": 1}, ()) == ([LESS], [silence])
    assert keep_half([LESS, silence], serving(2), {"web": 2}, ()) == ([LESS, silence], [])


def test_drains_and_disables_count_as_going_out() -> None:
    changes: list[Change] = [
        Drain("web", "srv1", at(1), Reason.MAINTENANCE),
        Disable("web", "srv2", at(2), Reason.CRITICAL),
    ]

    assert keep_half(changes, serving(2), {"web": 2}, ()) == (changes[:1], changes[1:])


def test_half_of_a_backend_that_was_not_read_is_kept() -> None:
    assert keep_half([removal(1)], Observed({}), {"web": 0}, ()) == ([removal(1)], [])


def test_passes_repeated_while_slots_are_short_never_leave_less_than_half() -> None:
    observed = Observed({"web": Backend("web", tuple(ready(number, number, load=BUSY) for number in range(1, 9)))})
    desired = wants(*range(101, 110))
    for _ in range(5):
        observed = after(observed, make_plan(diff(desired, observed), observed).changes)

    assert len(observed.backends["web"].ready) >= 4


def test_a_plan_is_empty_when_nothing_is_due() -> None:
    deferred = Deferred(removal(1), Reason.SERVICE_GONE)

    assert Plan().is_empty
    assert Plan(deferred=(deferred,)).is_empty
    assert not Plan(incoming=(ADD,)).is_empty
    assert not Plan(outgoing=(REMOVE,)).is_empty
    assert not Plan(waiting=(deferred,)).is_empty
    assert not Plan(shortages=(Shortage("web", (), 0),)).is_empty


@pytest.mark.parametrize("reason", [Reason.FROZEN, Reason.OBSERVING, Reason.OTHER_VERSION])
def test_a_plan_that_is_stopped_does_nothing_and_is_empty_only_if_nothing_was_due(reason: Reason) -> None:
    waiting, deferred = Deferred(removal(1), Reason.CAPACITY_FIRST), Deferred(removal(2), Reason.MIN_READY)
    shortage = Shortage("web", (at(5),), 5)
    stopped = Plan((ADD,), (DRAIN,), (waiting,), (deferred,), (shortage,)).stopped(reason)

    assert stopped == Plan(
        deferred=(Deferred(ADD, reason), Deferred(DRAIN, reason), waiting, deferred),
        shortages=(shortage,),
    )
    assert not Plan((ADD,)).stopped(reason).is_empty
    assert Plan(deferred=(deferred,)).stopped(reason).is_empty


def test_what_a_person_sets_aside_goes_before_what_the_catalog_takes_and_counts_as_gone() -> None:
    overrides = SetOverride("web", "srv1", at(1), AdminState.MAINT, 1)
    removals = [removal(number) for number in (2, 3, 4)]

    assert keep_half([*removals, overrides], serving(4), {"web": 4}, ()) == ([removals[0], overrides], removals[1:])
    assert make_plan(Diff((*removals, overrides)), serving(4)).outgoing == (overrides, *removals)
    silent = Observed({"web": Backend("web", (ready(1, 1, weight=0), *serving(4).backends["web"].slots[1:]))})
    assert keep_half([*removals, overrides], silent, {"web": 4}, ()) == ([removals[0], overrides], removals[1:])


def test_what_a_person_releases_comes_first() -> None:
    back = ClearOverride("web", "srv5", at(5))

    assert make_plan(Diff((*ALL, back)), serving(9)).incoming == (back, ENABLE, ADD, MORE)


def test_a_service_that_is_gone_whole_makes_an_empty_plan() -> None:
    observed = serving(2)
    plan = make_plan(guard(diff(wants(), observed), observed, wants(), {}), observed)

    assert plan.is_empty
    assert len(plan.deferred) == 2


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (ADD, "add     web/srv4 10.0.0.4:80 weight 1 (passing)"),
        (ENABLE, "enable  web/srv9 10.0.0.9:80 weight 1 (passing)"),
        (MORE, "weight  web/srv2 10.0.0.2:80 1 -> 5"),
        (DRAIN, "drain   web/srv8 10.0.0.8:80 (in maintenance)"),
        (DISABLE, "disable web/srv7 10.0.0.7:80 (critical)"),
        (REMOVE, "remove  web/srv6 10.0.0.6:80 (gone from Consul)"),
        (
            SetOverride("web", "srv1", at(1), AdminState.MAINT, 1),
            "hold    web/srv1 10.0.0.1:80 (asked for by an operator)",
        ),
        (
            SetOverride("web", "srv1", at(1), AdminState.DRAIN, 1),
            "drain   web/srv1 10.0.0.1:80 (asked for by an operator)",
        ),
        (ClearOverride("web", "srv1", at(1)), "release web/srv1 10.0.0.1:80 (released by an operator)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_change_is_one_line(change: Change, line: str) -> None:
    assert line == describe(change)


def test_a_shortage_is_one_line() -> None:
    missing = Shortage("web", (at(1),), 1, is_missing=True)
    assert describe_shortage(missing) == "grow    web: HAProxy does not have this backend yet"
    assert describe_shortage(Shortage("web", (at(1),), 1)) == "grow    web: no free slot for 1 server: 10.0.0.1:80"
    assert describe_shortage(Shortage("web", tuple(map(at, range(1, 8))), 9)) == (
        "grow    web: no free slot for 7 servers: "
        "10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80, 10.0.0.5:80 and 2 more"
    )


def test_a_plan_is_read_in_the_order_it_is_done() -> None:
    plan = Plan(
        (ADD,),
        (DRAIN,),
        (Deferred(REMOVE, Reason.CAPACITY_FIRST),),
        (Deferred(removal(1, "api"), Reason.SERVICE_GONE),),
        (Shortage("web", (at(5),), 5),),
    )

    assert str(plan).splitlines() == [
        "add     web/srv4 10.0.0.4:80 weight 1 (passing)",
        "drain   web/srv8 10.0.0.8:80 (in maintenance)",
        "wait    remove  web/srv6 10.0.0.6:80 (gone from Consul): its replacement has no slot yet",
        "defer   remove  api/srv1 10.0.0.1:80 (gone from Consul): the whole service is gone from Consul",
        "grow    web: no free slot for 1 server: 10.0.0.5:80",
    ]
    assert str(Plan()) == ""


def test_a_full_backend_is_replaced_step_by_step() -> None:
    observed = Observed({"web": Backend("web", tuple(ready(number, number) for number in (1, 2, 3)))})
    desired = wants(11, 12, 13)
    ready_counts = []
    for _ in range(6):
        plan = make_plan(diff(desired, observed), observed)
        observed = after(observed, plan.changes)
        ready_counts.append(len(observed.backends["web"].ready))

    assert min(ready_counts) == 2
    assert {slot.address for slot in observed.backends["web"].ready} == {at(11), at(12), at(13)}
    assert make_plan(diff(desired, observed), observed).is_empty


def test_a_free_slot_is_enough_to_lose_nothing() -> None:
    observed = Observed({"web": Backend("web", (ready(1, 1), attrs.evolve(FREE_SLOT, name="srv2")))})
    plan = make_plan(diff(wants(2), observed), observed)

    assert [type(change) for change in plan.changes] == [Add, Remove]
    assert plan.waiting == ()

"""A removal that might cost requests is held; additions and repairs go on."""

import attrs
import pytest

from hapsync.agent.guard_state import GuardState
from hapsync.config.schema import BackendConfig, Config
from hapsync.model.catalog import Doubt
from hapsync.model.changes import Add, Deferred, Disable, Drain, Reason, Remove, Reweigh, SetOverride, Shortage
from hapsync.model.overrides import SavedState
from hapsync.model.server import NO_LOAD, Address, AdminState, Backend, CheckStatus, FirstCheck, Observed, Server
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.diff import Diff, diff
from hapsync.plan.guard import Caution, capacity, guard, needs_first_checks, unread_first_checks
from hapsync.plan.simulate import FREE_SLOT

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
STATUS = {READY: CheckStatus.PASSING, DRAIN: CheckStatus.MAINTENANCE, MAINT: CheckStatus.CRITICAL}


def at(number: int) -> Address:
    return Address(f"10.0.0.{number}", 80)


def want(number: int, admin: AdminState = READY, weight: int = 1) -> DesiredServer:
    return DesiredServer(at(number), admin, weight, f"n{number}", f"web-{number}", STATUS[admin])


def wanted(*servers: DesiredServer, doubt: Doubt | None = None, is_backwards: bool = False) -> Desired:
    return Desired({"web": DesiredBackend("web", 4, servers, doubt=doubt, is_backwards=is_backwards)})


def slot(name: int, number: int, admin: AdminState = READY, weight: int | None = None) -> Server:
    """A server that passes its check; what is not ready has no weight."""
    weight = int(admin is READY) if weight is None else weight
    return Server(f"srv{name}", at(number), admin, weight, is_up=admin is not MAINT, load=NO_LOAD)


def down(server: Server) -> Server:
    return attrs.evolve(server, is_up=False, first_check=FirstCheck.MISSING)


def fresh(server: Server, first_check: FirstCheck = FirstCheck.MISSING) -> Server:
    """Up, but its first check is still to come."""
    return attrs.evolve(server, first_check=first_check)


def free(name: int) -> Server:
    return attrs.evolve(FREE_SLOT, name=f"srv{name}")


def seen(*slots: Server) -> Observed:
    return Observed({"web": Backend("web", slots)})


def guarded(desired: Desired, observed: Observed, caution: Caution | None = None) -> Diff:
    return guard(diff(desired, observed), observed, desired, {} if caution is None else {"web": caution})


def leaving(found: Diff) -> list[str]:
    return [change.server for change in found.changes if isinstance(change, Remove | Disable | Drain)]


def deferred(found: Diff) -> list[tuple[str, Reason]]:
    return [(one.change.server, one.reason) for one in found.deferred]


GOOD = [slot(number, number) for number in (1, 2, 3, 4)]
"""Four good servers, which Consul does not name any more below."""
NEW = [slot(number, number) for number in (5, 6, 7, 8)]
WANT_NEW = wanted(*(want(number) for number in (5, 6, 7, 8)))


@pytest.mark.parametrize(
    "dead",
    [
        [down(one) for one in NEW],
        [fresh(one) for one in NEW],
        [fresh(one, FirstCheck.UNREAD) for one in NEW],
        [free(number) for number in (5, 6, 7, 8)],
    ],
    ids=["down", "not checked yet", "not read", "not in yet"],
)
def test_four_dead_newcomers_send_only_half_of_four_good_servers_away(dead: list[Server]) -> None:
    found = guarded(WANT_NEW, seen(*GOOD, *dead))

    assert leaving(found) == ["srv1", "srv2"]
    assert deferred(found) == [("srv3", Reason.MAX_LOSS), ("srv4", Reason.MAX_LOSS)]


def test_four_live_newcomers_send_all_four_away() -> None:
    found = guarded(WANT_NEW, seen(*GOOD, *NEW))

    assert leaving(found) == ["srv1", "srv2", "srv3", "srv4"]
    assert found.deferred == ()


@pytest.mark.parametrize(("passed", "gone"), [(0, 2), (1, 2), (2, 3), (3, 3), (4, 4)])
def test_the_more_newcomers_pass_their_check_the_more_may_leave(passed: int, gone: int) -> None:
    newcomers = [one if place < passed else fresh(one) for place, one in enumerate(NEW)]

    assert len(leaving(guarded(WANT_NEW, seen(*GOOD, *newcomers)))) == gone


def test_a_server_that_haproxy_holds_down_leaves_freely() -> None:
    strict = Caution(max_loss_fraction=0.0, min_ready=9, peak=9)
    observed = seen(down(slot(1, 1)), down(slot(2, 2)), slot(3, 3))
    found = guarded(wanted(want(1, MAINT), want(3, MAINT)), observed, strict)

    assert sorted(leaving(found)) == ["srv1", "srv2"]
    assert deferred(found) == [("srv3", Reason.MIN_READY)]


@pytest.mark.parametrize("server", [slot(1, 1, DRAIN), slot(1, 1, weight=0)])
def test_what_gets_no_traffic_leaves_freely(server: Server) -> None:
    found = guarded(wanted(want(2)), seen(server, slot(2, 2)), Caution(max_loss_fraction=0.0, min_ready=9))

    assert leaving(found) == ["srv1"]


@pytest.mark.parametrize(("min_ready", "left"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_min_ready_servers_stay(min_ready: int, left: int) -> None:
    found = guarded(wanted(want(9, MAINT)), seen(*GOOD), Caution(max_loss_fraction=1.0, min_ready=min_ready))

    assert len(leaving(found)) == 4 - left
    assert {reason for _, reason in deferred(found)} <= {Reason.MIN_READY}


@pytest.mark.parametrize(
    ("fraction", "peak", "left"),
    [(1.0, 4, 0), (0.5, 4, 2), (0.5, 3, 2), (0.5, 6, 3), (0.5, 8, 4), (0.25, 4, 3), (0.2, 4, 4), (0.0, 0, 4)],
)
def test_what_is_lost_counts_from_the_most_there_was_within_the_window(fraction: float, peak: int, left: int) -> None:
    found = guarded(wanted(want(9, MAINT)), seen(*GOOD), Caution(max_loss_fraction=fraction, min_ready=0, peak=peak))

    assert len(leaving(found)) == 4 - left
    assert {reason for _, reason in deferred(found)} <= {Reason.MAX_LOSS}


@pytest.mark.parametrize(
    ("fraction", "floor"), [(0.9, 1), (0.7, 3), (0.1, 9), (0.3, 7), (0.5, 5), (1.0, 0), (0.0, 10)]
)
def test_a_share_of_ten_is_a_whole_number(fraction: float, floor: int) -> None:
    assert Caution(max_loss_fraction=fraction, min_ready=0, peak=10).floor(3) == floor


def test_below_its_floor_a_backend_loses_nothing_more() -> None:
    found = guarded(wanted(want(9, MAINT)), seen(*GOOD), Caution(peak=12))

    assert leaving(found) == []


def test_a_server_whose_check_is_still_to_come_costs_nothing_but_stays_while_there_is_too_little() -> None:
    enough = seen(*GOOD, fresh(slot(9, 9)))
    too_little = seen(slot(1, 1), fresh(slot(9, 9)))

    assert leaving(guarded(wanted(*map(want, (1, 2, 3, 4))), enough)) == ["srv9"]
    assert deferred(guarded(wanted(want(1)), too_little, Caution(peak=4))) == [("srv9", Reason.MAX_LOSS)]


def test_the_ones_that_are_gone_leave_before_those_that_are_still_in_consul() -> None:
    desired = wanted(want(1, DRAIN), want(2, MAINT), want(3, weight=0))
    found = guarded(desired, seen(*GOOD), Caution(max_loss_fraction=0.25))

    assert leaving(found) == ["srv4"]
    assert [(type(one.change), one.reason) for one in found.deferred] == [
        (Disable, Reason.MAX_LOSS),
        (Drain, Reason.MAX_LOSS),
        (Reweigh, Reason.MAX_LOSS),
    ]


def test_a_weight_that_rises_or_falls_but_not_to_zero_is_no_removal() -> None:
    desired = wanted(want(1, weight=5), want(2, weight=1), doubt=Doubt.AWAY)
    found = guarded(desired, seen(slot(1, 1), slot(2, 2, weight=9)), Caution(max_loss_fraction=0.0, min_ready=9))

    assert [type(change) for change in found.changes] == [Reweigh, Reweigh]


def test_an_address_in_two_slots_counts_once_and_either_may_leave() -> None:
    twice = seen(slot(1, 1), slot(2, 1), slot(3, 3))
    strict = Caution(max_loss_fraction=0.0)

    assert capacity(twice.backends["web"]) == 2
    assert leaving(guarded(wanted(want(1), want(3)), twice, strict)) == ["srv2"]
    assert leaving(guarded(wanted(want(3)), twice, strict)) == ["srv1"]
    assert deferred(guarded(wanted(want(3)), twice, strict)) == [("srv2", Reason.MAX_LOSS)]


def test_of_an_address_in_two_slots_the_one_that_passed_its_check_stays() -> None:
    for slots in ((slot(1, 1), fresh(slot(2, 1))), (fresh(slot(1, 1)), slot(2, 1))):
        found = guarded(wanted(want(3)), seen(*slots, slot(3, 3)), Caution(max_loss_fraction=0.0))

        assert [one.change.server for one in found.deferred] == [
            next(one.name for one in slots if one.first_check is FirstCheck.PASSED)
        ]
        assert len(leaving(found)) == 1


def test_what_a_person_sets_aside_is_not_counted_as_left() -> None:
    desired = attrs.evolve(wanted(want(1), want(2)), overrides={"web": {at(1): MAINT}})
    found = guarded(desired, seen(*GOOD))

    assert [type(change) for change in found.changes] == [SetOverride, Remove]
    assert deferred(found) == [("srv4", Reason.MAX_LOSS)]


@pytest.mark.parametrize("doubt", Doubt)
def test_on_a_doubt_additions_go_on_and_nothing_is_removed(doubt: Doubt) -> None:
    desired = wanted(want(1), want(2, weight=0), want(3, MAINT), want(5), doubt=doubt)
    observed = seen(*GOOD, attrs.evolve(down(slot(6, 6))), slot(7, 1), free(8))
    found = guarded(desired, observed, Caution(max_loss_fraction=1.0, min_ready=0))

    assert [(type(one).__name__, one.server) for one in found.changes if not isinstance(one, Remove)] == (
        [("Add", "srv8")] if doubt is not Doubt.FALLBACK else []
    )
    assert [(one.server, one.reason) for one in found.changes if isinstance(one, Remove)] == [
        ("srv7", Reason.DUPLICATE)
    ]
    assert {reason.value for _, reason in deferred(found)} == {doubt.value}


def test_every_doubt_is_a_reason() -> None:
    assert {doubt.value for doubt in Doubt} <= {reason.value for reason in Reason}


@pytest.mark.parametrize("doubt", [None, *Doubt])
def test_a_held_server_whose_address_another_service_has_by_now_leaves(doubt: Doubt | None) -> None:
    taken = Caution(taken=frozenset({at(2)}))
    found = guarded(wanted(doubt=doubt), seen(*GOOD), taken)

    assert leaving(found) == ["srv2"]
    assert [name for name, _ in deferred(found)] == ["srv1", "srv3", "srv4"]


def test_of_held_servers_whose_addresses_are_taken_as_many_stay_as_the_guard_keeps() -> None:
    every = Caution(taken=frozenset(map(at, (1, 2, 3, 4))))
    found = guarded(wanted(), seen(*GOOD), every)

    assert leaving(found) == ["srv1", "srv2"]
    assert deferred(found) == [("srv3", Reason.MAX_LOSS), ("srv4", Reason.MAX_LOSS)]
    assert leaving(guarded(wanted(), seen(*GOOD), attrs.evolve(every, max_loss_fraction=1.0, min_ready=0))) == [
        "srv1",
        "srv2",
        "srv3",
        "srv4",
    ]


def test_of_servers_that_leave_those_whose_addresses_are_taken_leave_first() -> None:
    found = guarded(WANT_NEW, seen(*GOOD), Caution(taken=frozenset({at(4)})))

    assert leaving(found) == ["srv4", "srv1"]


def test_a_service_that_vanished_keeps_all_its_servers() -> None:
    found = guarded(wanted(), seen(slot(1, 1), down(slot(2, 2)), slot(3, 3, DRAIN)), Caution(min_ready=0))

    assert found.changes == ()
    assert deferred(found) == [(f"srv{number}", Reason.SERVICE_GONE) for number in (1, 2, 3)]


def test_while_a_service_refills_nothing_is_removed() -> None:
    found = guarded(wanted(want(1), want(5)), seen(*GOOD, free(5)), Caution(is_refilling=True))

    assert [change.server for change in found.changes] == ["srv5"]
    assert deferred(found) == [(f"srv{number}", Reason.REFILLING) for number in (2, 3, 4)]


def test_a_reading_from_a_consul_that_went_back_takes_nothing_away_until_it_is_known_to_be_whole() -> None:
    desired, observed = wanted(want(1), is_backwards=True), seen(slot(1, 1), slot(2, 2))

    assert deferred(guarded(desired, observed)) == [("srv2", Reason.REFILLING)]
    assert deferred(guarded(desired, observed, Caution(is_refilling=True))) == [("srv2", Reason.REFILLING)]
    assert leaving(guarded(desired, observed, Caution(has_refilled=True))) == ["srv2"]


def test_what_a_person_released_goes_whatever_speaks_against_it() -> None:
    released = Caution(
        max_loss_fraction=0.0,
        min_ready=9,
        peak=9,
        is_refilling=True,
        damped=frozenset({at(5)}),
        is_released=True,
    )
    for desired in (wanted(want(5), doubt=Doubt.FALLBACK, is_backwards=True), wanted()):
        observed = seen(*GOOD, free(5))

        assert guarded(desired, observed, released) == diff(desired, observed)
        assert guarded(desired, seen(*GOOD), released) == diff(desired, seen(*GOOD))


FLAPPING = Caution(damped=frozenset({at(3), at(4)}))


def test_an_address_that_comes_and_goes_waits_while_there_is_capacity_enough() -> None:
    desired = wanted(*map(want, (1, 2, 3, 4)))
    observed = seen(slot(1, 1), slot(2, 2), slot(3, 3, MAINT), free(4))

    assert deferred(guarded(desired, observed, FLAPPING)) == [("srv4", Reason.FLAPPING), ("srv3", Reason.FLAPPING)]
    assert len(guarded(desired, observed, attrs.evolve(FLAPPING, peak=4)).deferred) == 2
    assert len(guarded(desired, observed, attrs.evolve(FLAPPING, peak=5)).changes) == 2


def test_an_address_that_comes_and_goes_may_go_and_needs_no_slot() -> None:
    leaves = guarded(wanted(want(1), want(2), want(3, MAINT)), seen(*GOOD[:3]), FLAPPING)
    full = guarded(wanted(want(1), want(3), want(5)), seen(slot(1, 1)), FLAPPING)
    needed = guarded(wanted(want(1), want(3), want(5)), seen(slot(1, 1)), attrs.evolve(FLAPPING, min_ready=2))

    assert leaving(leaves) == ["srv3"]
    assert full.shortages == (Shortage("web", (at(5),), 3),)
    assert needed.shortages == (Shortage("web", (at(3), at(5)), 3),)


def test_the_slot_that_waits_for_one_that_comes_and_goes_is_given_to_the_next() -> None:
    found = guarded(wanted(want(1), want(3), want(5)), seen(slot(1, 1), free(2)), FLAPPING)

    assert [(one.server, one.address) for one in found.changes if isinstance(one, Add)] == [("srv2", at(5))]
    assert found.shortages == ()
    assert [(one.change.address, one.reason) for one in found.deferred] == [(at(3), Reason.FLAPPING)]


def test_a_backend_that_haproxy_lacks_is_short_of_all_whatever_comes_and_goes() -> None:
    lacking = Observed({"web": Backend("web", exists=False)})

    assert guarded(wanted(want(3)), lacking, FLAPPING).shortages == (Shortage("web", (at(3),), 1, is_missing=True),)


FALLBACK = wanted(want(8), want(9), doubt=Doubt.FALLBACK)


def test_the_fallback_list_is_not_used_while_haproxy_serves_from_others() -> None:
    found = guarded(FALLBACK, seen(slot(1, 1), slot(8, 8, MAINT)))

    assert found.changes == ()
    assert found.shortages == ()
    assert {reason for _, reason in deferred(found)} == {Reason.FALLBACK}


@pytest.mark.parametrize("others", [(), (down(slot(1, 1)),), (slot(1, 1, DRAIN),), (slot(1, 1, weight=0),)])
def test_the_fallback_list_serves_when_no_other_does(others: tuple[Server, ...]) -> None:
    found = guarded(FALLBACK, seen(*others, free(8)))

    assert [change.server for change in found.changes] == ["srv8"]
    assert found.shortages == (Shortage("web", (at(9),), 2),)
    assert {reason for _, reason in deferred(found)} <= {Reason.FALLBACK}


def test_the_fallback_list_completes_itself() -> None:
    found = guarded(FALLBACK, seen(slot(8, 8), free(9)))

    assert [change.server for change in found.changes] == ["srv9"]


def test_what_is_held_by_hand_stays_held_beside_what_the_guard_holds() -> None:
    found = guarded(wanted(want(1), want(2)), seen(slot(1, 1, MAINT, weight=1), slot(2, 2), slot(3, 3), slot(4, 4)))

    assert found.deferred[0].reason is Reason.OVERRIDDEN
    assert [reason for _, reason in deferred(found)[1:]] == [Reason.MAX_LOSS]


def test_backends_are_guarded_one_by_one() -> None:
    desired = Desired({name: DesiredBackend(name, 1, (want(9, MAINT),)) for name in ("api", "web")})
    observed = Observed({name: Backend(name, (slot(1, 1),)) for name in ("api", "web")})
    found = guard(diff(desired, observed), observed, desired, {"api": Caution(max_loss_fraction=1.0, min_ready=0)})

    assert [change.backend for change in found.changes] == ["api"]
    assert [one.change.backend for one in found.deferred] == ["web"]


def test_the_guard_of_a_backend_is_what_its_configuration_says() -> None:
    backends = {
        "web": BackendConfig(service="web", max_loss_fraction=0.25, min_ready=3),
        "api": BackendConfig(service="api"),
    }
    state = GuardState(Config(backends=backends), SavedState())

    assert state.cautions() == {"web": Caution(max_loss_fraction=0.25, min_ready=3), "api": Caution()}


def test_first_checks_are_read_only_where_a_removal_is_due() -> None:
    observed = seen(fresh(slot(1, 1), FirstCheck.UNREAD), slot(2, 2), free(3))

    assert unread_first_checks(observed) == ("web",)
    assert needs_first_checks(diff(wanted(want(1), want(2), want(3)), observed), observed) == ()
    assert needs_first_checks(diff(wanted(want(1)), observed), observed) == ("web",)
    for known in (FirstCheck.PASSED, FirstCheck.MISSING):
        assert unread_first_checks(seen(fresh(slot(1, 1), known))) == ()
    assert unread_first_checks(seen(fresh(slot(1, 1, MAINT), FirstCheck.UNREAD))) == ()


def test_a_change_that_is_held_says_what_it_would_do() -> None:
    found = guarded(wanted(want(1, MAINT)), seen(slot(1, 1)))

    assert found.deferred == (Deferred(Disable("web", "srv1", at(1), Reason.CRITICAL), Reason.MIN_READY),)

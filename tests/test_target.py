"""The picture is what a HAProxy started now should show."""

import attrs
import pytest

from hapsync.haproxy.compare import says_the_same, shows
from hapsync.haproxy.show import with_scaling
from hapsync.model.catalog import Doubt
from hapsync.model.changes import Add, Deferred, Enable, Reason, Remove
from hapsync.model.server import (
    NO_LOAD,
    Address,
    AdminState,
    Backend,
    CheckStatus,
    FirstCheck,
    Load,
    Observed,
    Scaling,
    Server,
)
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.diff import diff
from hapsync.plan.guard import Caution, guard
from hapsync.plan.judge import broken_by_target
from hapsync.plan.moves import Facts
from hapsync.plan.simulate import FREE_SLOT
from hapsync.plan.target import TargetState, target_grown, target_now

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
STATUS = {READY: CheckStatus.PASSING, DRAIN: CheckStatus.MAINTENANCE, MAINT: CheckStatus.CRITICAL}
BUSY = Load(1, 0, 0, 0)


def at(number: int) -> Address:
    return Address(f"10.0.0.{number}", 80)


def want(number: int, admin: AdminState = READY) -> DesiredServer:
    return DesiredServer(at(number), admin, 1, f"n{number}", f"web-{number}", STATUS[admin])


def wanted(*servers: DesiredServer, slots: int = 3) -> Desired:
    return Desired({"web": DesiredBackend("web", slots, servers)})


def slot(
    name: int, number: int, admin: AdminState = READY, load: Load | None = NO_LOAD, weight: int | None = None
) -> Server:
    """A server as hapsync leaves it: what is not ready has no weight."""
    weight = int(admin is READY) if weight is None else weight
    return Server(f"srv{name}", at(number), admin, weight, is_up=admin is not MAINT, load=load)


def free(name: int) -> Server:
    return attrs.evolve(FREE_SLOT, name=f"srv{name}")


def seen(*slots: Server) -> Observed:
    return Observed({"web": Backend("web", slots)})


def meant(*slots: Server) -> TargetState:
    return TargetState(seen(*slots).backends)


def test_a_picture_has_all_due_changes_made() -> None:
    observed = seen(slot(1, 1), slot(2, 2), free(3))
    desired = wanted(want(1, DRAIN), want(3))

    assert meant(slot(1, 1, DRAIN), free(2), slot(3, 3)) == target_now(desired, observed)


def test_a_new_worker_has_no_sessions_so_every_slot_in_maint_is_free_in_a_picture() -> None:
    observed = seen(slot(1, 9, MAINT, BUSY), slot(2, 8, MAINT, load=None))

    assert meant(slot(1, 1), slot(2, 2)) == target_now(wanted(want(1), want(2)), observed)


def test_slots_that_no_instance_has_point_where_nobody_listens() -> None:
    observed = seen(slot(1, 9, MAINT), slot(2, 1, MAINT), slot(3, 1))

    assert meant(free(1), free(2), slot(3, 1)) == target_now(wanted(want(1)), observed)


def test_a_server_held_by_hand_stays_in_a_picture() -> None:
    observed = seen(slot(1, 9, MAINT, weight=7), slot(2, 1, DRAIN, weight=7), slot(3, 2))
    desired = wanted(want(1), want(2), want(3))
    deferred = diff(desired, observed).deferred

    assert TargetState(observed.backends) == target_now(desired, observed, deferred)
    assert meant(*observed.backends["web"].slots, slot(4, 3), free(5), free(6)) == target_grown(
        desired, observed, ["web"], deferred
    )


def test_what_is_held_is_not_made_in_a_picture() -> None:
    observed = seen(slot(1, 1), slot(2, 2), slot(3, 3, MAINT), free(4))
    desired = wanted(want(1), want(3), want(4))
    found = diff(desired, observed)

    assert [type(change) for change in found.changes] == [Add, Enable, Remove]
    for change in found.changes:
        target = target_grown(desired, observed, ["web"], [Deferred(change, Reason.MAX_LOSS)])
        ready = {one.address for one in target.backends["web"].ready}

        assert {at(1), at(3), at(4)} - ready == ({change.address} if not isinstance(change, Remove) else set())
        assert (at(2) in ready) is isinstance(change, Remove)


def test_an_entry_that_is_held_is_made_on_no_other_slot_of_a_picture_either() -> None:
    observed = seen(slot(1, 1), free(2))
    desired = wanted(want(1), want(2))
    deferred = [Deferred(Add("web", "srv2", at(2), 1, Reason.PASSING), Reason.FLAPPING)]

    assert {one.address for one in target_grown(desired, observed, ["web"], deferred).backends["web"].ready} == {
        at(1)
    }


def test_a_critical_instance_keeps_its_slot_in_a_picture() -> None:
    observed = seen(slot(1, 1, MAINT), slot(2, 2))

    assert TargetState(observed.backends) == target_now(wanted(want(1, MAINT), want(2)), observed)


def test_equal_states_make_equal_pictures_whatever_was_there_before() -> None:
    desired = wanted(want(1))

    assert target_now(desired, seen(slot(1, 1), slot(2, 7, MAINT, BUSY))) == target_now(
        desired, seen(slot(1, 1), slot(2, 8, MAINT))
    )


def test_a_service_that_is_gone_whole_stays_in_the_picture() -> None:
    observed = seen(slot(1, 1), slot(2, 2))
    deferred = guard(diff(wanted(), observed), observed, wanted(), {}).deferred

    assert TargetState(observed.backends) == target_now(wanted(), observed, deferred)


def test_a_backend_that_was_not_read_stays_as_it_is_in_the_picture() -> None:
    observed = seen(slot(1, 9, MAINT, weight=7), slot(2, 2, DRAIN))

    assert TargetState(observed.backends) == target_now(Desired({}), observed)


def test_a_grown_picture_holds_everything() -> None:
    observed = seen(slot(1, 9, MAINT, BUSY), slot(2, 2))
    desired = wanted(want(1), want(2), want(3), slots=1)
    target = target_grown(desired, observed, ["web"])

    assert meant(slot(1, 1), slot(2, 2), slot(3, 3), free(4), free(5)) == target
    assert diff(desired, target.as_observed()).changes == ()


def test_a_grown_picture_has_the_backends_haproxy_lacks() -> None:
    observed = Observed({"web": Backend("web", exists=False)})

    assert meant(slot(1, 1), free(2), free(3)) == target_grown(wanted(want(1)), observed, ["web"])


def test_a_picture_is_whole_after_a_backend_was_replaced_while_haproxy_was_down() -> None:
    observed = seen(*(slot(number, 100 + number) for number in range(1, 9)))
    desired = wanted(*(want(number) for number in range(1, 10)))
    target = target_grown(desired, observed, ["web"])

    assert {one.address for one in target.backends["web"].ready} == {at(number) for number in range(1, 10)}


def test_a_reload_lets_nobody_into_a_slot_whose_last_instance_has_clients_in_a_stick_table() -> None:
    observed = seen(slot(1, 9, MAINT, BUSY), slot(2, 2), slot(3, 8))
    sticky = with_scaling(observed, {"web": Scaling(tables=("mates/t1",))})
    desired = wanted(want(1), want(2), want(3))

    def reloaded_into(live: Observed) -> TargetState:
        return target_grown(desired, live, ["web"], lets_in=False)

    assert reloaded_into(observed).backends["web"].slots[0] == slot(1, 1)
    assert reloaded_into(sticky) == meant(free(1), slot(2, 2), slot(3, 8), free(4), free(5), free(6))


def test_a_reload_lets_everybody_in_where_nothing_serves_whatever_sticks() -> None:
    sticky = with_scaling(seen(slot(1, 9, MAINT, BUSY)), {"web": Scaling(tables=("mates/t1",))})

    assert target_grown(wanted(want(1)), sticky, ["web"], lets_in=False).backends["web"].ready == (slot(1, 1),)


FILE = """\
backend web
    server srv1 10.0.0.1:80 weight 1 check  # x
    server srv2 10.0.0.2:80 weight 5 check disabled
    server srv3 127.0.0.1:1 weight 1 check disabled
"""
MEANT = meant(slot(1, 1), slot(2, 2, DRAIN, weight=5), free(3))


@pytest.mark.parametrize(("start", "after_a_reload"), [("checked", (READY, MAINT)), ("trusted", (READY, READY))])
def test_a_server_that_is_down_waits_for_a_pass_after_a_reload_where_it_must_be_checked_first(
    start: str, after_a_reload: tuple[AdminState, AdminState]
) -> None:
    observed = seen(slot(1, 1), attrs.evolve(slot(2, 2), is_up=False))
    desired = Desired({"web": attrs.evolve(wanted(want(1), want(2), want(3)).backends["web"], start=start)})

    assert admins(target_grown(desired, observed, ["web"], lets_in=False))[:2] == after_a_reload
    assert admins(target_grown(desired, observed, ["web"]))[:2] == (READY, READY)


def test_two_servers_of_one_address_stay_through_a_reload_on_a_doubtful_answer_though_one_is_down() -> None:
    first, second = attrs.evolve(slot(1, 1), is_up=False), slot(2, 1, weight=0)
    observed = seen(first, second, slot(3, 3))
    doubted = attrs.evolve(wanted(want(1, MAINT), want(3)).backends["web"], start="checked", doubt=Doubt.STALE)
    desired = Desired({"web": doubted})
    cautions = {"web": Caution(max_loss_fraction=1.0, min_ready=0)}
    deferred = guard(diff(desired, observed), observed, desired, cautions).deferred
    target = target_grown(desired, observed, [], deferred, lets_in=False)

    assert broken_by_target(target, Facts(desired, observed, cautions)) == ()


def test_servers_that_are_down_stay_through_a_reload_where_nothing_serves() -> None:
    observed = seen(attrs.evolve(slot(1, 1), is_up=False))
    desired = Desired({"web": attrs.evolve(wanted(want(1), want(2)).backends["web"], start="checked")})

    assert admins(target_grown(desired, observed, ["web"], lets_in=False))[0] is READY


def admins(target: TargetState) -> tuple[AdminState, ...]:
    return tuple(one.admin for one in target.backends["web"].slots)


def test_a_file_that_holds_the_same_slots_says_the_same() -> None:
    assert says_the_same(FILE, MEANT)
    assert says_the_same(FILE, meant(*MEANT.backends["web"].slots[:2], attrs.evolve(free(3), load=BUSY)))


def test_a_file_that_differs_in_a_slot_does_not_say_the_same() -> None:
    for old, new in (("10.0.0.1:80", "10.0.0.9:80"), ("weight 5", "weight 6"), ("disabled", ""), ("srv3", "srv4")):
        assert not says_the_same(FILE.replace(old, new, 1), MEANT)
    assert not says_the_same(FILE + "    server srv4 127.0.0.1:1 weight 1 disabled\n", MEANT)
    assert not says_the_same("", MEANT)
    assert not says_the_same(FILE.replace("backend web", "backend api"), MEANT)


def test_backends_that_are_not_in_the_picture_or_do_not_exist_say_nothing() -> None:
    assert says_the_same(FILE + "backend api\n    server srv1 10.0.0.1:80\n", MEANT)
    assert says_the_same("", TargetState({"web": Backend("web", exists=False)}))


def test_a_reading_that_is_the_picture_shows_it() -> None:
    reading = seen(*(attrs.evolve(one, load=BUSY, is_up=False) for one in MEANT.backends["web"].slots))

    assert shows(reading, MEANT) == ()


def test_every_difference_from_the_picture_is_told() -> None:
    reading = seen(slot(1, 9, weight=2), slot(2, 2, MAINT, weight=5), slot(4, 4))

    assert shows(reading, MEANT) == (
        "web/srv1 is 10.0.0.9:80 ready weight 2, expected was 10.0.0.1:80 ready weight 1",
        "web/srv2 is 10.0.0.2:80 maint weight 5, expected was 10.0.0.2:80 drain weight 5",
        "web/srv3 is missing",
        "web/srv4 was not expected there",
    )
    assert shows(Observed({}), meant(slot(1, 1))) == ("web/srv1 is missing",)


def test_of_two_servers_at_rest_with_one_address_the_picture_keeps_the_one_that_is_held() -> None:
    overridden = attrs.evolve(slot(1, 1, MAINT, weight=7), name="dyn-web.1-1000001", first_check=FirstCheck.MISSING)
    at_rest = attrs.evolve(slot(2, 1, MAINT), name="dyn-web.1-1000002")
    observed, desired = seen(overridden, at_rest), wanted(want(1), slots=0)
    cautions = {"web": Caution(damped=frozenset({at(1)}), min_ready=0)}
    deferred = guard(diff(desired, observed), observed, desired, cautions).deferred

    assert [(one.change.server, one.reason) for one in deferred] == [(at_rest.name, Reason.FLAPPING)]
    assert meant(overridden, at_rest) == target_now(desired, observed, deferred)

"""What differs is found address by address; slots are only taken when nothing is on them."""

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
from hapsync.model.server import (
    NO_LOAD,
    PLACEHOLDER,
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
from hapsync.plan.diff import Diff, diff, needs_loads
from hapsync.plan.simulate import FREE_SLOT, after, as_new_worker, grow

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
BUSY = Load(1, 0, 0, 0)
STATUS = {READY: CheckStatus.PASSING, DRAIN: CheckStatus.MAINTENANCE, MAINT: CheckStatus.CRITICAL}


def at(number: int) -> Address:
    return Address(f"10.0.0.{number}", 80)


def want(number: int, admin: AdminState = READY, weight: int = 1) -> DesiredServer:
    return DesiredServer(at(number), admin, weight, f"n{number}", f"web-{number}", STATUS[admin])


def slot(
    name: int, number: int, admin: AdminState = READY, weight: int | None = None, load: Load | None = NO_LOAD
) -> Server:
    """A server as hapsync leaves it: what is not ready has no weight."""
    weight = int(admin is READY) if weight is None else weight
    return Server(f"srv{name}", at(number), admin, weight, is_up=admin is not MAINT, load=load)


def free(name: int, load: Load | None = NO_LOAD) -> Server:
    return attrs.evolve(FREE_SLOT, name=f"srv{name}", load=load)


def wanted(*servers: DesiredServer, slots: int = 4, name: str = "web") -> Desired:
    return Desired({name: DesiredBackend(name, slots, tuple(sorted(servers, key=lambda one: one.address)))})


def seen(*slots: Server, name: str = "web", foreign: tuple[Server, ...] = ()) -> Observed:
    return Observed({name: Backend(name, slots, foreign)})


@pytest.mark.parametrize(
    ("due", "have", "change"),
    [
        (want(1), slot(1, 1), None),
        (want(1), slot(1, 1, DRAIN), Enable("web", "srv1", at(1), 1, Reason.PASSING)),
        (want(1, weight=9), slot(1, 1, MAINT, load=BUSY), Enable("web", "srv1", at(1), 9, Reason.PASSING)),
        (want(1, weight=9), slot(1, 1), Reweigh("web", "srv1", at(1), 9, 1, Reason.WEIGHT)),
        (want(1, weight=0), slot(1, 1), Reweigh("web", "srv1", at(1), 0, 1, Reason.WEIGHT)),
        (want(1, DRAIN), slot(1, 1), Drain("web", "srv1", at(1), Reason.MAINTENANCE)),
        (want(1, DRAIN), slot(1, 1, MAINT), Drain("web", "srv1", at(1), Reason.MAINTENANCE)),
        (want(1, DRAIN, 9), slot(1, 1, DRAIN), None),
        (want(1, MAINT), slot(1, 1), Disable("web", "srv1", at(1), Reason.CRITICAL)),
        (want(1, MAINT), slot(1, 1, DRAIN), Disable("web", "srv1", at(1), Reason.CRITICAL)),
        (want(1, MAINT, 9), slot(1, 1, MAINT, load=BUSY), None),
    ],
)
def test_a_slot_that_has_the_address_is_brought_to_its_state(
    due: DesiredServer, have: Server, change: Change | None
) -> None:
    expected = Diff((change,) if change is not None else ())

    assert expected == diff(wanted(due), seen(have, free(2)))


def test_a_warning_instance_is_enabled_as_warning() -> None:
    due = attrs.evolve(want(1, weight=2), status=CheckStatus.WARNING)

    assert diff(wanted(due), seen(slot(1, 1, MAINT))).changes == (Enable("web", "srv1", at(1), 2, Reason.WARNING),)
    assert diff(wanted(due), seen(free(1))).changes == (Add("web", "srv1", at(1), 2, Reason.WARNING),)


def test_a_new_address_takes_the_first_idle_slot() -> None:
    found = diff(wanted(want(1), want(2, weight=7)), seen(slot(1, 9, MAINT, load=BUSY), free(2), slot(10, 8, MAINT)))

    assert found == Diff(
        (
            Add("web", "srv2", at(1), 1, Reason.PASSING),
            Add("web", "srv10", at(2), 7, Reason.PASSING),
        )
    )


@pytest.mark.parametrize("admin", [DRAIN, MAINT])
def test_an_instance_that_should_not_serve_takes_no_slot(admin: AdminState) -> None:
    assert diff(wanted(want(1, admin)), seen(free(1))) == Diff()


@pytest.mark.parametrize("load", [None, BUSY, Load(0, 1, 0, 0), Load(0, 0, 1, 0), Load(0, 0, 0, 1)])
def test_a_slot_that_is_not_known_to_be_idle_is_not_given_another_address(load: Load | None) -> None:
    found = diff(wanted(want(1)), seen(slot(1, 9, MAINT, load=load)))

    assert found == Diff(shortages=(Shortage("web", (at(1),), 1),))


def test_a_slot_that_is_left_now_is_free_only_at_the_next_reading() -> None:
    found = diff(wanted(want(1)), seen(slot(1, 9)))

    assert found == Diff((Remove("web", "srv1", at(9), Reason.GONE),), (Shortage("web", (at(1),), 1),))


def test_what_found_no_slot_is_a_shortage_in_the_order_of_addresses() -> None:
    found = diff(wanted(want(3), want(1), want(2)), seen(free(1)))

    assert found == Diff((Add("web", "srv1", at(1), 1, Reason.PASSING),), (Shortage("web", (at(2), at(3)), 3),))


def test_a_critical_instance_keeps_its_slot_from_others() -> None:
    found = diff(wanted(want(1, MAINT), want(2)), seen(slot(1, 1, MAINT)))

    assert found == Diff(shortages=(Shortage("web", (at(2),), 1),))


@pytest.mark.parametrize("have", [slot(2, 9, MAINT), free(2)], ids=["of another", "at the placeholder"])
def test_a_slot_that_is_given_away_forgets_whose_it_was_also_where_a_reload_has_tidied_it(have: Server) -> None:
    sticky = attrs.evolve(
        seen().backends["web"], slots=(attrs.evolve(have, id=7),), scaling=Scaling(tables=("a", "b/c"))
    )
    [change] = diff(wanted(want(1)), Observed({"web": sticky})).changes

    assert isinstance(change, Add)
    assert change.forgets == (("a", 7), ("b/c", 7))


@pytest.mark.parametrize("address", [at(9), PLACEHOLDER, None])
def test_what_serves_and_is_not_in_the_catalog_is_removed(address: Address | None) -> None:
    stray = attrs.evolve(slot(2, 9), address=address)

    assert diff(wanted(want(1)), seen(slot(1, 1), stray)).changes == (Remove("web", "srv2", address, Reason.GONE),)
    assert diff(wanted(want(1)), seen(slot(1, 1), attrs.evolve(stray, admin=DRAIN, weight=0))).changes == (
        Remove("web", "srv2", address, Reason.GONE),
    )


@pytest.mark.parametrize(
    ("admins", "kept"),
    [
        ((READY, READY), "srv1"),
        ((DRAIN, READY), "srv2"),
        ((MAINT, DRAIN), "srv2"),
        ((MAINT, READY), "srv2"),
    ],
)
def test_of_two_slots_with_one_address_the_one_that_serves_stays(
    admins: tuple[AdminState, AdminState], kept: str
) -> None:
    slots = [slot(number, 1, admin) for number, admin in enumerate(admins, 1)]
    found = diff(wanted(want(1)), seen(*slots))
    expected = [
        Remove("web", one.name, at(1), Reason.DUPLICATE)
        for one in slots
        if one.name != kept and one.admin is not MAINT
    ]

    assert expected == [change for change in found.changes if isinstance(change, Remove)]
    assert {change.server for change in found.changes if not isinstance(change, Remove)} <= {kept}


def test_a_free_slot_that_still_has_an_old_address_is_taken_for_that_address_first() -> None:
    found = diff(wanted(want(9)), seen(free(1), slot(2, 9, MAINT, load=BUSY)))

    assert found.changes == (Enable("web", "srv2", at(9), 1, Reason.PASSING),)


def test_all_of_a_service_that_is_gone_whole_is_due_to_go() -> None:
    found = diff(wanted(), seen(slot(1, 1), slot(2, 2, DRAIN), slot(3, 3, MAINT), free(4)))

    assert found == Diff(tuple(Remove("web", f"srv{number}", at(number), Reason.GONE) for number in (1, 2)))


@pytest.mark.parametrize("admin", [DRAIN, MAINT])
@pytest.mark.parametrize("due", [(want(1),), (want(1, DRAIN),), (want(1, MAINT),), (), (want(2, MAINT),)])
def test_a_server_held_by_hand_is_left_as_it_is_and_what_is_due_on_it_is_held(
    admin: AdminState, due: tuple[DesiredServer, ...]
) -> None:
    deferred = slot(1, 1, admin, weight=5)
    ours = diff(wanted(*due), seen(attrs.evolve(deferred, weight=0)))
    found = diff(wanted(*due), seen(deferred))

    assert found.changes == ()
    assert found.deferred == tuple(Deferred(change, Reason.OVERRIDDEN) for change in ours.changes)
    assert found.shortages == ()


def test_a_slot_held_by_hand_is_given_to_nobody_else() -> None:
    assert diff(wanted(want(2)), seen(slot(1, 1, MAINT, weight=5))).shortages == (Shortage("web", (at(2),), 1),)


def asked_for(admin: AdminState | None) -> Desired:
    """Return two wanted servers, the first of them set aside, or released."""
    return attrs.evolve(wanted(want(1), want(2)), overrides={"web": {at(1): admin}})


@pytest.mark.parametrize("admin", [DRAIN, MAINT])
@pytest.mark.parametrize(
    ("have", "weight"),
    [(slot(1, 1, weight=7), 7), (slot(1, 1, weight=0), 1), (slot(1, 1, MAINT), 1), (slot(1, 1, DRAIN), 1)],
)
def test_what_a_person_asks_for_is_set_aside_with_a_weight_that_marks_it(
    have: Server, weight: int, admin: AdminState
) -> None:
    observed = seen(have, slot(2, 2))
    found = diff(asked_for(admin), observed)

    assert found == Diff((SetOverride("web", "srv1", at(1), admin, weight),))
    assert diff(asked_for(admin), after(observed, found.changes)) == Diff(
        deferred=(Deferred(Enable("web", "srv1", at(1), 1, Reason.PASSING), Reason.OVERRIDDEN),)
    )


def test_a_hold_can_become_a_drain() -> None:
    found = diff(asked_for(DRAIN), seen(slot(1, 1, MAINT, weight=7), slot(2, 2)))

    assert found.changes == (SetOverride("web", "srv1", at(1), DRAIN, 7),)


def test_what_a_person_released_becomes_ours_and_then_what_the_catalog_says() -> None:
    observed = seen(slot(1, 1, MAINT, weight=7), slot(2, 2))
    first = diff(asked_for(None), observed)
    observed = after(observed, first.changes)

    assert first == Diff((ClearOverride("web", "srv1", at(1)),))
    assert diff(asked_for(None), observed) == Diff((Enable("web", "srv1", at(1), 1, Reason.PASSING),))


def test_an_address_set_aside_that_has_no_slot_gets_none_until_it_is_released() -> None:
    observed = seen(free(1), slot(2, 2))

    assert diff(asked_for(MAINT), observed) == Diff()
    assert diff(asked_for(None), observed).changes == (Add("web", "srv1", at(1), 1, Reason.PASSING),)


def test_a_server_of_a_service_that_was_never_read_can_be_set_aside() -> None:
    desired = Desired({}, {"web": {at(1): MAINT}})

    assert diff(desired, seen(slot(1, 1), slot(2, 2))).changes == (SetOverride("web", "srv1", at(1), MAINT, 1),)


def test_of_two_slots_with_one_address_the_one_that_haproxy_sends_to_stays() -> None:
    down = attrs.evolve(slot(1, 1), is_up=False)
    silent = slot(1, 1, weight=0)
    unchecked = attrs.evolve(slot(1, 1), first_check=FirstCheck.MISSING)
    for worse in (down, silent, unchecked):
        found = diff(wanted(want(1)), seen(worse, slot(2, 1)))

        assert found.changes == (Remove("web", "srv1", at(1), Reason.DUPLICATE),)


def test_a_service_whose_last_instance_is_critical_is_not_gone() -> None:
    found = diff(wanted(want(1, MAINT)), seen(slot(1, 1), slot(2, 2)))

    assert [type(change) for change in found.changes] == [Disable, Remove]
    assert found.deferred == ()


def test_a_backend_that_haproxy_lacks_is_short_of_everything() -> None:
    lacking = Observed({"web": Backend("web", exists=False)})

    assert diff(wanted(want(1), want(2, MAINT)), lacking) == Diff(
        shortages=(Shortage("web", (at(1),), 1, is_missing=True),)
    )
    assert diff(wanted(), lacking) == Diff(shortages=(Shortage("web", (), 0, is_missing=True),))


def test_a_backend_with_only_foreign_servers_is_short_when_something_is_wanted() -> None:
    found = diff(wanted(want(1)), seen(foreign=(attrs.evolve(slot(1, 1), name="mine"),)))

    assert found == Diff(shortages=(Shortage("web", (at(1),), 1),))


def test_backends_that_are_not_in_both_are_not_looked_at() -> None:
    assert diff(wanted(want(1)), seen(slot(1, 9), name="api")) == Diff()


@pytest.mark.parametrize(
    ("slots", "backends"),
    [
        ((slot(1, 9, MAINT, load=None),), ("web",)),
        ((slot(1, 9, MAINT, load=BUSY),), ()),
        ((slot(1, 9, READY, load=None),), ()),
        ((slot(1, 9, MAINT, load=BUSY), slot(2, 8, MAINT, load=None)), ("web",)),
        ((slot(1, 9, MAINT, load=BUSY), free(2, None)), ()),
        ((free(1), free(2, None)), ()),
        ((), ()),
    ],
)
def test_loads_are_needed_only_where_they_decide(slots: tuple[Server, ...], backends: tuple[str, ...]) -> None:
    observed = seen(*slots)

    assert backends == needs_loads(diff(wanted(want(1)), observed), wanted(want(1)), observed)


def dynamic(number: int, admin: AdminState = MAINT, *, since_seconds: int = 60) -> Server:
    """A dynamic server whose load was not read."""
    one = slot(1, number, admin, load=None)
    return attrs.evolve(one, name=f"dyn-web-{number:07x}", since_seconds=since_seconds)


def seen_dynamic(*slots: Server) -> Observed:
    return Observed({"web": Backend("web", slots, scaling=Scaling(can_add=True))})


def wanted_dynamic(*servers: DesiredServer, scaling: str) -> Desired:
    (one,) = wanted(*servers).backends.values()
    return Desired({"web": attrs.evolve(one, scaling=scaling)})


@pytest.mark.parametrize(
    ("due", "have", "backends"),
    [
        ((want(2),), dynamic(2, READY), ("web",)),
        ((want(2), want(3)), dynamic(2, READY), ()),
        ((want(2, weight=9),), dynamic(2, READY), ("web",)),
        ((want(2),), dynamic(2), ()),
    ],
)
def test_whoever_comes_in_does_not_wait_for_what_is_read_only_to_delete(
    due: tuple[DesiredServer, ...], have: Server, backends: tuple[str, ...]
) -> None:
    desired, observed = wanted_dynamic(*due, scaling="auto"), seen_dynamic(dynamic(1), have)
    found = diff(desired, observed)

    assert backends == needs_loads(found, desired, observed, entries_first=True)
    assert needs_loads(found, desired, observed) == ("web",)


def test_where_servers_are_added_for_everyone_no_slot_is_looked_at_first() -> None:
    observed = seen_dynamic(slot(1, 9, MAINT, load=None))
    only, auto = wanted_dynamic(want(1), scaling="dynamic"), wanted_dynamic(want(1), scaling="auto")

    assert needs_loads(diff(only, observed), only, observed) == ()
    assert needs_loads(diff(auto, observed), auto, observed) == ("web",)


def test_loads_are_not_needed_for_a_backend_haproxy_lacks() -> None:
    lacking = Observed({"web": Backend("web", exists=False)})

    assert needs_loads(diff(wanted(want(1)), lacking), wanted(want(1)), lacking) == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Add("web", "srv1", at(2), 7, Reason.PASSING), slot(1, 2, READY, 7, BUSY)),
        (Enable("web", "srv1", at(1), 7, Reason.PASSING), slot(1, 1, READY, 7, BUSY)),
        (Reweigh("web", "srv1", at(1), 7, 1, Reason.WEIGHT), slot(1, 1, READY, 7, BUSY)),
        (Drain("web", "srv1", at(1), Reason.MAINTENANCE), slot(1, 1, DRAIN, 0, BUSY)),
        (Disable("web", "srv1", at(1), Reason.CRITICAL), slot(1, 1, MAINT, 0, BUSY)),
        (Remove("web", "srv1", at(1), Reason.GONE), slot(1, 1, MAINT, 0, BUSY)),
        (SetOverride("web", "srv1", at(1), MAINT, 3), slot(1, 1, MAINT, 3, BUSY)),
        (SetOverride("web", "srv1", at(1), DRAIN, 3), slot(1, 1, DRAIN, 3, BUSY)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_change_leads_to_the_reading_that_follows_it(change: Change, expected: Server) -> None:
    admin = READY if isinstance(change, Reweigh) else AdminState.MAINT if isinstance(change, Add | Enable) else READY
    before = slot(1, 1, admin, 1, BUSY)
    other = Backend("api", (before,))
    observed = after(Observed({"web": Backend("web", (before, slot(2, 2))), "api": other}), [change])

    assert Observed({"web": Backend("web", (expected, slot(2, 2))), "api": other}) == observed


def test_a_new_worker_has_the_same_servers_and_no_load() -> None:
    observed = as_new_worker(seen(slot(1, 1, DRAIN, 5, BUSY), slot(2, 2, MAINT, load=None)))

    assert seen(slot(1, 1, DRAIN, 5), slot(2, 2, MAINT)) == observed


@pytest.mark.parametrize(
    ("slots", "have", "need", "count"),
    [
        (1, 1, 2, 3),
        (4, 4, 5, 8),
        (4, 4, 6, 9),
        (4, 10, 11, 20),
        (4, 4, 100, 150),
        (50, 4, 5, 50),
        (4, 0, 0, 4),
        (4, 0, 3, 5),
        (4, 0, 1, 4),
    ],
)
def test_a_backend_grows_to_twice_its_slots_and_half_more_than_its_need(
    slots: int, have: int, need: int, count: int
) -> None:
    desired = wanted(*map(want, range(1, need + 1)), slots=slots)
    observed = Observed({"web": Backend("web", tuple(map(free, range(1, have + 1))), exists=have > 0)})
    grown = grow(observed, desired, ("web",)).backends["web"]

    assert grown.exists
    assert [f"srv{number}" for number in range(1, count + 1)] == [one.name for one in grown.slots]


def test_slots_that_critical_instances_keep_are_part_of_the_need() -> None:
    critical = [want(number, MAINT) for number in range(1, 5)]
    desired = wanted(*critical, want(5), want(6), slots=1)
    observed = seen(*(slot(number, number, MAINT) for number in range(1, 5)))

    assert len(grow(observed, desired, ("web",)).backends["web"].slots) == 9


def test_a_backend_that_serves_what_is_gone_grows_enough_for_all_that_is_new() -> None:
    observed = seen(*(slot(number, 100 + number) for number in range(1, 9)))
    desired = wanted(*(want(number) for number in range(1, 10)))
    grown = as_new_worker(grow(observed, desired, ("web",)))

    assert diff(desired, grown).shortages == ()


def test_a_slot_whose_address_operators_override_is_no_free_one() -> None:
    """Four servers that operators take out, and a fifth slot that is idle and has the same address."""
    observed = seen(*(slot(number, 100) for number in range(1, 5)), slot(5, 100, MAINT))
    desired = attrs.evolve(wanted(*(want(number) for number in range(1, 7))), overrides={"web": {at(100): MAINT}})
    grown = as_new_worker(grow(observed, desired, ("web",)))

    assert diff(desired, grown).shortages == ()


def test_a_backend_that_is_not_short_grows_only_to_what_its_configuration_asks_for() -> None:
    observed = seen(slot(1, 1), slot(3, 3))

    assert [one.name for one in grow(observed, wanted(slots=1), ()).backends["web"].slots] == ["srv1", "srv3"]
    assert [one.name for one in grow(observed, wanted(slots=4), ()).backends["web"].slots] == [
        "srv1",
        "srv2",
        "srv3",
        "srv4",
    ]


def test_growing_keeps_what_is_there_and_adds_free_slots() -> None:
    kept = (slot(1, 1, DRAIN, 5, BUSY), slot(3, 3))
    foreign = (attrs.evolve(slot(1, 9), name="mine"),)
    other = Backend("api", (slot(1, 1),))
    observed = Observed({"web": Backend("web", kept, foreign), "api": other})
    grown = grow(observed, wanted(slots=4), ())

    assert Observed({"web": Backend("web", (kept[0], free(2), kept[1], free(4)), foreign), "api": other}) == grown


def test_a_free_slot_points_where_nobody_listens() -> None:
    assert FREE_SLOT.is_idle
    assert Address("127.0.0.1", 1) == FREE_SLOT.address

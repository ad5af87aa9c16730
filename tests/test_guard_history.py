"""What the guard remembers: the most capacity within a window, a service that refills, instances that flap."""

from collections.abc import Mapping

import attrs
import pytest

from hapsync.model.catalog import Doubt, Quarantined
from hapsync.model.overrides import Refill
from hapsync.model.server import NO_LOAD, Address, AdminState, Backend, CheckStatus, FirstCheck, Server
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.guard_history import Flaps, Peaks, capacity_or_ready, peak, refilled, seen

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
STATUS = {READY: CheckStatus.PASSING, DRAIN: CheckStatus.MAINTENANCE, MAINT: CheckStatus.CRITICAL}


def at(number: int) -> Address:
    return Address(f"10.0.0.{number}", 80)


def want(number: int, admin: AdminState = READY, weight: int = 1) -> DesiredServer:
    return DesiredServer(at(number), admin, weight, f"n{number}", f"web-{number}", STATUS[admin])


def service(
    count: int, *, critical: int = 0, is_backwards: bool = False, doubt: Doubt | None = None
) -> DesiredBackend:
    servers = [want(number, READY if number <= count else MAINT) for number in range(1, count + critical + 1)]
    return DesiredBackend("web", 4, tuple(servers), doubt=doubt, is_backwards=is_backwards)


def serving(count: int, first_check: FirstCheck = FirstCheck.PASSED) -> Backend:
    slots = (
        Server(f"srv{number}", at(number), READY, 1, is_up=True, load=NO_LOAD, first_check=first_check)
        for number in range(1, count + 1)
    )
    return Backend("web", tuple(slots))


def remembered(*capacities: tuple[float, int], window: float = 60.0) -> Peaks:
    peaks: Peaks = ()
    for when, amount in capacities:
        peaks = seen(peaks, when, amount, window)
    return peaks


def test_the_peak_is_the_most_there_was_within_the_window() -> None:
    peaks = remembered((0, 4), (10, 10), (20, 6), (30, 8), (40, 3))

    assert [peak(peaks, now, 60) for now in (40, 70, 71, 90, 91, 100, 101)] == [10, 10, 8, 8, 3, 3, 0]


def test_a_capacity_counts_from_when_it_was_seen_last() -> None:
    peaks = remembered((0, 10), (50, 10), (55, 5))

    assert peak(peaks, 110, 60) == 10
    assert peak(peaks, 110.1, 60) == 5


def test_nothing_seen_is_no_peak() -> None:
    assert peak((), 5, 60) == 0


def test_with_a_window_of_nothing_only_this_moment_counts() -> None:
    peaks = remembered((0, 10), (1, 5), window=0)

    assert peak(peaks, 1, 0) == 5


def test_what_is_remembered_stays_short() -> None:
    up_and_down = remembered(*((second, second % 10) for second in range(1000)))

    assert len(up_and_down) <= 10
    assert len(remembered(*((second, 2000 - second) for second in range(1000)))) <= 62


def test_times_from_the_future_are_forgotten() -> None:
    assert seen(((500.0, 10),), 5.0, 3, 60) == ((5.0, 3),)


def after(
    refill: Refill | None, want: DesiredBackend, have: Backend, now: float, *, fraction: float = 0.5
) -> Refill | None:
    return refilled(refill, want, have, now, window_seconds=60, max_loss_fraction=fraction)


def test_a_service_that_is_there_refills_nothing() -> None:
    assert after(None, service(4), serving(4), 1) is None
    assert after(None, service(1), serving(4), 1) is None
    assert after(None, service(0, critical=4), serving(4), 1) is None


def test_a_service_that_vanished_refills_from_what_served() -> None:
    assert after(None, service(0), serving(4), 5) == Refill(was=4, since=5, changed=5, serving=0)
    assert after(None, service(0), serving(4, FirstCheck.MISSING), 5) == Refill(was=4, since=5, changed=5, serving=0)


def test_a_service_that_vanished_where_nothing_served_refills_nothing() -> None:
    assert after(None, service(0), serving(0), 5) is None


VANISHED = Refill(was=4, since=0, changed=0, serving=0)


def test_while_it_is_gone_it_refills_however_long_that_takes() -> None:
    assert after(VANISHED, service(0), serving(4), 1_000_000) == VANISHED


def test_it_is_back_at_once_when_as_many_should_serve_as_did() -> None:
    assert after(VANISHED, service(3), serving(4), 5) == attrs.evolve(VANISHED, serving=3, changed=5)
    assert after(VANISHED, service(4), serving(4), 5) is None
    assert after(VANISHED, service(5), serving(4), 5) is None


def test_half_of_it_is_enough_when_no_more_came_for_a_whole_window() -> None:
    half = after(VANISHED, service(2), serving(4), 5)

    assert half == attrs.evolve(VANISHED, serving=2, changed=5)
    assert after(half, service(2), serving(4), 64.9) == half
    assert after(half, service(2), serving(4), 65) is None


def test_less_than_half_of_it_is_never_enough() -> None:
    one = after(VANISHED, service(1), serving(4), 5)

    assert after(one, service(1), serving(4), 100_000) == one
    assert after(one, service(1), serving(4), 100_000, fraction=0.75) is None


def test_what_haproxy_found_dead_since_need_not_come_back() -> None:
    one = after(VANISHED, service(1), serving(4), 5)

    assert after(one, service(1), serving(2), 64.9) == one
    assert after(one, service(1), serving(2), 65) is None
    assert after(one, service(1), serving(3), 65) == one


def test_each_one_that_comes_begins_the_quiet_anew() -> None:
    two = after(VANISHED, service(2), serving(4), 5)
    three = after(two, service(3), serving(4), 64)

    assert three == attrs.evolve(VANISHED, serving=3, changed=64)
    assert after(three, service(3), serving(4), 123) == three
    assert after(three, service(3), serving(4), 124) is None


def test_instances_that_may_not_serve_are_not_back() -> None:
    back = after(VANISHED, service(0, critical=4), serving(4), 5)

    assert back == VANISHED
    assert after(back, service(0, critical=4), serving(4), 500, fraction=1.0) == VANISHED


def with_other_tags(want: DesiredBackend, *numbers: int) -> DesiredBackend:
    return attrs.evolve(want, other_tags=frozenset(map(at, numbers)))


def test_a_service_whose_instances_have_other_tags_has_not_vanished() -> None:
    assert after(None, with_other_tags(service(0), 1, 2), serving(2), 5) is None
    left_out = attrs.evolve(service(0), quarantined=(Quarantined("n", "i", "it has no port"),))
    assert after(None, left_out, serving(2), 5) is None


def test_an_instance_that_comes_back_with_other_tags_is_back() -> None:
    assert after(VANISHED, with_other_tags(service(2), 3, 4), serving(4), 5) is None
    assert after(VANISHED, with_other_tags(service(0), 1, 2, 3, 4), serving(4), 5) is None
    others = after(VANISHED, with_other_tags(service(2), 7, 8), serving(4), 5)  # HAProxy has none of these
    assert others == attrs.evolve(VANISHED, serving=2, changed=5)


@pytest.mark.parametrize(("fraction", "least"), [(0.7, 3), (0.9, 1), (0.1, 9), (0.3, 7)])
def test_a_share_of_ten_is_a_whole_number(fraction: float, least: int) -> None:
    ten = attrs.evolve(VANISHED, was=10, serving=least)

    assert after(ten, service(least), serving(10), 60, fraction=fraction) is None
    less = attrs.evolve(ten, serving=least - 1)
    assert after(less, service(least - 1), serving(10), 60, fraction=fraction) == less


def test_a_consul_that_went_back_refills_from_what_served() -> None:
    refill = after(None, service(1, is_backwards=True), serving(4), 5)

    assert refill == Refill(was=4, since=5, changed=5, serving=1)
    assert after(refill, service(3), serving(4), 6) == attrs.evolve(refill, serving=3, changed=6)
    assert after(refill, service(4), serving(4), 6) is None


def test_a_reading_that_went_back_but_is_whole_is_dealt_with_once() -> None:
    whole = service(4, is_backwards=True)
    refill = after(None, whole, serving(4), 5)

    assert refill == Refill(was=4, since=5, changed=5, serving=4, is_over=True)
    assert after(refill, whole, serving(3), 6) == refill
    assert after(refill, service(4), serving(4), 7) is None


def test_a_reading_that_went_back_where_nothing_served_is_dealt_with_at_once() -> None:
    refill = after(None, service(2, is_backwards=True), serving(0), 5)

    assert refill == Refill(was=0, since=5, changed=5, serving=2, is_over=True)


def test_a_service_that_vanishes_after_a_reading_that_went_back_refills_anew() -> None:
    over = after(None, service(4, is_backwards=True), serving(4), 5)

    assert after(over, service(0), serving(4), 6) == Refill(was=4, since=6, changed=6, serving=0)


def test_before_any_check_has_passed_the_states_tell_how_many_served() -> None:
    assert capacity_or_ready(serving(3, FirstCheck.MISSING)) == 3
    assert capacity_or_ready(serving(3)) == 3
    twice = Backend("web", (*serving(1).slots, attrs.evolve(serving(1).slots[0], name="srv9")))
    assert capacity_or_ready(twice) == 1


class Flapper:
    """One backend of two instances, the second of which is there or not."""

    def __init__(self) -> None:
        self.flaps = Flaps()
        self.now = 0.0
        self.longest_seconds: Mapping[str, float] = {}

    def says(self, *admins: AdminState | None) -> None:
        servers = [want(number, admin) for number, admin in enumerate(admins, 1) if admin is not None]
        desired = Desired({"web": DesiredBackend("web", 4, tuple(servers))})
        self.flaps = self.flaps.noted(desired, self.now, self.longest_seconds)

    def falls_and_returns(self, *, after_seconds: float = 1.0, how: AdminState | None = MAINT) -> float:
        """Return how long the return waits."""
        self.now += after_seconds
        self.says(READY, how)
        self.now += 1
        self.says(READY, READY)
        return self.waits()

    def waits(self) -> float:
        seconds = 0.0
        while self.flaps.damped("web", self.now + seconds):
            assert self.flaps.damped("web", self.now + seconds) == {at(2)}
            seconds += 0.5
        return seconds


@pytest.mark.parametrize("how", [None, MAINT, DRAIN])
def test_the_first_return_is_at_once_and_each_one_after_it_waits_twice_as_long(how: AdminState | None) -> None:
    flapper = Flapper()
    flapper.says(READY, READY)

    assert [flapper.falls_and_returns(how=how) for _ in range(9)] == [0, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_instance_that_did_not_fall_for_five_minutes_has_never_fallen() -> None:
    flapper = Flapper()
    flapper.says(READY, READY)

    assert [flapper.falls_and_returns() for _ in range(3)] == [0, 2, 4]
    assert flapper.falls_and_returns(after_seconds=298) == 8
    assert flapper.falls_and_returns(after_seconds=299) == 0


def test_a_wait_can_be_bounded_for_each_backend() -> None:
    flapper = Flapper()
    flapper.longest_seconds = {"web": 5.0, "api": 0.0}
    flapper.says(READY, READY)

    assert [flapper.falls_and_returns() for _ in range(6)] == [0, 2, 4, 5, 5, 5]


def test_only_what_returned_waits_and_only_in_its_backend() -> None:
    flapper = Flapper()
    flapper.says(READY, READY)
    for _ in range(3):
        flapper.falls_and_returns()

    assert flapper.flaps.damped("web", flapper.now) == {at(2)}
    assert flapper.flaps.damped("api", flapper.now) == frozenset()


def test_a_backend_that_is_seen_for_the_first_time_has_no_falls() -> None:
    flapper = Flapper()

    assert [flapper.falls_and_returns() for _ in range(2)] == [0, 0]
    assert flapper.falls_and_returns() == 2


def test_a_reading_that_is_not_new_changes_nothing() -> None:
    desired = Desired({"web": service(2)})
    flaps = Flaps().noted(desired, 1)

    assert flaps.noted(desired, 2) is flaps


def test_a_weight_that_changes_is_no_fall() -> None:
    flapper = Flapper()
    flapper.says(READY, READY)
    for weight in (0, 5, 0, 7):
        servers = (want(1), want(2, weight=weight))
        flapper.flaps = flapper.flaps.noted(Desired({"web": DesiredBackend("web", 4, servers)}), flapper.now)

    assert flapper.flaps.flaps == {}


def test_tags_that_move_to_and_fro_are_no_falls() -> None:
    flapper = Flapper()
    flapper.says(READY, READY)
    for _ in range(5):
        flapper.now += 1
        moved = with_other_tags(DesiredBackend("web", 4, (want(1),)), 2)
        flapper.flaps = flapper.flaps.noted(Desired({"web": moved}), flapper.now)
        flapper.now += 1
        flapper.says(READY, READY)

    assert flapper.flaps.flaps == {}


def test_an_instance_that_falls_often_and_then_gets_its_tags_back_does_not_wait_for_that() -> None:
    flapper = Flapper()
    flapper.says(READY, READY)
    for _ in range(3):
        flapper.falls_and_returns()
    flapper.now += 100
    moved = with_other_tags(DesiredBackend("web", 4, (want(1),)), 2)
    flapper.flaps = flapper.flaps.noted(Desired({"web": moved}), flapper.now)
    flapper.says(READY, READY)

    assert flapper.waits() == 0


def test_what_the_configuration_no_longer_names_is_forgotten() -> None:
    flapper = Flapper()
    flapper.says(READY, READY)
    for _ in range(3):
        flapper.falls_and_returns()

    assert flapper.flaps.only(["web"]) == flapper.flaps
    assert flapper.flaps.only(["api"]) == Flaps()

"""What still changes is waited for, but not for long."""

from hapsync.model.changes import Shortage
from hapsync.model.server import PLACEHOLDER, Address, AdminState, Backend, CheckStatus, Scaling, Server
from hapsync.plan.desired import DesiredBackend, DesiredServer
from hapsync.plan.growth import FILE_REST_SECONDS, Need, Pending, file_due_seconds, is_filling, needed, touched

SHORT = (Shortage("web", (Address("10.0.0.1", 80),), 1),)
SHORTER = (Shortage("web", (Address("10.0.0.1", 80), Address("10.0.0.2", 80)), 2),)


def test_something_is_due_after_a_quiet() -> None:
    pending = Pending(since_seconds=10.0, changed_seconds=10.5)

    assert pending.due_seconds(0.25, 1.0) == 10.75


def test_something_that_never_stops_changing_is_due_at_the_limit() -> None:
    pending = Pending(since_seconds=10.0, changed_seconds=10.9)

    assert pending.due_seconds(0.25, 1.0) == 11.0


def test_a_touch_starts_the_quiet_anew_but_not_the_limit() -> None:
    assert Pending(10.0, 10.0) == touched(None, 10.0)
    assert Pending(10.0, 12.0) == touched(Pending(10.0, 10.5), 12.0)


def test_nothing_is_needed_when_nothing_is_short() -> None:
    assert needed(None, (), 10.0) is None
    assert needed(Need(SHORT, Pending(9.0, 9.0)), [], 10.0) is None


def test_a_need_that_stays_the_same_is_quiet() -> None:
    need = Need(SHORT, Pending(9.0, 9.5))

    assert need is needed(need, list(SHORT), 10.0)


def test_a_need_that_changes_is_waited_for_within_its_limit() -> None:
    need = needed(needed(None, SHORT, 10.0), SHORTER, 10.1)

    assert Need(SHORTER, Pending(10.0, 10.1)) == need


def test_a_need_is_due_after_200_ms_of_quiet_and_1_s_at_the_latest() -> None:
    assert Need(SHORT, Pending(10.0, 10.0)).due_seconds == 10.2
    assert Need(SHORT, Pending(10.0, 10.95)).due_seconds == 11.0


def test_a_file_that_rested_is_due_after_200_ms_of_quiet_and_1_s_at_the_latest() -> None:
    written = 10.0 - FILE_REST_SECONDS

    assert file_due_seconds(Pending(10.0, 10.0), written) == 10.2
    assert file_due_seconds(Pending(10.0, 10.95), written) == 11.0


def test_a_file_that_was_just_written_is_due_after_1_s_of_quiet_and_5_s_at_the_latest() -> None:
    written = 10.1 - FILE_REST_SECONDS

    assert file_due_seconds(Pending(10.0, 10.0), written) == 11.0
    assert file_due_seconds(Pending(10.0, 14.5), written) == 15.0


def with_slots(taken: int, free: int, scaling: Scaling = Scaling()) -> Backend:  # noqa: B008  # it is frozen
    used = [Server(f"srv{n}", Address("10.0.0.1", n), AdminState.READY, 1) for n in range(1, taken + 1)]
    rest = [Server(f"srv{taken + n}", PLACEHOLDER, AdminState.MAINT, 1) for n in range(1, free + 1)]
    return Backend("web", (*used, *rest), scaling=scaling)


def test_a_backend_is_filling_from_four_of_five_slots_on() -> None:
    want = DesiredBackend("web", 5)

    assert is_filling(want, with_slots(4, 1))
    assert not is_filling(want, with_slots(3, 1))
    assert not is_filling(want, with_slots(0, 0))


def test_a_backend_whose_servers_are_added_live_is_never_filling() -> None:
    assert not is_filling(DesiredBackend("web", 5), with_slots(5, 0, Scaling(can_add=True)))


def test_a_critical_instance_takes_its_slot_too() -> None:
    address = Address("10.0.0.9", 80)
    critical = DesiredServer(address, AdminState.MAINT, 1, "n", "web-9", CheckStatus.CRITICAL)
    have = with_slots(3, 1)
    slots = (*have.slots, Server("srv9", address, AdminState.MAINT, 0))

    assert is_filling(DesiredBackend("web", 5, (critical,)), Backend("web", slots))

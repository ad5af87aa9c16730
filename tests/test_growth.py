"""What still changes is waited for, but not for long."""

from hapsync.diff import Shortage
from hapsync.growth import Need, Pending, needed, touched
from hapsync.model import Address

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

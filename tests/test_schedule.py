"""What is due by which finding, and when what was left undone is tried again."""

import ast

import pytest

from hapsync.agent import schedule
from hapsync.agent.consumer import Left
from hapsync.agent.schedule import DUE, Due, Finding, Schedule
from tests.harness.tools import ROOT


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(schedule, "time", made)
    return made


def test_each_finding_makes_something_due_and_is_found_somewhere() -> None:
    found = {
        node.attr
        for module in (ROOT / "hapsync" / "agent").glob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Finding" and module.name != "schedule.py"
    }

    assert set(DUE) == set(Finding)
    assert Due() not in DUE.values()
    assert found == {one.name for one in Finding}


def test_what_was_left_is_tried_again_after_ever_longer_pauses_up_to_the_longest(clock: Clock) -> None:
    due, pauses = Schedule(), []
    for _ in range(6):
        due.note(Left(frozenset("ab"), again=frozenset("a")), 2.0)
        assert due.retry_at is not None
        pauses.append(due.retry_at - clock.now)
        clock.now = due.retry_at
        due.look()
        assert due.take() == {"a"}

    assert pauses == [0.25, 0.25, 0.5, 1.0, 2.0, 2.0]


def test_what_led_to_more_is_tried_again_at_once_and_then_not_without_end(clock: Clock) -> None:
    due = Schedule()
    due.note(Left(frozenset("a"), again=frozenset("a"), has_done=True), 60.0)
    assert due.retry_at == clock.now
    due.look()
    due.note(Left(frozenset("a"), again=frozenset("a"), has_done=True), 60.0)
    assert due.retry_at == clock.now + schedule.RETRY_SECONDS


def test_a_part_that_is_done_is_not_tried_again(clock: Clock) -> None:
    due = Schedule()
    due.note(Left(frozenset("ab"), again=frozenset("ab")), 60.0)
    due.note(Left(frozenset("ab")), 60.0)
    clock.now += 120

    due.look()
    assert (due.retry_at, due.is_unfinished, due.take()) == (None, False, set())


@pytest.mark.parametrize(("count", "is_at_once"), [(schedule.FEW_PARTS, True), (schedule.FEW_PARTS + 1, False)])
def test_where_time_may_release_something_few_parts_are_due_each_time_and_many_now_and_then(
    clock: Clock, count: int, *, is_at_once: bool
) -> None:
    due, parts = Schedule(), frozenset(map(str, range(count)))
    due.note(Left(parts, waiting=parts), 60.0)
    due.look_at_waiting()
    assert due.take() == parts
    clock.now += 0.4
    due.look_at_waiting()
    assert due.take() == (parts if is_at_once else set())
    clock.now += schedule.DEFERRED_SECONDS
    due.look_at_waiting()
    assert due.take() == parts

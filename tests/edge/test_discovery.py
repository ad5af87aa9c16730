"""What whoever registers services can cause: so many reloads, and so many lines in the log."""

import time

import pytest

from hapsync.agent.discovery import BURST, SHOWN, TOLD, Allowance, Discovering
from hapsync.config.schema import Config


def test_so_many_reloads_may_follow_each_other_and_then_so_many_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    allowance = Allowance()
    for _ in range(BURST):
        assert allowance.wait_seconds(20) == 0
        allowance.spend(20)
    assert allowance.wait_seconds(20) == pytest.approx(180)

    now += 179
    assert 0 < allowance.wait_seconds(20) < 2
    now += 2
    assert allowance.wait_seconds(20) == 0
    allowance.spend(20)
    assert allowance.wait_seconds(20) > 170

    now += 24 * 3600
    for _ in range(BURST):
        assert allowance.wait_seconds(20) == 0
        allowance.spend(20)
    assert allowance.wait_seconds(20) > 0


@pytest.mark.parametrize(("before", "after"), [(1, 3600), (3600, 1)])
def test_another_number_an_hour_counts_from_its_change_on(
    monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    allowance = Allowance()
    for _ in range(BURST):
        allowance.spend(before)
    assert allowance.wait_seconds(after) == pytest.approx(3600 / after)
    now += 3600 / after
    assert allowance.wait_seconds(after) == pytest.approx(0)


def test_each_name_is_told_once_however_often_the_list_changes(caplog: pytest.LogCaptureFixture) -> None:
    discovering = Discovering(Config(), lambda: None)
    for number in range(TOLD + 100):
        discovering._tell([f"service {one} gets no backend" for one in range(number)])
    discovering._tell(["service 0 gets no backend"])

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) == TOLD + 1
    assert lines[-1].endswith("`hapsync check` names all")


def test_the_report_has_the_first_of_many_names() -> None:
    discovering = Discovering(Config(), lambda: None)
    discovering._left_out = tuple(f"service {number} gets no backend" for number in range(300))

    assert discovering.problem is not None
    assert discovering.problem.count("gets no backend") == SHOWN
    assert discovering.problem.endswith("and 280 more")

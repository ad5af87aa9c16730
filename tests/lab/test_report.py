"""The report says what the lines say: what was measured, what went wrong, and what is left out."""

import xml.etree.ElementTree as ET

import pytest
from attrs import evolve

from tests.lab.account import Account
from tests.lab.cell import Delays, Measured
from tests.lab.client import KINDS
from tests.lab.report import COLUMNS, Cell, Run, line, parsed, plot, table

RUN = Run(
    command="python -m tests.lab --quick",
    machine="2 cores",
    started="2026-01-02 03:04 UTC",
    hapsync="0.1",
    interval_seconds=3,
    ways={"restart": "HAProxy is stopped and started"},
    unavailable={"hapsync, dynamic": "no HAProxy 3.0: no archive has it"},
)
ACCOUNT = Account(
    requests=1234,
    kinds={**dict.fromkeys(KINDS, 0), "answered": 1200, "refused": 30, "cut": 4},
    late=7,
    closed_idle=3,
    p50_ms=1.25,
    p99_ms=20.0,
    p999_ms=50.0,
)
MEASURED = Measured(
    seconds=9.5,
    accounts={"new": ACCOUNT},
    live=Delays((1.0, 3.0, 2.0), 1),
    gone=Delays((), 0),
    workers_peak=2,
    workers_end=1,
    workers_replaced=3,
    haproxy="2.6.12",
    consul="1.8.7",
)
CELL = Cell("restart", "deploy", RUN, MEASURED)


def test_a_cell_survives_its_line() -> None:
    wrong = Cell("restart", "steady", RUN, None, "Trace\nOSError: no")

    assert parsed(f"{line(CELL)}\n{line(wrong)}\n") == [CELL, wrong]


@pytest.mark.parametrize("text", ["{", '{"way": "restart"}'])
def test_a_line_that_is_no_cell_is_refused(text: str) -> None:
    with pytest.raises(Exception, match=r"."):
        parsed(text)


def test_a_row_has_failures_by_kind_the_delays_and_how_many_changes_never_came() -> None:
    [header, rule, row] = table([CELL]).splitlines()[:3]

    assert header.count("|") == rule.count("|") == row.count("|") == len(COLUMNS) + 1
    assert "| restart | deploy | new | 1,234 | 34 (30 refused, 4 cut) | 7 |" in row
    assert "| 2.000, max 3.000; 1 never | - | 3 / 2 / 1 | 1.2 / 20.0 / 50.0 |" in row


def test_a_cell_that_went_wrong_has_its_error_and_no_figures() -> None:
    [*_, row] = table([Cell("restart", "deploy", RUN, None, "Trace\nOSError: a | b")]).splitlines()[:3]

    assert "WENT WRONG: OSError: a / b" in row
    assert row.count("|") == len(COLUMNS) + 1


def test_the_report_names_machine_versions_command_and_what_is_left_out_and_why() -> None:
    text = table([CELL])

    assert "- way *restart*: HAProxy is stopped and started; HAProxy 2.6.12" in text
    assert "- way *hapsync, dynamic* is left out: no HAProxy 3.0: no archive has it" in text
    assert "| hapsync, dynamic |" not in text
    assert "`python -m tests.lab --quick` on 2 cores; hapsync 0.1, Consul\n1.8.7." in text
    assert "compressed 20 times" in text


def test_the_plot_has_bars_as_long_as_what_was_measured() -> None:
    half = evolve(ACCOUNT, kinds={**dict.fromkeys(KINDS, 0), "answered": 1217, "refused": 17})
    better = evolve(MEASURED, accounts={"new": half}, live=Delays((0.01,), 0))
    drawing = ET.fromstring(plot([CELL, evolve(CELL, way="hapsync <slots>", measured=better)]))

    _, *bars = [one.get("width", "") for one in drawing.iter() if one.tag.endswith("rect")]
    failed, seconds, half_failed, hundredth = (float(width) for width in bars)
    assert half_failed == pytest.approx(failed / 2, rel=0.01)
    assert 0 < hundredth < seconds
    words = [one.text for one in drawing.iter() if one.tag.endswith("text")]
    assert "hapsync <slots>: deploy" in words
    assert "27.55" in words

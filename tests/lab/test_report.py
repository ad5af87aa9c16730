"""The report says what the lines say: what was measured, what went wrong, and what is left out."""

import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

from tests.harness.tools import ROOT
from tests.lab.account import Account
from tests.lab.asked import Asked
from tests.lab.cell import Delays, Measured
from tests.lab.client import KINDS
from tests.lab.costs import Costs
from tests.lab.events import Outage
from tests.lab.lines import LinesError
from tests.lab.overview import broken, live_median, overview_table, verdict
from tests.lab.report import Cell, Run, line, parsed, written
from tests.lab.tables import Row, summary_table

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
    requests=1000,
    kinds={**dict.fromkeys(KINDS, 0), "answered": 966, "refused": 30, "cut": 4},
    late=7,
    closed_idle=3,
    p50_ms=1.25,
    p99_ms=20.0,
    p999_ms=50.0,
    longest_seconds=12.5,
)
GOOD = evolve(ACCOUNT, kinds={**dict.fromkeys(KINDS, 0), "answered": 1000}, late=0)
MEASURED = Measured(
    seconds=30.0,
    whole_seconds=33.0,
    accounts={"new": ACCOUNT, "kept": GOOD},
    live=Delays((1.0, 3.0, 2.0), 1),
    gone=Delays((), 0),
    outage=None,
    costs=Costs(1.5, 20 * 2**20, 9 * 2**20, 2, 3, 1),
    asked=Asked(20, 50_000, 4, 8_000),
    looks_seconds=(0.0021, 0.005),
    haproxy="2.6.12",
    consul="1.8.7",
)
CELL = Cell("restart", "deploy", RUN, MEASURED)
WRONG = Cell("restart", "deploy", RUN, None, "Trace\nOSError: a | b")
FAST = evolve(MEASURED, accounts={"new": GOOD}, live=Delays((0.01, 0.02, 0.01), 0))


def cells_of(row: str) -> list[str]:
    return [one.strip() for one in row.strip("|").split("|")]


def test_a_cell_survives_its_line() -> None:
    killed = evolve(CELL, measured=evolve(MEASURED, outage=Outage(0.2, None, is_right_at_once=False)))

    assert parsed(f"{line(CELL)}\n{line(WRONG)}\n{line(killed)}\n") == [CELL, WRONG, killed]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{line(CELL)}\n\n{line(CELL)[:300]}", "line 3 is no JSON"),
        (line(CELL).replace('"deploy"', '"other"'), "line 1 .*there is no event 'other'"),
    ],
)
def test_a_line_that_is_no_cell_is_named_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(LinesError, match=why):
        parsed(text)


def test_a_summary_has_all_figures_by_their_rates() -> None:
    header, _, row = summary_table([CELL.row])

    assert dict(zip(cells_of(header), cells_of(row), strict=True)) == {
        "way": "restart",
        "failed of 1,000": "17.00 (34)",
        "late of 1,000": "3.50 (7)",
        "live": "2.00 s / 3.00 s / 3.00 s; 1 never",
        "gone": "-",
        "longest connection": "12.5 of 30.0 s",
        "workers: new / most": "3 / 2",
        "memory: workers / tool": "9 MiB / 20 MiB",
        "tool CPU": "5.0 %",
        "asked: a minute": "40, 100 kB",
        "servers: a minute": "8, 16 kB",
    }


def test_a_cell_that_went_wrong_has_its_error_and_no_figures() -> None:
    header, _, row = summary_table([WRONG.row])

    assert cells_of(row)[:2] == ["restart", "WENT WRONG: OSError: a / b"]
    assert not any(cells_of(row)[2:])
    assert row.count("|") == header.count("|")


def test_the_overview_sets_each_peer_against_the_slower_of_hapsyncs_ways_over_all_events() -> None:
    slower = Row("hapsync, dynamic", "deploy", evolve(FAST, live=Delays((0.02,), 0)))
    forced = Row("restart", "death", evolve(MEASURED, live=Delays((), 0), accounts={"new": ACCOUNT}))
    peer = [CELL.row, Row("restart", "scale", evolve(FAST, live=Delays((1.0, 2.0), 0))), forced]

    _, _, *rows = overview_table([*peer, Row("hapsync, slots", "deploy", FAST), slower])

    assert [cells_of(row) for row in rows] == [
        ["restart", "11.33 (34)", "3.50 (14)", "2.00 s", "100.0", "9"],
        ["hapsync, slots", "0", "0", "10 ms", "-", "3"],
        ["hapsync, dynamic", "0", "0", "20 ms", "-", "3"],
    ]


def test_the_verdict_sets_the_best_peer_against_the_slower_of_hapsyncs_ways() -> None:
    ours = [Row("hapsync, a", "deploy", FAST), Row("hapsync, b", "deploy", evolve(FAST, live=Delays((0.1,), 0)))]
    peers = [CELL.row, Row("worse", "deploy", evolve(MEASURED, live=Delays((9.0,), 0)))]

    assert verdict([*peers, *ours]) == (
        "Best peer's median change-to-live: 2.00 s (restart); hapsync: 100 ms (hapsync, b, the slower of its ways); "
        "20.0 times faster."
    )
    assert verdict(ours) == ""


def test_events_weigh_alike_in_a_median_however_many_changes_each_has() -> None:
    def row(event: str, *seconds: float) -> Row:
        return Row("restart", event, evolve(MEASURED, live=Delays(seconds, 0)))

    assert live_median([row("deploy", 1, 2, 3)], "restart") == 2
    assert live_median([row("scale", *[9] * 90), row("deploy", 1), row("critical", 2)], "restart") == 2
    assert live_median([row("steady")], "restart") is None


def test_a_peer_that_mostly_never_follows_has_no_median_to_be_best_by() -> None:
    never = Row("never", "deploy", evolve(MEASURED, live=Delays((0.001,), 2)))

    assert "(restart)" in verdict([never, CELL.row, Row("hapsync", "deploy", FAST)])


@pytest.mark.parametrize(
    ("event", "measured", "promises"),
    [
        ("deploy", MEASURED, ["hapsync, deploy: 34 requests failed, 3 workers replaced"]),
        ("deploy", FAST, ["hapsync, deploy: 0 requests failed, 3 workers replaced"]),
        ("deploy", evolve(FAST, costs=evolve(FAST.costs, workers_replaced=0)), []),
        ("death", MEASURED, []),
    ],
)
def test_a_promise_is_broken_by_a_failure_that_was_not_forced_or_a_worker_that_was_replaced(
    event: str, measured: Measured, promises: list[str]
) -> None:
    assert broken([Row("hapsync", event, measured), Row("restart", event, MEASURED)]) == promises


def test_the_report_names_machine_versions_command_and_what_is_left_out_and_why(tmp_path: Path) -> None:
    better = evolve(CELL, measured=evolve(MEASURED, looks_seconds=(0.002, 0.0049)))
    text = written([better, CELL, WRONG], tmp_path)

    assert "- *restart*: HAProxy is stopped and started; HAProxy 2.6.12" in text
    assert "- *hapsync, dynamic* is left out: no HAProxy 3.0: no archive has it" in text
    assert "| hapsync, dynamic |" not in text
    assert "## On 2 cores" in text
    assert "by `python -m tests.lab --quick`; hapsync 0.1, Consul 1.8.7." in text
    assert "compressed 20 times" in text
    assert "2.1 ms (median of the worst cell; 99th percentile of the worst: 5.0 ms)" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failed.svg", "live.svg", "report.md"]


OURS = evolve(RUN, ways={**RUN.ways, "hapsync": "at once"})
KEPT = evolve(FAST, costs=evolve(FAST.costs, workers_replaced=0))


@pytest.mark.parametrize(
    ("cell", "code", "words"),
    [
        (Cell("hapsync", "deploy", OURS, KEPT), 0, "hapsync lost none of 1,000 requests in the events that force no"),
        (
            Cell("hapsync", "deploy", OURS, FAST),
            1,
            "NOT KEPT: hapsync, deploy: 0 requests failed, 3 workers replaced",
        ),
        (
            Cell("hapsync", "deploy", OURS, evolve(KEPT, accounts={"new": ACCOUNT})),
            1,
            "NOT KEPT: hapsync, deploy: 34 ",
        ),
        (Cell("hapsync", "deploy", OURS, None, "OSError"), 1, "WENT WRONG: OSError"),
    ],
)
def test_the_lab_fails_where_hapsync_lost_a_request_or_replaced_a_worker_or_a_cell_went_wrong(
    tmp_path: Path, cell: Cell, code: int, words: str
) -> None:
    cells = tmp_path / "cells.jsonl"
    cells.write_text(f"{line(evolve(CELL, run=OURS))}\n{line(cell)}\n")
    command = (sys.executable, "-m", "tests.lab", "--report", str(cells), "--out", str(tmp_path))
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert (ended.returncode, ended.stderr) == (code, "")
    assert words in ended.stdout
    assert ("lost none" in ended.stdout) == (code == 0)


def test_a_run_at_a_lower_rate_says_so_and_has_a_part_and_plots_of_its_own(tmp_path: Path) -> None:
    lower = evolve(CELL, run=evolve(RUN, rate_fraction=0.1))
    usual, _, rest = written([CELL, lower], tmp_path).partition("failed-2.svg")

    assert usual.count("**Traffic at 0.1 of the usual rate**") == 1
    assert usual.index("failed-1.svg") < usual.index("**Traffic at 0.1")
    assert "usual rate" not in rest
    assert parsed(line(lower)) == [lower]

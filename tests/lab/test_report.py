"""The report says what the lines say: what was measured, what went wrong, and what is left out."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from attrs import evolve

from tests.lab.account import Account
from tests.lab.asked import Asked
from tests.lab.cell import Delays, Measured
from tests.lab.client import KINDS
from tests.lab.costs import Costs
from tests.lab.events import Outage
from tests.lab.lines import LinesError
from tests.lab.overview import broken, live_median, overview_table, verdict
from tests.lab.plots import failed_plot, live_plot
from tests.lab.report import BEGIN, END, Cell, DocumentError, Run, line, parsed, placed, read, written
from tests.lab.tables import Row, failures_table, latency_table, summary_table

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
        (f"{line(CELL)}\n\n{line(CELL)[:300]}", "line 3 is no JSON .*where the file was cut, remove that line"),
        ('{"way": "restart"}', r"line 1 is no cell of this lab \(required field missing @ \$.event\)"),
        (line(CELL).replace('"deploy"', '"other"'), "line 1 .*there is no event 'other'"),
        (line(CELL).replace('"way": "restart"', '"way": "other"'), "line 1 .*does not say what the way 'other' is"),
    ],
)
def test_a_line_that_is_no_cell_is_named_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(LinesError, match=why):
        parsed(text)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff", "is no text"), (b"{", "line 1 is no")],
)
def test_a_file_that_holds_no_cells_is_named_with_what_to_do(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "cells.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LinesError, match=rf"cells\.jsonl.*{why}.*(name a file|remove that line)"):
        read(file)
    with pytest.raises(LinesError, match="Is a directory; name a file"):
        read(tmp_path)


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


def test_a_summary_of_an_outage_says_when_it_was_over_and_when_the_servers_were_right() -> None:
    outages = (
        Outage(0.2, 0.2, is_right_at_once=True),
        Outage(0.2, 1.5, is_right_at_once=False),
        Outage(0.2, None, is_right_at_once=False),
    )
    rows = [Row("restart", "haproxy killed", evolve(MEASURED, outage=outage)) for outage in outages]
    header, _, *told = map(cells_of, summary_table(rows))
    places = header.index("answers again"), header.index("right again")

    assert [[row[place] for place in places] for row in told] == [
        ["200 ms", "at once"],
        ["200 ms", "1.50 s"],
        ["200 ms", "-"],
    ]


def test_a_cell_that_went_wrong_has_its_error_and_no_figures() -> None:
    header, _, row = summary_table([WRONG.row])

    assert cells_of(row)[:2] == ["restart", "WENT WRONG: OSError: a / b"]
    assert not any(cells_of(row)[2:])
    assert row.count("|") == header.count("|")


def test_each_kind_of_traffic_has_its_failures_and_its_latency() -> None:
    rows = [CELL.row, WRONG.row]

    assert [cells_of(row) for row in failures_table(rows)] == [
        ["way", "new", "kept"],
        ["---"] * 3,
        ["restart", "34 of 1,000 (30 refused, 4 cut)", "0 of 1,000"],
    ]
    assert cells_of(list(latency_table(rows))[-1]) == ["restart", "1.2 / 20.0 / 50.0", "1.2 / 20.0 / 50.0"]


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


def test_the_overview_says_nothing_of_changes_that_it_has_not_seen() -> None:
    _, _, row = overview_table([WRONG.row])

    assert cells_of(row) == ["restart", "0", "0", "-", "-", "0"]


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
    text = written([better, CELL, WRONG], tmp_path, "plots/")

    assert "- *restart*: HAProxy is stopped and started; HAProxy 2.6.12" in text
    assert "- *hapsync, dynamic* is left out: no HAProxy 3.0: no archive has it" in text
    assert "| hapsync, dynamic |" not in text
    assert "## On 2 cores" in text
    assert "by `python -m tests.lab --quick`; hapsync 0.1, Consul 1.8.7." in text
    assert "compressed 20 times" in text
    assert "2.1 ms (median of the worst cell; 99th percentile of the worst: 5.0 ms)" in text
    assert "![failed](plots/failed.svg)" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failed.svg", "live.svg"]


def test_how_exact_times_are_is_told_of_cells_that_have_any(tmp_path: Path) -> None:
    none = Delays((), 0)
    steady = evolve(CELL, event="steady", measured=evolve(MEASURED, live=none, gone=none, looks_seconds=(0.5, 0.9)))

    assert "2.1 ms (median of the worst cell; 99th percentile of the worst: 5.0 ms)" in written(
        [steady, CELL], tmp_path, ""
    )
    assert "How exact" not in written([steady], tmp_path, "")


def test_the_report_begins_with_the_verdict_and_with_what_was_promised_and_kept_or_not(tmp_path: Path) -> None:
    run = evolve(RUN, ways={**RUN.ways, "hapsync": "at once"})
    good = Cell("hapsync", "deploy", run, evolve(FAST, costs=evolve(FAST.costs, workers_replaced=0)))
    kept, missed = (
        written([evolve(cell, run=run) for cell in (CELL, mine)], tmp_path, "")
        for mine in (good, evolve(good, measured=FAST))
    )

    assert "**Best peer's median change-to-live: 2.00 s (restart); hapsync: 10 ms" in kept
    assert "hapsync lost none of 1,000 requests in the events that force no failure" in kept
    assert "- NOT KEPT: hapsync, deploy: 0 requests failed, 3 workers replaced" in missed
    assert "lost none" not in missed


def test_runs_of_several_machines_have_a_part_and_plots_each(tmp_path: Path) -> None:
    other = evolve(CELL, run=evolve(RUN, machine="8 cores"))
    text = written([CELL, other], tmp_path, "")

    assert text.index("## On 2 cores") < text.index("failed-1.svg") < text.index("## On 8 cores")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_run_at_a_lower_rate_says_so_and_has_a_part_of_its_own(tmp_path: Path) -> None:
    lower = evolve(CELL, run=evolve(RUN, rate_fraction=0.1))
    usual, _, rest = written([CELL, lower], tmp_path, "").partition("failed-2.svg")

    assert usual.count("**Traffic at 0.1 of the usual rate**") == 1
    assert usual.index("failed-1.svg") < usual.index("**Traffic at 0.1")
    assert "usual rate" not in rest
    assert parsed(line(lower)) == [lower]


def test_a_line_of_before_there_were_rates_is_of_the_usual_one() -> None:
    told = line(CELL)
    before = told.replace(', "rate_fraction": 1.0', "")

    assert before != told
    assert parsed(before) == [CELL]


def test_a_document_keeps_all_but_what_is_between_its_markers() -> None:
    document = f"# The lab\n{BEGIN}\nold\n{END}\nmore\n"
    once = placed(document, "new")

    assert once == f"# The lab\n{BEGIN}\n\nnew\n{END}\nmore\n"
    assert placed(once, "new") == once


@pytest.mark.parametrize("document", ["", BEGIN, f"{END} {BEGIN}"])
def test_a_document_without_a_place_for_the_figures_is_refused(document: str) -> None:
    with pytest.raises(DocumentError, match="figures:begin"):
        placed(document, "new")


def test_the_plot_of_failures_has_longer_bars_for_more_and_none_for_none() -> None:
    worse = evolve(ACCOUNT, kinds={**dict.fromkeys(KINDS, 0), "answered": 700, "refused": 300})
    rows = [CELL.row, Row("worse", "deploy", evolve(MEASURED, accounts={"new": worse})), Row("good", "deploy", FAST)]
    rows.append(Row("none", "deploy", None, "OSError"))
    drawing = ET.fromstring(failed_plot(rows))

    some, more = (float(one.get("width", "")) for one in drawing.iter() if is_mark(one, "rect"))
    assert 0 < some < more
    assert {"17.00", "300", "0", "worse", "deploy", "went wrong"} <= words(drawing)


def test_the_plot_of_changes_has_a_dot_for_each_and_a_bar_at_the_median() -> None:
    drawing = ET.fromstring(live_plot([CELL.row, Row("hapsync <slots>", "deploy", FAST)]))

    dots = [float(one.get("cx", "")) for one in drawing.iter() if is_mark(one, "circle")]
    _, hundredth = (float(one.get("x1", "")) for one in drawing.iter() if one.get("class") == "median")
    assert len(dots) == 6
    assert sum(dot == pytest.approx(hundredth, abs=0.1) for dot in dots) == 2
    assert {"hapsync <slots>", "10 ms", "2.00 s", "1"} <= words(drawing)


def is_mark(element: ET.Element, name: str) -> bool:
    return element.tag.endswith(name) and element.get("class") != "paper"


def words(drawing: ET.Element) -> set[str | None]:
    return {one.text for one in drawing.iter() if one.tag.endswith("text")}

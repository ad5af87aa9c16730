"""What was measured survives its line, and report and plot say what the model does."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from attrs import evolve

from tests.harness.tools import ROOT
from tests.lab.lines import LinesError, read
from tests.lab.report import BEGIN, END, DocumentError
from tests.lab.scale.costs import all_costs
from tests.lab.scale.documents import documents, put_into
from tests.lab.scale.model import Fleet, load
from tests.lab.scale.plot import BALANCERS, plot
from tests.lab.scale.report import SERVICES, Record, Run, amount, line, load_table, parsed, report, sized
from tests.lab.scale.strategies import STRATEGIES
from tests.lab.scale.test_costs import POINTS

RUN = Run(
    "python -m tests.lab.scale", "2 cores", "2026-01-02 03:04 UTC", "0.1", 4, 20, {"hapsync, streaming": "none"}
)
RECORDS = [Record(RUN, point) for point in POINTS]


def test_a_point_survives_its_line() -> None:
    assert parsed("\n".join(map(line, RECORDS))) == RECORDS


@pytest.mark.parametrize("text", ["{", '{"point": {}}'])
def test_a_line_that_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(LinesError, match=r"line 1 is no (JSON|record)"):
        parsed(text)


def test_the_report_has_the_model_the_herd_the_checks_the_fits_and_what_was_measured() -> None:
    text = report(RECORDS)
    most = load(STRATEGIES["hapsync"].habits, all_costs(POINTS)["hapsync"], Fleet(1000, SERVICES), 10)

    assert f"{amount(most.requests)} req/s, {sized(most.bytes)}/s, {amount(most.cores)} cores |" in text
    assert "| hapsync | 1 answer, 20 KB, 1.0 ms CPU |" in text
    assert "| cron |" not in text[text.index("### The herd") : text.index("### The model")]
    assert "| hapsync | 8 balancers, 8.0 changes/s | cores | 0.108 | 0.108 | -0% |" in text.replace("+0%", "-0%")
    assert "| hapsync | bytes sent for a change, by balancer | 2e+04 |" in text
    assert text.count("| hapsync | rest |") == 4
    assert "| 10, max 500 |" in text


def test_the_report_names_machine_versions_command_and_what_is_left_out_and_why() -> None:
    text = report(RECORDS)

    assert "- *hapsync, streaming* is left out: none" in text
    assert "`python -m tests.lab.scale` on 2 cores; hapsync 0.1, Consul 1.8.7" in text
    for name in all_costs(POINTS):
        assert f"- *{name}*: {STRATEGIES[name].describe}" in text


def test_a_strategy_that_another_run_had_is_not_left_out() -> None:
    later = evolve(RECORDS[0], run=evolve(RUN, started="later", unavailable={"hapsync": "no reason", "cron": "none"}))

    assert "is left out: no reason" not in report([*RECORDS, later])


def test_the_load_is_one_table_at_rest_and_under_changes_for_who_is_woken_by_them() -> None:
    table = load_table(RECORDS).splitlines()
    in_report = report(RECORDS).splitlines()
    at_rest = load(STRATEGIES["hapsync"].habits, all_costs(POINTS)["hapsync"], Fleet(1, SERVICES))

    assert f"| hapsync | 0 | {amount(at_rest.requests)} req/s, " in table[2]
    assert table[3].startswith("| hapsync | 10 | ")
    assert table[3].replace("| hapsync | 10 |", "| hapsync |") in in_report
    assert sum(row.startswith("| cron | any | ") for row in table) == 1


def test_the_documents_of_this_project_say_what_their_points_say() -> None:
    fleet = ROOT / "docs" / "fleet.md"
    written = documents(fleet, read(ROOT / "docs" / "fleet" / "points.jsonl", Record))

    assert {path: path.read_text(encoding="utf-8") for path in written} == written


def test_a_document_that_takes_no_figures_is_named_before_anything_is_written(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.md"
    with pytest.raises(DocumentError, match=r"fleet\.md: No such file"):
        put_into(fleet, RECORDS)
    fleet.write_text(f"{BEGIN}{END}")
    with pytest.raises(DocumentError, match=r"fleet-model\.md: No such file"):
        put_into(fleet, RECORDS)
    assert fleet.read_text() == f"{BEGIN}{END}"
    (tmp_path / "fleet-model.md").write_text(f"{BEGIN}{END}")
    put_into(fleet, RECORDS)
    assert load_table(RECORDS) in fleet.read_text()
    assert read(tmp_path / "fleet" / "points.jsonl", Record) == RECORDS


def test_a_line_of_the_plot_rises_as_the_load_does() -> None:
    costs = all_costs(POINTS)
    drawing = ET.fromstring(plot(costs))
    lines = [one for one in drawing.iter() if one.tag.endswith("polyline")]

    assert len(lines) == 4 * len(costs)
    ups = [[float(pair.split(",")[1]) for pair in one.attrib["points"].split()] for one in lines]
    assert all(len(up) == len(BALANCERS) and up == sorted(up, reverse=True) for up in ups)
    [*names] = [one.text for one in drawing.iter() if one.tag.endswith("text")]
    assert all(name in names for name in costs)


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (0.00012, "0.00012"), (0.0123, "0.0123"), (12.34, "12.3"), (51234, "51,234")]
)
def test_an_amount_has_three_digits_that_count(value: float, said: str) -> None:
    assert amount(value) == said


@pytest.mark.parametrize(("count", "said"), [(12, "12 B"), (20_400, "20.4 KB"), (5e9, "5 GB"), (2.5e12, "2,500 GB")])
def test_bytes_are_said_in_the_largest_unit_that_fits(count: float, said: str) -> None:
    assert sized(count) == said

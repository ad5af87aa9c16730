"""What was measured survives its line, and the report says what the model does."""

import subprocess
import sys
from pathlib import Path

from attrs import evolve

from tests.harness.tools import ROOT
from tests.lab.scale.costs import all_costs
from tests.lab.scale.model import Fleet, load
from tests.lab.scale.report import SERVICES, Record, Run, amount, line, parsed, report, sized
from tests.lab.scale.strategies import STRATEGIES
from tests.lab.scale.test_costs import POINTS

RUN = Run(
    "python -m tests.lab.scale", "2 cores", "2026-01-02 03:04 UTC", "0.1", 4, 20, {"hapsync, streaming": "none"}
)
RECORDS = [Record(RUN, point) for point in POINTS]


def test_a_point_survives_its_line() -> None:
    assert parsed("\n".join(map(line, RECORDS))) == RECORDS


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


def test_the_report_of_points_that_are_there_is_written_beside_them_with_its_plot(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_text("".join(f"{line(record)}\n" for record in RECORDS))
    command = (sys.executable, "-m", "tests.lab.scale", "--report", "--out", str(tmp_path))
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True, timeout=60)

    assert (tmp_path / "report.md").read_text() == report(RECORDS)
    assert (tmp_path / "report.svg").read_text().startswith("<svg")

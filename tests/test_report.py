"""What the agent publishes comes back from its files as it was, or not at all."""

import json

import pytest

from hapsync.catalog import Instance, Quarantined, Reading
from hapsync.model import Address, CheckStatus, HAProxyProcess
from hapsync.report import (
    VERSION,
    Counters,
    Event,
    ReloadReport,
    Report,
    ServiceReport,
    Snapshot,
    report_from_json,
    report_to_json,
    snapshot_from_json,
    snapshot_to_json,
)

BARE = Report(pid=1, started_at=10.0, written_at=11.5, hapsync_version="0.1.0", in_step=True)
FULL = Report(
    pid=1,
    started_at=10.0,
    written_at=11.5,
    hapsync_version="0.1.0",
    in_step=False,
    haproxy=HAProxyProcess(7, "2.6.12", 100, is_stopping=False),
    haproxy_error="gone\n\x1b",
    file_error="full",
    services={"web": ServiceReport(5, 9.0, None, is_cached=True), "a b": ServiceReport(error='no "answer"')},
    counters=Counters(1, 2, 3, 4, 5, 6),
    changes=(Event(10.5, "add web/srv1"),),
    reloads=(ReloadReport(10.6, "web", 0.4), ReloadReport(10.7, "web", 0.4, "refused")),
    refusals=(Event(10.8, "x"),),
)
SNAPSHOT = Snapshot(
    {
        "web": Reading(
            "web",
            (
                Instance(
                    "n\n1", 'web"1', Address("2001:db8::1", 80), CheckStatus.WARNING, 10, 2, tags=("a b", "`c`")
                ),
                Instance("\ud800", "\0", Address("10.0.0.1", 80), CheckStatus.MAINTENANCE),
            ),
            (Quarantined("n2", "web-2", "it has no address"),),
        ),
        "api": Reading("api", ()),
    }
)


@pytest.mark.parametrize("report", [BARE, FULL], ids=["bare", "full"])
def test_a_report_comes_back_as_it_was(report: Report) -> None:
    assert report_from_json(report_to_json(report)) == report


def test_a_snapshot_comes_back_as_it_was() -> None:
    found = snapshot_from_json(snapshot_to_json(SNAPSHOT))

    assert found == SNAPSHOT
    assert found.catalog.readings == SNAPSHOT.readings


def test_both_files_are_one_line_of_ascii() -> None:
    for text in (report_to_json(FULL), snapshot_to_json(SNAPSHOT)):
        assert text.isascii()
        assert text.isprintable()
        assert json.loads(text)["version"] == VERSION


def test_equal_snapshots_are_equal_texts() -> None:
    assert snapshot_to_json(SNAPSHOT) == snapshot_to_json(Snapshot(dict(SNAPSHOT.readings)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "5",
        "[]",
        '"a"',
        "{}",
        '{"version": 1}',
        '{"version": 1, "readings": 5, "pid": {}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_a_damaged_file_gives_nothing(text: str) -> None:
    assert report_from_json(text) is None
    assert snapshot_from_json(text) is None


def test_a_file_cut_short_gives_nothing() -> None:
    for end in range(0, len(report_to_json(FULL)), 7):
        assert report_from_json(report_to_json(FULL)[:end]) is None


def test_a_file_of_another_version_gives_nothing() -> None:
    for text, parse in ((report_to_json(FULL), report_from_json), (snapshot_to_json(SNAPSHOT), snapshot_from_json)):
        assert parse(json.dumps({**json.loads(text), "version": VERSION + 1})) is None


def test_fields_of_a_newer_agent_are_passed_over() -> None:
    text = json.dumps({**json.loads(report_to_json(FULL)), "new": {"a": 1}})

    assert report_from_json(text) == FULL

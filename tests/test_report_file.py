"""What the agent publishes comes back from its files as it was, or not at all."""

import json

import attrs
import pytest

from hapsync.agent.report_file import (
    SNAPSHOT_VERSION,
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
from hapsync.model.catalog import Doubt, Instance, Quarantined, Reading
from hapsync.model.json_file import _checksum, to_file
from hapsync.model.server import Address, CheckStatus, HAProxyProcess

BARE = Report(pid=1, started_at=10.0, written_at=11.5, hapsync_version="0.1.0", in_sync=True)
FULL = Report(
    pid=1,
    started_at=10.0,
    written_at=11.5,
    hapsync_version="0.1.0",
    in_sync=False,
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
        "api": Reading("api", (), doubt=Doubt.UNCONFIRMED, is_backwards=True),
    },
    {"api": Reading("api", (Instance("n3", "api-1", Address("10.0.0.3", 80), CheckStatus.PASSING),))},
)


@pytest.mark.parametrize("report", [BARE, FULL], ids=["bare", "full"])
def test_a_report_comes_back_as_it_was(report: Report) -> None:
    assert report_from_json(report_to_json(report)) == report


def test_a_snapshot_comes_back_as_it_was() -> None:
    found = snapshot_from_json(snapshot_to_json(SNAPSHOT))

    assert found == SNAPSHOT
    assert found.catalog.readings == SNAPSHOT.readings


@pytest.mark.parametrize(
    ("words", "doubt"),
    [
        ("Consul has not answered since the start", Doubt.SNAPSHOT),
        ("Consul has not answered and there is no snapshot", Doubt.FALLBACK),
        ("Consul does not answer", Doubt.AWAY),
        ("Consul's servers have no leader", Doubt.NO_LEADER),
        ("the answer is too old", Doubt.STALE),
        ("the token may not read all of it", Doubt.FILTERED),
        ("Consul did not confirm its answer", Doubt.UNCONFIRMED),
    ],
)
def test_a_snapshot_of_0_1_is_read_with_the_words_it_has_for_a_doubt(words: str, doubt: Doubt) -> None:
    web = {"service": "web", "instances": [], "quarantined": [], "doubt": words, "is_backwards": False, "index": 7}
    text = to_file({"readings": {"web": {**web, "namesakes": []}}, "trusted": {}}, 2, "catalog")

    found = snapshot_from_json(text)

    assert found is not None
    assert found.readings["web"].doubt is doubt


def test_a_snapshot_with_unknown_words_for_a_doubt_is_damaged() -> None:
    for words in ("", "the answer is", 5):
        web: dict[str, object] = {"service": "web", "instances": [], "doubt": words}
        assert snapshot_from_json(to_file({"readings": {"web": web}}, 2, "catalog")) is None


def test_both_files_are_one_line_of_ascii() -> None:
    for text, version in ((report_to_json(FULL), VERSION), (snapshot_to_json(SNAPSHOT), SNAPSHOT_VERSION)):
        assert text.isascii()
        assert text.isprintable()
        assert json.loads(text)["version"] == version


def test_equal_snapshots_are_equal_texts() -> None:
    turned = dict(reversed(list(SNAPSHOT.readings.items())))

    assert snapshot_to_json(SNAPSHOT) == snapshot_to_json(Snapshot(turned, dict(SNAPSHOT.trusted)))


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
        tree = json.loads(text)
        assert parse(json.dumps(tree)) is not None
        assert parse(json.dumps({**tree, "version": tree["version"] + 1})) is None
        assert parse(json.dumps({**tree, "version": tree["version"] - 1})) is None


def test_fields_of_a_newer_agent_are_passed_over() -> None:
    text = json.dumps({**json.loads(report_to_json(FULL)), "new": {"a": 1}})

    assert report_from_json(text) == FULL


def test_a_snapshot_with_one_letter_wrong_gives_nothing() -> None:
    text = snapshot_to_json(SNAPSHOT)

    for place in range(0, len(text), 3):
        wrong = "x" if text[place] != "x" else "y"
        assert snapshot_from_json(text[:place] + wrong + text[place + 1 :]) is None


@pytest.mark.parametrize(
    "catalog", [{"readings": {}}, {"readings": {"web": {"instances": 5}}}, {"readings": {"web": 1}}, [], 5, None]
)
def test_a_snapshot_whose_checksum_fits_is_still_looked_at(catalog: object) -> None:
    text = json.dumps(catalog, sort_keys=True, separators=(",", ":"))
    whole = {"version": SNAPSHOT_VERSION, "checksum": _checksum(text), "catalog": catalog}

    found = snapshot_from_json(json.dumps(whole))

    assert found == (Snapshot({}) if catalog == {"readings": {}} else None)


def test_the_next_start_begins_with_what_was_last_trusted() -> None:
    api = SNAPSHOT.trusted["api"]

    assert dict(SNAPSHOT.last_good) == {"web": SNAPSHOT.readings["web"], "api": api}


@pytest.mark.parametrize(
    ("reading", "is_kept"),
    [
        (Reading("api", ()), True),
        (Reading("api", (), doubt=Doubt.AWAY), True),
        (Reading("api", (), doubt=Doubt.SNAPSHOT), True),
        (Reading("api", (), doubt=Doubt.UNCONFIRMED), False),
        (attrs.evolve(SNAPSHOT.trusted["api"], doubt=Doubt.UNCONFIRMED), True),
        (attrs.evolve(SNAPSHOT.trusted["api"], doubt=Doubt.SNAPSHOT, is_backwards=True), True),
        (attrs.evolve(SNAPSHOT.trusted["api"], doubt=Doubt.FALLBACK), False),
    ],
)
def test_of_what_was_never_trusted_only_instances_are_kept_and_never_a_fallback(
    reading: Reading,
    is_kept: bool,  # noqa: FBT001
) -> None:
    wanted = {"api": attrs.evolve(reading, doubt=None, is_backwards=False)} if is_kept else {}

    assert dict(Snapshot({"api": reading}).last_good) == wanted

"""What the scan of every HAProxy found: that it is whole, and that what is new in it is noticed."""

import re

import pytest

from hapsync.haproxy.capabilities import NEWEST_SCANNED, version_of
from tests.harness.tools import ROOT
from tests.matrix.__main__ import VERSIONS as PLAYED
from tests.scan.cases import CASES, COMPARED_SHORTLY
from tests.scan.playing import DIES, LIVES, SAME
from tests.scan.record import VERSIONS, Record, lacking, news, page_table, read, table, with_version


def test_every_version_that_can_be_fetched_was_scanned_with_every_case() -> None:
    fetched = re.search(
        r"^\s+(2\.6 \|.*)\) ;;$", (ROOT / "tests" / "roots.sh").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert fetched is not None

    assert tuple(fetched[1].split(" | ")) == VERSIONS == PLAYED
    assert lacking(read()) == []
    assert all(read().haproxy[version].startswith(f"{version}.") for version in VERSIONS)


def test_the_newest_version_that_hapsync_adds_servers_to_by_itself_was_scanned() -> None:
    assert max(map(version_of, read().haproxy)) == NEWEST_SCANNED


def test_the_page_shows_what_is_recorded() -> None:
    assert page_table() == table(read())


def test_what_haproxy_dies_of_is_only_what_hapsync_never_does() -> None:
    deadly = {name for name, found in read().found.items() if {DIES, "hangs"} & {*found.values()}}

    assert deadly == {"form external-check", "form disabled backend"}


def test_a_version_that_was_not_scanned_is_noticed() -> None:
    assert "was not scanned" in news(read(), "9.9", {})[0]
    assert lacking(read(), ("9.9",))[0].endswith(" on HAProxy 9.9")


@pytest.mark.parametrize("what", [DIES, "hangs", "not taken", "differs: seen of checks", "not in this version"])
def test_a_case_that_is_not_as_it_was_is_noticed(what: str) -> None:
    record = with_version(Record(), "3.4", "3.4.7", dict.fromkeys(CASES, SAME))

    assert news(record, "3.4", dict.fromkeys(CASES, SAME)) == []
    assert news(record, "3.4", {"`ssl`": LIVES}) == []
    [told] = news(record, "3.4", {"`check`": SAME, "`ssl`": what})
    assert told == f"HAProxy 3.4, `ssl`: {what}; the record says: same"


def test_a_case_that_was_deadly_and_is_no_more_is_noticed_too() -> None:
    record = with_version(Record(), "3.4", "3.4.7", {**dict.fromkeys(CASES, SAME), "`ssl`": DIES})

    assert len(news(record, "3.4", {"`ssl`": LIVES})) == 1


def test_the_short_form_compares_cases_that_there_are() -> None:
    assert {*CASES} >= COMPARED_SHORTLY

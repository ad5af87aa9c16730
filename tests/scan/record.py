"""What the scan found on each version, kept beside it in `record.json`, and the table of it in docs/versions.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from attrs import field, frozen

from hapsync.haproxy.capabilities import spelled_out, version_of
from tests.harness.tools import ROOT
from tests.scan.cases import CASES
from tests.scan.playing import LIVES, SAME

FILE = Path(__file__).with_name("record.json")
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- the scan -->", "<!-- end of the scan -->"
VERSIONS = ("2.6", "2.8", "3.0", "3.2", "3.4")


@frozen
class Record:
    """By version: the HAProxy that was scanned; by case and version: what was found."""

    haproxy: Mapping[str, str] = field(factory=dict)
    found: Mapping[str, Mapping[str, str]] = field(factory=dict)


def read() -> Record:
    """The record as it stands; empty where there is none."""
    if not FILE.exists():
        return Record()
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    return Record(kept["haproxy"], kept["found"])


def write(record: Record) -> None:
    """Keep it, a line a case, and put its table into the page."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in record.found.items())
    FILE.write_text(f'{{"haproxy": {json.dumps(record.haproxy)},\n"found": {{\n{lines}\n}}}}\n', encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def page_table() -> str:
    """The table that stands in the page."""
    return PAGE.read_text(encoding="utf-8").partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]


def with_version(record: Record, version: str, haproxy: str, found: Mapping[str, str]) -> Record:
    """The record with what was found on one version; cases that are no more are left out."""
    new = {
        name: {
            one: what
            for one in VERSIONS
            if (what := found.get(name) if one == version else record.found.get(name, {}).get(one)) is not None
        }
        for name in CASES
    }
    return Record(
        {one: {**record.haproxy, version: haproxy}[one] for one in VERSIONS if one in {*record.haproxy, version}}, new
    )


def news(record: Record, version: str, found: Mapping[str, str]) -> Sequence[str]:
    """What a scan of `version` found that the record does not say, a line each; empty where all is as it was."""
    if version not in record.haproxy:
        return (f"HAProxy {version} was not scanned: run `python -m tests.scan --versions {version}`",)
    return [
        f"HAProxy {version}, {name}: {what}; the record says: {record.found.get(name, {}).get(version, 'nothing')}"
        for name, what in found.items()
        if not _is_known(what, record.found.get(name, {}).get(version, ""))
    ]


def _is_known(what: str, recorded: str) -> bool:
    """Whether `what` is what was recorded; of a case that was not compared it is known only that HAProxy lives."""
    return what == recorded or (what == LIVES and recorded.startswith((SAME, "differs")))


def lacking(record: Record, versions: Sequence[str] = VERSIONS) -> Sequence[str]:
    """The cases and versions that were not scanned, a line each."""
    return [
        f"{name} on HAProxy {version}"
        for name in CASES
        for version in versions
        if version not in record.found.get(name, {})
    ]


def table(record: Record) -> str:
    """What was found, as a table of versions: cases with the same outcome everywhere share a row."""
    versions = [version for version in VERSIONS if version in record.haproxy]
    head = [
        f"| words of the server, or form of the backend | {' | '.join(versions)} |",
        f"|---{'|---' * len(versions)}|",
    ]
    return "\n".join([*head, *_rows(record, versions)])


def _rows(record: Record, versions: Sequence[str]) -> Iterator[str]:
    def key(name: str) -> tuple[str, ...]:
        return tuple(_told(name, one, record.found[name].get(one, "not scanned")) for one in versions)

    names = sorted(record.found, key=lambda name: (key(name), list(CASES).index(name)))
    for outcomes, group in groupby(names, key):
        yield f"| {'; '.join(group)} | {' | '.join(outcomes)} |"


def _told(name: str, version: str, found: str) -> str:
    words = [word for word in spelled_out(version_of(version), CASES[name].words) if word.startswith("check-")]
    return f"{SAME}, by {' and '.join(f'`{word}`' for word in words)}" if found == SAME and words else found

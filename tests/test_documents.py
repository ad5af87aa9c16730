"""What the documents tell a reader to open, run or commit with is there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.harness.tools import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))
FOLDERS = ("docs", "haproxy", "hapsync", "tests", "vagrant", ".ci", ".github")
"""Those at the top of the repository that documents name."""
DOCUMENTS = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
PATHS = {f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")}
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"(?m)^def (test_\w+)", path.read_text(encoding="utf-8"))
}
NO_FILES = {"tests/test_MODULE.py", "hapsync/GROUP/reload/slot-N"}
"""What looks like a path of ours: a name to fill in, and a key in Consul."""
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def recipe(target: str) -> list[str]:
    """Return the commands of a target."""
    found = re.search(rf"(?m)^{target}:.*\n((?:\t.*\n)+)", MAKEFILE)
    assert found is not None
    return [line.strip() for line in found[1].splitlines()]


CHECKS = [*recipe("lint"), *recipe("types")]


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_a_link_leads_to_a_file_and_a_heading_that_are_there(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text(encoding="utf-8"))

    missing = [file for file, _ in links if not (document.parent / file).exists()]
    assert missing == []
    for file, heading in links:
        assert not heading or heading in headings(document.parent / file if file else document)


def test_a_target_of_make_that_is_named_is_there(document: Path) -> None:
    named = re.findall(r"(?m)(?:`|^)make ([a-z-]+)", document.read_text(encoding="utf-8"))

    assert set(named) <= TARGETS


def test_a_path_or_a_module_that_is_named_is_there(document: Path) -> None:
    words = set(re.findall(r"`([\w./-]+)`", document.read_text(encoding="utf-8"))) - NO_FILES

    named = sorted(word for word in words if word.partition("/")[0] in FOLDERS or word.endswith((".py", ".sh")))
    assert [word for word in named if not (ROOT / word).exists() and not is_end_of_a_path(word)] == []


def test_a_test_that_is_named_is_there(document: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", document.read_text(encoding="utf-8")))

    assert named <= TESTS


def test_contributing_has_a_row_for_every_room() -> None:
    rooms = [path.parent.name for path in (ROOT / "hapsync").glob("*/__init__.py")]
    rows = re.findall(r"(?m)^\| `(\w+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))

    assert sorted(rows) == sorted(rooms)


def test_what_runs_before_a_commit_is_what_make_runs() -> None:
    entries = re.findall(r"(?m)^ +entry: (.+)$", HOOKS)

    assert entries == CHECKS
    assert "http" not in HOOKS


@pytest.mark.parametrize("program", sorted({shlex.split(line)[0] for line in CHECKS}))
def test_a_program_that_runs_before_a_commit_is_one(program: str) -> None:
    subprocess.run((ROOT / program, "--help"), check=True, capture_output=True, timeout=60)


def is_end_of_a_path(word: str) -> bool:
    return any(path.endswith(f"/{word}") for path in PATHS)


def headings(document: Path) -> set[str]:
    """Return the anchors of a document's headings, made as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

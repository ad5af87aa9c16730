"""The state machines' tables in docs/architecture.md, written from the code: `python -m tests.transition_tables`.

A pure module that is a state machine has `TRANSITIONS`: a mapping from (state, event) to a frozen attrs value, the
row. The page has its table between two marks, `<!-- transitions: hapsync.plan.rollout -->` and `<!-- end -->`.
"""

import importlib
import itertools
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import attrs

from tests.harness.tools import ROOT

PAGE = ROOT / "docs" / "architecture.md"
_PLACE = re.compile(r"(<!-- transitions: (hapsync[\w.]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def modules_with_tables(package: Path = ROOT / "hapsync") -> set[str]:
    """Return the names of the modules that have a table."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in package.rglob("*.py")
        if re.search(r"^TRANSITIONS\b", path.read_text(), re.MULTILINE)
    }


def modules_on_the_page(page: str) -> list[str]:
    """Return the names of the modules whose table `page` has."""
    return [place[2] for place in _PLACE.finditer(page)]


def table(transitions: Mapping[tuple[object, ...], Any]) -> str:
    """Return `transitions` as a table in Markdown: the key's parts, then the fields of the row.

    Rows that differ by the state only, one after another, are one line.
    """
    (first, *_) = transitions.items()
    keys = ["state", "event", *map(str, range(2, len(first[0])))][: len(first[0])]
    heads = [*keys, *(field.name.replace("_", " ") for field in attrs.fields(type(first[1])))]
    rows = [[*map(_cell, (*key, *attrs.astuple(row, recurse=False)))] for key, row in transitions.items()]
    grouped = itertools.groupby(rows, lambda row: row[1:])
    lines = [heads, ["---"] * len(heads), *([", ".join(row[0] for row in some), *rest] for rest, some in grouped)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, tuple | frozenset):
        return ", ".join(map(_cell, value))
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    return str(value.value) if isinstance(value, Enum) else str(value)


def filled(page: str) -> str:
    """Return `page` with each table as the code has it."""
    return _PLACE.sub(
        lambda place: f"{place[1]}\n{table(importlib.import_module(place[2]).TRANSITIONS)}\n{place[4]}", page
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))

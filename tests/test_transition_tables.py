"""The tables of the state machines in docs/architecture.md are those of the code."""

import sys
from enum import Enum
from pathlib import Path
from types import ModuleType

import attrs
import pytest

from tests.transition_tables import PAGE, filled, modules_on_the_page, modules_with_tables


def test_the_page_has_the_table_of_each_state_machine_as_it_is_in_the_code() -> None:
    page = PAGE.read_text()

    assert sorted(modules_on_the_page(page)) == sorted(modules_with_tables())
    assert filled(page) == page, "run `python -m tests.transition_tables`"


class Door(Enum):
    OPEN = "open"
    SHUT = "shut"


@attrs.frozen
class Row:
    next_state: Door
    do: str | None = None


def test_a_table_that_differs_from_the_code_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    door = ModuleType("hapsync.door")
    monkeypatch.setitem(sys.modules, "hapsync.door", door)
    page = "before\n<!-- transitions: hapsync.door -->\n<!-- end -->\nafter\n"
    vars(door)["TRANSITIONS"] = {(Door.OPEN, "push"): Row(Door.SHUT, "click")}
    written = filled(page)

    assert "| state | event | next state | do |\n| --- | --- | --- | --- |\n| open | push | shut | click |" in written
    assert filled(written) == written
    vars(door)["TRANSITIONS"] = {(Door.OPEN, "push"): Row(Door.OPEN)}
    assert filled(written) != written


def test_a_module_with_a_table_is_found(tmp_path: Path) -> None:
    package = tmp_path / "hapsync"
    package.mkdir()
    (package / "door.py").write_text("TRANSITIONS: Mapping = {}\n")
    (package / "wall.py").write_text("from hapsync.door import TRANSITIONS\n")

    assert modules_with_tables(package) == {"hapsync.door"}

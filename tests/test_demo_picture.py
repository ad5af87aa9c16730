"""The picture of the demo shows what the demo said, and loads nothing."""

import re
from xml.etree import ElementTree as ET

import pytest

from tests.demo.picture import SCENES, picture
from tests.demo.screen import Screen
from tests.harness.tools import ROOT


def words(svg: str) -> str:
    """Return all that the picture shows, with single blanks."""
    return " ".join("".join(text.text or "" for text in ET.fromstring(svg).findall(".//{*}text")).split())


def test_it_shows_the_lines_of_its_scenes_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.line("demo", "starts")
    screen.heading("Weights are edited", "1 requests, 0 failed")
    screen.line("Consul", "web-5 weight 40")
    screen.heading("A check fails, and recovers", "10 requests, 0 failed")
    screen.line("HAProxy", "srv2 maint & <more>", 8.25)

    shown = words(picture(screen.scenes))

    said = capsys.readouterr().out
    assert "HAProxy  srv2 maint & <more>" in said
    assert re.search(
        r"A check fails, and recovers 10 requests, 0 failed \d\.\d s HAProxy srv2 maint & <more> 8\.2 ms", shown
    )
    assert "starts" not in shown
    assert "weight" not in shown


def test_it_loads_nothing() -> None:
    svg = picture([[SCENES[0]]])

    assert not re.search(r"url\((?!#)|@import|href|<script", svg)


def test_that_of_the_readme_has_all_its_scenes() -> None:
    svg = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")

    assert [scene for scene in SCENES if scene not in words(svg)] == []
    assert "0 failed" in words(svg)

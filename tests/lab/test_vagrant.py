"""The scripts of the lab's machine agree with each other and with what they call."""

import re
import shlex
from pathlib import Path

import pytest

from tests.harness.tools import ROOT
from tests.lab.__main__ import machine
from tests.lab.options import options
from tests.lab.ways import WAYS

VAGRANT = ROOT / "vagrant"
BUILD, PROVISION = VAGRANT / "box" / "build.sh", VAGRANT / "provision.sh"


def test_the_box_that_needs_no_network_has_all_packages_that_provisioning_wants() -> None:
    built, wanted = (needed(script) for script in (BUILD, PROVISION))

    assert wanted
    assert built == wanted


@pytest.mark.parametrize("said", ["qemu", "kvm", "none", None])
def test_only_a_machine_whose_processor_is_emulated_is_named_so(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        detect = tmp_path / "systemd-detect-virt"
        detect.write_text(f"#!/bin/sh\necho {said}\n")
        detect.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert (") emulated by software, " in machine()) == (said == "qemu")


def test_the_documented_run_is_one_that_the_lab_can_play(tmp_path: Path) -> None:
    """It is typed into a machine that is minutes away, so a wrong word in it costs much."""
    text = (VAGRANT / "README.md").read_text(encoding="utf-8")
    runs = [
        shlex.split(inner.partition("-m tests.lab ")[2])
        for inner in re.findall(r"ssh -c '(.*-m tests\.lab .*)'", text)
    ]

    [run] = [options([*words, "--out", str(tmp_path)], WAYS) for words in runs]
    assert run.rate < 1
    assert {"reload, SYNs held", "hapsync, slots", "hapsync, dynamic"} < set(run.ways)


def needed(script: Path) -> list[str]:
    found = re.search(r"(?m)^readonly needed=\((.*)\)$", script.read_text(encoding="utf-8"))
    assert found is not None
    return found[1].split()

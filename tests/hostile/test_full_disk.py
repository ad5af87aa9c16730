"""A disk that is full or read-only costs the record of what is, and never HAProxy."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.processes import wait_until

FOLDERS = ("state", "run", "etc")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 128 KB at `folder`."""
    folder.mkdir(exist_ok=True)
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=128k,mode=750", "none", folder), check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", folder), check=True)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Everything running, with a small disk each for the state, the report and haproxy.cfg."""
    with Stage({"web": 8}, agent=False) as stage, ExitStack() as disks:
        for name in FOLDERS:
            disks.enter_context(small_disk(stage.work / name))
        config, real = stage.haproxy.config, stage.work / "etc" / "haproxy.cfg"
        real.write_text(config.read_text())
        config.unlink()
        config.symlink_to(real)
        text = stage.config_path.read_text().replace("[agent]\n", "[agent]\nresync_seconds = 1\n", 1)
        stage.config_path.write_text(text)
        stage.start_agent()
        try:
            yield stage
        finally:
            stage.stop_agent()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Whatever is opened in `folder` from now on cannot be written."""
    subprocess.run(("mount", "--bind", folder, folder), check=True)
    try:
        subprocess.run(("mount", "-o", "remount,bind,ro", folder), check=True)
        yield
    finally:
        subprocess.run(("umount", "--lazy", folder), check=True)


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


def logged(stage: Stage, words: str) -> int:
    return sum(words in line for line in (stage.work / "agent.log").read_text().splitlines())


def wait_logged(stage: Stage, words: str) -> None:
    wait_until(lambda: logged(stage, words), 20, f"the log to say {words}")


def wait_said(stage: Stage, words: str) -> None:
    wait_until(lambda: any(words in why for why in stage.status()["sync"]["reasons"]), 20, f"status to say {words}")


SAID = {
    "state": ("catalog.json not written: [Errno 28]", "the catalog's snapshot is not written: [Errno 28]"),
    "run": ("status.json not written: [Errno 28]", None),  # status says it once the report is half a minute old
    "etc": ("file not written:", "the file is not written:"),
}


def test_on_a_full_disk_haproxy_is_kept_in_step_and_all_is_mended_when_there_is_room(stage: Stage) -> None:
    with Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        for name, (in_log, in_status) in SAID.items():
            wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "status to say in sync")
            fill(stage.work / name)
            for _ in range(2):
                fleet.add()
                stage.wait_equal()
            wait_logged(stage, in_log)
            if in_status is not None:
                wait_said(stage, in_status)
            (stage.work / name / "filler").unlink()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "all to be mended")
        report = stage.work / "run" / "status.json"
        wait_until(lambda: json.loads(report.read_text())["counters"]["changes"] == 7, 20, "the report to be current")

    assert {name: logged(stage, in_log) for name, (in_log, _) in SAID.items()} == dict.fromkeys(SAID, 1)
    assert logged(stage, "Traceback") == 0
    assert stage.agent.running
    assert [path.name for name in FOLDERS for path in (stage.work / name).glob(".*.hapsync")] == []


def test_with_folders_that_cannot_be_written_haproxy_is_kept_in_step(stage: Stage) -> None:
    with Fleet(stage) as fleet, ExitStack() as closed:
        fleet.add()
        stage.wait_equal()
        for name in FOLDERS:
            closed.enter_context(read_only(stage.work / name))
        for _ in range(3):
            fleet.add()
            stage.wait_equal()
        for said in ("status.json not written: [Errno 30]", "catalog.json not written: [Errno 30]"):
            wait_logged(stage, said)
        wait_logged(stage, "file not written")
        time.sleep(2.5)  # two more tries, which say nothing new
        closed.close()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "all to be mended")

    for said in ("status.json not written", "catalog.json not written", "file not written"):
        assert logged(stage, said) == 1
    assert stage.agent.running


def test_an_agent_killed_on_a_full_disk_starts_again_and_goes_on(stage: Stage) -> None:
    with Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        stage.kill_agent()
        for name in ("state", "etc"):
            fill(stage.work / name)
        stage.start_agent()
        fleet.add()
        stage.wait_equal()

    assert stage.agent.running

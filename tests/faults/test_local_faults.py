"""The machine itself: folders and files that vanish or are damaged, a second agent, a clock that jumps.

Full and read-only disks are in tests/hostile/test_full_disk.py, few descriptors in test_descriptors.py there.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.demo.fleet import HOST
from tests.demo.stage import HAPSYNC, Stage
from tests.faults.scene import Scene, say_figure, scene
from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT


def change(here: Scene) -> None:
    """Bring one instance and take another away, and wait until HAProxy has both."""
    oldest = next(iter(here.fleet.members))
    here.fleet.add()
    here.fleet.remove(oldest)
    here.stage.wait_equal()


# Folders


def test_a_state_folder_that_is_removed_is_made_again_and_keeps_nothing_from_haproxy() -> None:
    with scene() as here:
        state = here.stage.work / "state"
        deferred = here.stage.hapsync("drain", f"web/{here.slot(next(iter(here.fleet.members.values())).port)}")
        assert deferred.returncode == 0
        shutil.rmtree(state)
        here.fleet.add()
        wait_until(lambda: len(here.serving()) == 4, 20, "the new instance")
        wait_until((state / "catalog.json").exists, 20, "the folder and the snapshot")
        status = here.stage.status()
        assert status["agent"] is not None, "the agent runs, and status says so"
        assert status["agent"]["pid"] == here.stage.agent.pid
        assert status["catalog"]["from"] == "agent"
        assert [one["state"] for one in status["overrides"]] == ["drain"]

        again = subprocess.run(agent_command(here), capture_output=True, text=True, timeout=30, check=False)
        assert again.returncode == 1
        assert f"pid {here.stage.agent.pid}, holds" in again.stderr

        released = here.stage.hapsync("release", f"web/{status['overrides'][0]['address']}")
        assert released.returncode == 0, released
        here.ends()


def test_a_runtime_folder_that_is_removed_keeps_nothing_from_haproxy_and_is_made_again_whole() -> None:
    with scene() as here:
        run = here.stage.work / "run"
        shutil.rmtree(run)
        change(here)
        wait_until(lambda: here.stage.status()["agent"] is not None, 10, "the report")
        wait_until((run / "hapsync.sock").exists, 10, "the socket for requests")
        assert [here.stage.hapsync(command).returncode for command in ("freeze", "thaw")] == [0, 0]
        change(here)
        here.ends()


# Files


@pytest.mark.parametrize("name", ["run/status.json", "state/catalog.json"])
@pytest.mark.parametrize("text", ["{", "", None])
def test_a_report_or_snapshot_that_is_damaged_is_not_believed_and_is_written_anew(
    name: str, text: str | None
) -> None:
    with scene() as here:
        path = here.stage.work / name
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        status = here.stage.hapsync("status")
        assert status.returncode in (0, 2), status
        change(here)
        wait_until(lambda: json.loads(path.read_text()), 10, "the file anew")
        wait_until(lambda: here.stage.status()["catalog"]["from"] == "agent", 10, "status to believe it again")
        here.ends()


def test_a_memory_that_is_damaged_forgets_a_hold_but_not_what_haproxy_shows_of_it() -> None:
    with scene() as here:
        name = here.slot(next(iter(here.fleet.members.values())).port)
        assert here.stage.hapsync("hold", f"web/{name}", "--reason", "disk fails").returncode == 0
        here.stage.kill_agent()
        memory = here.stage.work / "state" / "memory.json"
        memory.write_text(memory.read_text().replace("disk fails", "disk is well"))
        here.stage.start_agent()
        time.sleep(3)
        status = here.stage.status()
        rows = {one["server"]: one for one in status["backends"]["web"]["servers"]}

        assert any("overrides and a freeze are lost" in one for one in status["sync"]["reasons"])
        assert memory.with_name("memory.json.damaged").exists()
        assert "memory.json is damaged" in here.log()
        assert status["overrides"] == []
        assert (rows[name]["use"], rows[name]["state"]) == ("overridden", "maint")
        assert here.stage.hapsync("release", f"web/{name}").returncode == 0
        assert here.stage.hapsync("thaw", "--acknowledge").returncode == 0
        here.ends()


def test_a_freeze_and_a_hold_outlive_a_roll_back_and_the_upgrade_after_it() -> None:
    """A memory of another version stays as it is; nothing is changed until it is understood, or a person says so."""
    with scene() as here:
        name = here.slot(next(iter(here.fleet.members.values())).port)
        assert here.stage.hapsync("hold", f"web/{name}").returncode == 0
        assert here.stage.hapsync("freeze", "--reason", "incident 7").returncode == 0
        here.stage.kill_agent()
        memory = here.stage.work / "state" / "memory.json"
        theirs = json.dumps(
            {"version": 2, "checksum": "of another kind", "memory": json.loads(memory.read_text())["memory"]}
        )
        memory.write_text(theirs)
        addresses = here.stage.haproxy.servers("web")
        here.stage.start_agent()
        here.fleet.add()
        wait_until(lambda: here.stage.hapsync("plan").stdout.count("defer ") > 0, 20, "the newcomer to be seen")
        status = here.stage.status()
        thawed = here.stage.hapsync("thaw")

        assert "memory.json is of another version of hapsync" in status["stopped"]
        assert any("it is of version 2" in one for one in status["sync"]["reasons"])
        assert (thawed.returncode, "it is of version 2" in thawed.stdout) == (2, True)
        assert memory.read_text() == theirs  # so the hapsync that wrote it finds its freeze and its hold again
        now = here.stage.haproxy.servers("web")
        assert {one: (at.port, at.administration) for one, at in now.items()} == {
            one: (at.port, at.administration) for one, at in addresses.items()
        }

        assert here.stage.hapsync("thaw", "--acknowledge").returncode == 0
        assert memory.with_name("memory.json.version-2").read_text() == theirs
        assert here.stage.hapsync("release", f"web/{name}").returncode == 0
        here.ends()


def test_a_template_that_is_deleted_stops_neither_changes_nor_a_reload() -> None:
    with scene(slots=4, instances=3) as here:
        template = here.stage.work / "haproxy.cfg.j2"
        text = template.read_text()
        template.unlink()
        change(here)
        here.stage.agent.signal(signal.SIGHUP)
        here.wait_logged("settings not taken, the old ones stay")
        said = "haproxy.template cannot be read"
        wait_until(lambda: said in here.stage.hapsync("status").stdout, 10, "status to say why")  # a report a second
        here.fleet.add_at_once(3)
        here.stage.wait_equal(timeout_seconds=10)
        assert here.stage.reloads() == 1
        template.write_text(text)
        here.stage.agent.signal(signal.SIGHUP)
        here.ends()
        assert here.stage.reloads() == 1


def test_haproxys_file_edited_by_hand_twice_is_kept_twice_and_written_anew() -> None:
    with scene() as here:
        config = here.stage.haproxy.config
        edits = [config.read_text() + f"\n# an edit by hand, number {number}\n" for number in (1, 2)]
        for edit in edits:
            config.write_text(edit)
            wait_until(lambda: "an edit by hand" not in config.read_text(), 10, "the file anew")
            change(here)
        kept = sorted(path.read_text() for path in config.parent.glob("haproxy.cfg.edited-*"))

        assert kept == edits
        assert here.log().count("was edited outside of hapsync; kept as") == 2
        here.ends()
        assert here.stage.reloads() == 0


def test_haproxys_file_is_written_anew_when_it_is_deleted_and_a_link_to_it_stays_a_link() -> None:
    def link(stage: Stage) -> None:
        config = stage.haproxy.config
        folder = stage.work / "real"
        folder.mkdir()
        config.rename(folder / "haproxy.cfg")
        config.symlink_to(folder / "haproxy.cfg")

    with scene(prepare=link) as here:
        config = here.stage.haproxy.config
        file = here.stage.work / "real" / "haproxy.cfg"
        file.unlink()
        wait_until(file.is_file, 20, "the file to be written anew")
        here.wait_in_step()
        assert config.is_symlink()
        change(here)
        here.wait_in_step()
        here.stage.haproxy.kill()
        here.stage.haproxy.start()
        assert here.serving() == {one.port for one in here.fleet.members.values()}
        here.ends(forced=here.lost())


# Two agents


def agent_command(here: Scene, config: Path | None = None) -> tuple[str, ...]:
    return (str(HAPSYNC), "agent", "--config", str(config or here.stage.config_path))


def test_a_second_agent_is_refused_whether_it_has_the_same_folders_or_others() -> None:
    with scene() as here:
        other = here.stage.work / "other.toml"
        text = here.stage.config_path.read_text()
        for name in ("state", "run"):
            text = text.replace(f'"{here.stage.work / name}"', f'"{here.stage.work / "other" / name}"')
        other.write_text(text)
        refused = [
            subprocess.run(agent_command(here, config), capture_output=True, text=True, timeout=30, check=False)
            for config in (here.stage.config_path, other)
        ]
        change(here)

        assert [one.returncode for one in refused] == [1, 1]
        assert all(f"hapsync agent, pid {here.stage.agent.pid}, holds" in one.stderr for one in refused)
        assert "state/lock" in refused[0].stderr
        assert ".haproxy.cfg.hapsync-lock" in refused[1].stderr
        here.ends()


def test_no_second_agent_starts_beside_one_whose_state_folder_and_locks_were_removed() -> None:
    with scene() as here:
        state, beside = here.stage.work / "state", here.stage.work / ".haproxy.cfg.hapsync-lock"
        here.stage.agent.signal(signal.SIGSTOP)  # so that nothing is made again meanwhile
        shutil.rmtree(state)
        beside.unlink()
        second = subprocess.run(agent_command(here), capture_output=True, text=True, timeout=60, check=False)
        shutil.rmtree(state)
        beside.unlink(missing_ok=True)
        told = here.stage.status()
        here.stage.agent.signal(signal.SIGCONT)
        wait_until(lambda: (state / "lock").exists() and beside.exists(), 20, "the locks to be made again")
        third = subprocess.run(agent_command(here), capture_output=True, text=True, timeout=60, check=False)

        assert (second.returncode, third.returncode) == (1, 1)
        assert f"hapsync, pid {here.stage.agent.pid}, holds" in second.stderr
        assert f"hapsync agent, pid {here.stage.agent.pid}, holds" in third.stderr
        assert told["agent"]["pid"] == here.stage.agent.pid
        assert here.stage.status()["agent"]["pid"] == here.stage.agent.pid
        change(here)
        here.ends()


def test_a_fifo_as_template_is_refused_when_settings_are_read_again() -> None:
    with scene() as here:
        template = here.stage.work / "haproxy.cfg.j2"
        template.rename(template.with_name("kept"))
        os.mkfifo(template)
        here.stage.agent.signal(signal.SIGHUP)
        wait_until(lambda: "is a FIFO, and must be a regular file" in here.log(), 20, "the FIFO to be refused")
        change(here)

        template.unlink()
        template.with_name("kept").rename(template)
        here.stage.agent.signal(signal.SIGHUP)
        wait_until(lambda: "settings unchanged" in here.log(), 20, "the settings to be read again")
        here.ends()


# The clock


class Clock:
    """The wall clock of an agent, and of `status`, which a file sets."""

    def __init__(self, stage: Stage) -> None:
        self.file = stage.work / "clock"
        self._stage = stage
        self.jump(0)

    def jump(self, seconds: float) -> None:
        """Set the clock so far ahead of the machine's."""
        new = self.file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.file)

    def command(self, name: str, *arguments: str) -> tuple[str, ...]:
        return (
            *(sys.executable, "-m", "tests.faults.clocked", str(self.file)),
            *(name, "--config", str(self._stage.config_path), *arguments),
        )

    def status(self) -> dict[str, Any]:
        ended = subprocess.run(
            self.command("status", "--json"), capture_output=True, text=True, timeout=30, check=False, cwd=ROOT
        )
        found: dict[str, Any] = json.loads(ended.stdout)
        return found


def start_clocked(stage: Stage) -> None:
    """Start the agent with a clock of its own."""
    stage.agent = Process(Clock(stage).command("agent"), stage.work / "agent.log", folder=ROOT)
    report = stage.work / "run" / "status.json"
    wait_until(report.exists, 20, "the agent's first report", process=stage.agent)


@pytest.mark.parametrize("jump_seconds", [3600, -3600])
def test_a_clock_that_jumps_removes_nothing_and_ends_only_what_was_to_end_by_it(jump_seconds: int) -> None:
    with scene(instances=5, start=start_clocked) as here:
        clock = Clock(here.stage)
        first, second = list(here.fleet.members.values())[:2]
        for member, time_words in ((first, "30m"), (second, "3h")):
            deferred = here.stage.hapsync("drain", f"web/{here.slot(member.port)}", "--for", time_words)
            assert deferred.returncode == 0, deferred
        serving = here.serving()
        assert len(serving) == 3
        left = 1 if jump_seconds > 0 else 2
        clock.jump(jump_seconds)
        time.sleep(3)
        wait_until(lambda: len(clock.status()["overrides"]) == left, 20, f"{left} holds to be left")
        status = clock.status()
        ages = (status["catalog"]["age_seconds"], len(status["overrides"]))
        say_figure(
            f"wall clock {jump_seconds:+d} s: holds of 30 minutes and 3 hours, {ages[1]} left; "
            f"the catalog's age is told as {ages[0]:.0f} s"
        )
        # A hold ends at a time of day, so a clock that is set forward ends it early and one set back ends it late.
        expected = serving | ({first.port} if jump_seconds > 0 else set())
        wait_until(lambda: here.serving() == expected, 20, "HAProxy to be as the holds that are left say")
        assert ages[1] == left
        assert ages[0] >= 0
        assert not any("has not reported" in reason for reason in status["sync"]["reasons"])
        change_one = here.fleet.add()
        wait_until(lambda: change_one.port in here.serving(), 20, "a change")
        gone = [here.fleet.members.pop(name) for name in ("web-5", "web-4", "web-3")]
        for member in gone:
            here.stage.consul.remove(member.node, member.name)
        time.sleep(2)
        assert len(here.serving()) >= 2, "the guard's window is of another clock"
        for member in gone:
            here.stage.origins.close(HOST, member.port)
        clock.jump(0)
        for member in (first, second):
            here.stage.hapsync("release", f"web/{member.address}")
        here.ends()

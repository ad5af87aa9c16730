"""A HAProxy that lives and gives no answer is not one that is down: its file is left alone until it answers."""

import os
import signal
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.faults.scene import settle
from tests.harness.chaos import SocketChaos
from tests.harness.processes import wait_until

MARK = "    http-response set-header X-Edited yes\n"


def edit(stage: Stage) -> None:
    """Change what HAProxy does, by the template."""
    template = stage.work / "haproxy.cfg.j2"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("\nbackend web\n", f"\nbackend web\n{MARK}"), encoding="utf-8")


def is_edited(stage: Stage) -> bool:
    """Whether the running worker does what the edited template says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stage.frontend_port}/", timeout=5) as answer:
        return bool(answer.headers["X-Edited"] == "yes")


def log(stage: Stage) -> str:
    return (stage.work / "agent.log").read_text(encoding="utf-8")


def ends_equal(stage: Stage) -> None:
    """File and worker have the edit, and agree."""
    wait_until(lambda: is_edited(stage), 30, "the worker to have the edit")
    stage.wait_equal(timeout_seconds=30)
    wait_until(lambda: stage.hapsync("status").returncode == 0, 30, "status to say in sync")
    assert MARK in stage.haproxy.config.read_text(encoding="utf-8")


@pytest.mark.quick
@pytest.mark.parametrize("fault", ["stopped", "full"])
def test_a_worker_that_gives_no_answer_while_settings_change_ends_with_what_its_file_says(fault: str) -> None:
    with Stage({"web": 4}, agent=False) as stage, Fleet(stage) as fleet, ExitStack() as stack:
        chaos = stack.enter_context(SocketChaos(stage.work, stage.work / "chaos.sock", stage.haproxy.socket_path))
        settle(stage.config_path, socket=str(chaos.path), timeout_seconds=0.5, reload_gap_seconds=0.2)
        fleet.add()
        stage.start_agent()
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")
        before = stage.haproxy.config.read_text(encoding="utf-8")
        pid = stage.haproxy.worker_pid()
        assert pid is not None
        if fault == "stopped":
            os.kill(pid, signal.SIGSTOP)
        else:
            chaos.full()
        try:
            words = "gave no answer in time" if fault == "stopped" else "is full"
            wait_until(lambda: words in log(stage), 20, "the agent to notice")
            edit(stage)
            fleet.add()
            os.kill(stage.agent.pid, signal.SIGHUP)
            wait_until(lambda: "settings taken" in log(stage), 20, "the new settings")
            time.sleep(2)  # the file would follow after 0.2 to 1 s
            assert stage.haproxy.config.read_text(encoding="utf-8") == before
        finally:
            os.kill(pid, signal.SIGCONT)
            chaos.pass_through()
        ends_equal(stage)


def test_a_haproxy_that_starts_while_a_file_for_it_is_checked_ends_with_what_its_file_says() -> None:
    with Stage({"web": 4}, agent=False) as stage, Fleet(stage) as fleet:
        begun, goes_on, command = (Path(stage.work, name) for name in ("begun", "goes-on", "check"))
        command.write_text(
            f"#!/bin/sh\ntouch {begun}\nuntil [ -e {goes_on} ]; do sleep 0.05; done\n", encoding="utf-8"
        )
        command.chmod(0o755)
        goes_on.touch()
        settle(stage.config_path, check_command=[str(command), "{config}"], reload_gap_seconds=0.2)
        fleet.add()
        stage.start_agent()
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")
        stage.haproxy.kill()
        wait_until(lambda: "haproxy HAProxy's socket" in log(stage), 20, "the agent to notice")
        goes_on.unlink()
        begun.unlink()
        edit(stage)
        os.kill(stage.agent.pid, signal.SIGHUP)
        wait_until(begun.exists, 20, "the check of the file to begin")
        stage.haproxy.start()
        wait_until(lambda: log(stage).count(" answers") >= 2, 20, "the agent to see it")
        goes_on.touch()
        ends_equal(stage)


@pytest.mark.parametrize("again", ["agent", "apply"])
def test_hapsync_killed_between_the_file_and_the_reload_ends_with_what_the_file_says(again: str) -> None:
    with Stage({"web": 4}, agent=False) as stage, Fleet(stage) as fleet:
        killed, command = (Path(stage.work, name) for name in ("killed", "reload"))
        master = stage.haproxy.process.pid
        command.write_text(
            f"#!/bin/sh\n[ -e {killed} ] && exec kill -USR2 {master}\ntouch {killed}\nkill -KILL $PPID\n",
            encoding="utf-8",
        )
        command.chmod(0o755)
        settle(stage.config_path, master_socket=None, reload_command=[str(command)], reload_gap_seconds=0.2)
        fleet.add()
        assert stage.hapsync("apply").returncode == 0
        edit(stage)
        assert stage.hapsync("apply").returncode == -signal.SIGKILL
        assert killed.exists()
        assert MARK in stage.haproxy.config.read_text(encoding="utf-8")
        assert not is_edited(stage)
        if again == "agent":
            stage.start_agent()
        else:
            assert stage.hapsync("apply").returncode == 0
        ends_equal(stage)
        assert not Path(stage.work, "state", "reload-under-way").exists()

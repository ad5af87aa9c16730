"""Settings by which hapsync would reach nobody are refused, and the old ones go on; a move of the socket is made."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.faults.scene import settle
from tests.harness.processes import wait_until


@contextmanager
def a_stage() -> Iterator[tuple[Stage, Fleet]]:
    """An agent in sync."""
    with Stage({"web": 4}, agent=False) as stage, Fleet(stage) as fleet:
        settle(stage.config_path, reload_gap_seconds=0.2, reload_timeout_seconds=10)
        fleet.add()
        stage.start_agent()
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")
        yield stage, fleet


def log(stage: Stage) -> str:
    return (stage.work / "agent.log").read_text(encoding="utf-8")


def consul(config: Path, **values: object) -> None:
    """Set keys of [consul] in the settings at `config`."""
    text = config.read_text(encoding="utf-8")
    for key, value in values.items():
        text = re.sub(rf"(?m)^{key} = .*\n", "", text)
        text = text.replace("[consul]\n", f"[consul]\n{key} = {json.dumps(value)}\n", 1)
    config.write_text(text, encoding="utf-8")


def move_in_template(stage: Stage, path: Path) -> None:
    template = stage.work / "haproxy.cfg.j2"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace(f"stats socket {stage.haproxy.socket_path}", f"stats socket {path}"))


@pytest.mark.quick
@pytest.mark.parametrize("by", ["SIGHUP", "restart"])
def test_a_move_of_the_socket_in_settings_and_template_together_is_made_in_one_reload(by: str) -> None:
    with a_stage() as (stage, fleet):
        moved = stage.work / "moved.sock"
        if by == "restart":
            stage.stop_agent()
        settle(stage.config_path, socket=str(moved))
        move_in_template(stage, moved)
        if by == "restart":
            stage.start_agent()
        else:
            os.kill(stage.agent.pid, signal.SIGHUP)
        wait_until(lambda: "reload done" in log(stage), 30, "the reload")
        stage.haproxy.socket_path = moved
        fleet.add()
        stage.wait_equal(timeout_seconds=20)
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")
        assert stage.reloads() == 1


def test_an_apply_without_an_agent_makes_the_move_in_one_reload() -> None:
    with a_stage() as (stage, fleet):
        stage.stop_agent()
        moved = stage.work / "moved.sock"
        settle(stage.config_path, socket=str(moved))
        move_in_template(stage, moved)
        fleet.add()
        applied = stage.hapsync("apply")
        assert applied.returncode == 0, applied
        stage.haproxy.socket_path = moved
        stage.wait_equal()
        assert stage.reloads() == 1


@pytest.mark.quick
def test_a_socket_that_nobody_has_is_refused_and_the_old_one_goes_on_over_a_restart_as_well() -> None:
    with a_stage() as (stage, fleet):
        settle(stage.config_path, socket=str(stage.work / "tipo.sock"))
        os.kill(stage.agent.pid, signal.SIGHUP)
        wait_refused(stage, 1)
        assert "nor has the template such a `stats socket`" in log(stage)
        fleet.add()
        stage.wait_equal()
        wait_until(lambda: "settings not taken: " in stage.hapsync("status").stdout, 20, "status to say so")

        stage.stop_agent()
        stage.start_agent()
        fleet.add()
        stage.wait_equal(timeout_seconds=20)
        assert f"HAProxy answers at {stage.haproxy.socket_path}, as haproxy.cfg says" in log(stage)
        applied = stage.hapsync("apply")
        assert applied.returncode != 0
        settle(stage.config_path, socket=str(stage.haproxy.socket_path))
        os.kill(stage.agent.pid, signal.SIGHUP)
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")


def test_a_template_without_the_socket_by_which_haproxy_is_reached_is_refused() -> None:
    with a_stage() as (stage, fleet):
        before = stage.haproxy.worker_pid()
        move_in_template(stage, stage.work / "moved.sock")
        os.kill(stage.agent.pid, signal.SIGHUP)
        wait_until(lambda: "both must name the same" in log(stage), 20, "the refusal")
        fleet.add()
        stage.wait_equal()
        assert stage.haproxy.worker_pid() == before


def wait_refused(stage: Stage, count: int) -> None:
    """Wait until settings were refused so often."""
    refused = "settings not taken, the old ones stay"
    wait_until(lambda: log(stage).count(refused) == count, 30, f"refusal {count}")


UNREACHABLE: tuple[tuple[str, dict[str, object], str], ...] = (
    ("haproxy", {"master_socket": "/nowhere/master.sock"}, "haproxy.master_socket: HAProxy's master socket"),
    (
        "haproxy",
        {"master_socket": None, "reload_command": ["no-such-program"]},
        'haproxy.reload_command: there is no program "no-such-program"',
    ),
    ("consul", {"address": "http://127.0.0.1:1"}, "consul: Consul at http://127.0.0.1:1"),
    ("consul", {"address": "https://127.0.0.1:1", "ca_file": "/nowhere/ca.pem"}, "consul: [consul] ca_file"),
    ("consul", {"token_file": "/nowhere/token"}, "consul: [consul] token_file /nowhere/token"),
    ("consul", {"datacenter": "nowhere"}, "No path to datacenter"),
)


def test_settings_that_reach_nobody_are_refused_key_by_key_and_the_old_ones_go_on() -> None:
    with a_stage() as (stage, fleet):
        good = stage.config_path.read_text(encoding="utf-8")
        for count, (section, keys, words) in enumerate(UNREACHABLE, start=1):
            stage.config_path.write_text(good, encoding="utf-8")
            (settle if section == "haproxy" else consul)(stage.config_path, **keys)
            os.kill(stage.agent.pid, signal.SIGHUP)
            wait_refused(stage, count)
            assert words in log(stage)
        fleet.add()
        stage.wait_equal()
        wait_until(lambda: "settings not taken: " in stage.hapsync("status").stdout, 20, "status to say so")

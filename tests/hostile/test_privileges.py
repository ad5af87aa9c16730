"""The agent needs no rights but to its own folders and HAProxy's sockets, and opens nothing to others."""

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import HAPSYNC, Stage
from tests.harness.download import Download
from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT

NOBODY = 65534
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
)
UNIT = ROOT / "haproxy" / "hapsync.service"


def unit() -> dict[str, list[str]]:
    """The settings of the shipped unit, by name."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Everything but the agent, in a folder of a user that has no rights, with HAProxy's sockets open to it."""
    with Stage({"web": 3}, agent=False) as stage:
        template = stage.work / "haproxy.cfg.j2"
        template.write_text(template.read_text().replace("mode 660", f"mode 660 gid {NOBODY}"))
        assert f"gid {NOBODY}" in template.read_text()
        stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout)
        stage.haproxy.stop()  # a reload keeps the sockets as they are
        stage.haproxy.start()
        os.chown(stage.work, NOBODY, NOBODY)
        for path in (stage.work / "haproxy.cfg", stage.config_path, template, stage.haproxy.master_path):
            os.chown(path, 0, NOBODY)
            path.chmod(0o660 if path.is_socket() else 0o640)
        yield stage


def start(stage: Stage) -> Process:
    os.umask(0o022)
    stage.agent = Process(
        (*AS_NOBODY, str(HAPSYNC), "agent", "--config", str(stage.config_path)), stage.work / "agent.log"
    )
    report = stage.work / "run" / "status.json"
    wait_until(lambda: json.loads(report.read_text())["in_sync"], 30, "the agent to be in sync", process=stage.agent)
    return stage.agent


def test_a_user_without_any_right_follows_changes_and_grows(stage: Stage) -> None:
    agent = start(stage)
    status = Path(f"/proc/{agent.pid}/status").read_text()
    with Fleet(stage) as fleet:
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        before = stage.reloads()
        fleet.add_at_once(3)
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 10, "status to say in sync")

        assert stage.reloads() == before + 1
    assert re.findall(r"(?m)^Cap(?:Inh|Prm|Eff|Bnd|Amb):\s*([0-9a-f]+)$", status) == ["0" * 16] * 5
    assert re.search(rf"(?m)^Uid:\s+{NOBODY}\s+{NOBODY}", status)
    assert "NoNewPrivs:\t1" in status


def test_a_user_that_may_not_look_at_haproxy_sees_old_workers_without_the_kernels_count(stage: Stage) -> None:
    start(stage)
    with Fleet(stage) as fleet:
        leaving = [fleet.add(), fleet.add()]
        stage.wait_equal()
        download = Download(stage.frontend_port, 25)
        try:
            wait_until(lambda: download.received, 10, "it to have begun")
            port = next(member.port for member in leaving if stage.origins.counts()[member.address])
            stage.haproxy.reload()
            os.chown(stage.haproxy.master_path, 0, NOBODY)  # the master makes it anew at each reload
            stage.haproxy.master_path.chmod(0o660)
            fleet.remove(next(member.name for member in leaving if member.port == port))
            wait_until(lambda: stage.status()["old_workers"]["workers"][0]["gone"], 20, "what is gone to be shown")
            [old] = stage.status()["old_workers"]["workers"]
        finally:
            download.close()

    assert "may not be looked at" in old["error"]
    assert old["sessions"] == 1
    assert [(one["address"], one["used"], one["connections"]) for one in old["gone"]] == [
        (f"127.0.0.1:{port}", 1, None)
    ]
    assert stage.agent.running


def test_nothing_of_the_agents_is_open_to_others(stage: Stage) -> None:
    start(stage)
    with Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 10, "the file to be written")
        ours = [path for path in stage.work.rglob("*") if path.lstat().st_uid == NOBODY]
        modes = {str(path.relative_to(stage.work)): stat.S_IMODE(path.lstat().st_mode) for path in ours}

    assert {name: modes[name] for name in ("state", "run")} == {"state": 0o750, "run": 0o750}
    assert {"state/lock", "state/catalog.json", "run/status.json", "haproxy.cfg"} <= set(modes)
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o007} == {}
    assert modes["state/catalog.json"] == modes["run/status.json"] == modes["state/lock"] == 0o640


def test_check_says_what_is_open_to_everyone(stage: Stage) -> None:
    token, state = stage.work / "token", stage.work / "state"
    token.write_text("t0ken\n")
    token.chmod(0o644)
    state.mkdir()
    state.chmod(0o777)
    settings = stage.config_path.read_text()
    stage.config_path.write_text(settings.replace("[consul]\n", f'[consul]\ntoken_file = "{token}"\n', 1))

    checked = stage.hapsync("check")
    token.chmod(0o640)
    state.chmod(0o750)
    mended = stage.hapsync("check")

    assert f"consul.token_file {token} is open to everyone: chmod o= {token}" in checked.stdout
    assert f"agent.state_dir {state} is writable by everyone: chmod o-w {state}" in checked.stdout
    assert checked.returncode == 2
    assert "everyone" not in mended.stdout


def test_the_unit_gives_the_agent_no_right_and_what_it_needs() -> None:
    found = unit()

    assert found["User"] == found["Group"] == ["hapsync"]
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == [""]
    assert found["ProtectSystem"] == ["strict"]
    assert all(
        found[name] == ["yes"] for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID")
    )
    assert found["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"]
    assert found["ReadWritePaths"] == ["/etc/haproxy"]
    assert found["StateDirectory"] == found["RuntimeDirectory"] == ["hapsync"]
    assert found["StateDirectoryMode"] == found["RuntimeDirectoryMode"] == ["0750"]
    assert int(found["LimitNOFILE"][0]) >= 4096
    # HAProxy compiles regular expressions to machine code, also for `haproxy -c`.
    assert "MemoryDenyWriteExecute" not in found


def test_the_unit_is_installed_with_the_package() -> None:
    assert '"haproxy" = "share/hapsync"' in (ROOT / "pyproject.toml").read_text()
    assert shutil.which("setpriv")
    assert Path(sys.executable).exists()

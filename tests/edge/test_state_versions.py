"""A snapshot or a report that another version of hapsync wrote is no damage: it is kept, or named."""

import json
from pathlib import Path

import pytest

from hapsync.agent.catalog import known_readings
from hapsync.agent.report_file import SNAPSHOT_FILE, Report, Snapshot, report_to_json, snapshot_to_json
from hapsync.config.schema import AgentConfig, Config, HAProxyConfig
from hapsync.inspect.collect import read_report
from hapsync.model.catalog import Instance, Reading
from hapsync.model.server import Address, CheckStatus
from hapsync.system.lock import lock


@pytest.fixture
def config(work: Path) -> Config:
    for folder in ("state", "run"):
        (work / folder).mkdir()
    return Config(
        haproxy=HAProxyConfig(socket=f"{work}/admin.sock", config=f"{work}/haproxy.cfg", template=f"{work}/t.j2"),
        agent=AgentConfig(state_dir=f"{work}/state", runtime_dir=f"{work}/run"),
    )


def test_a_snapshot_of_another_version_is_kept_aside_and_not_used(
    config: Config, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = work / "state" / SNAPSHOT_FILE
    reading = Reading("web", (Instance("n1", "w1", Address("10.0.0.1", 80), CheckStatus.PASSING),))
    path.write_text(snapshot_to_json(Snapshot({"web": reading})))
    assert set(known_readings(config)) == {"web"}

    theirs = json.dumps({**json.loads(path.read_text()), "version": 9})
    path.write_text(theirs)

    assert known_readings(config) == {}
    assert (work / "state" / f"{SNAPSHOT_FILE}.version-9").read_text() == theirs
    assert "is of version 9" in caplog.text


def test_a_running_agent_whose_report_is_of_another_version_is_named(config: Config, work: Path) -> None:
    report = report_to_json(Report(pid=42, started_at=1.0, written_at=2.0, hapsync_version="9", in_sync=True))
    (work / "run" / "status.json").write_text(json.dumps({**json.loads(report), "version": 9}))
    problems: list[str] = []

    with lock(str(work / "state" / "lock"), "hapsync agent, pid 42,"):
        assert read_report(config, problems) is None

    assert problems == ["hapsync agent, pid 42 runs, but its report is of version 9: restart hapsync"]

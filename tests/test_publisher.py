"""The report and the snapshot are written beside the agent's thread, the newest last, and a reply follows them."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from hapsync.agent import report as report_module
from hapsync.agent.executor import Executor
from hapsync.agent.report import Publisher, Reporter
from hapsync.agent.report_file import REPORT_FILE, SNAPSHOT_FILE, Snapshot, report_from_json, snapshot_from_json
from hapsync.config.schema import AgentConfig
from hapsync.model.catalog import Instance, Reading
from hapsync.model.server import Address, CheckStatus
from hapsync.system.files import write_in_folder


class Disk:
    """Counts the writes of each file; a write waits while the disk is slow, and fails while it is full."""

    def __init__(self, write: Callable[..., None]) -> None:
        self.writes: list[str] = []
        self.is_free = threading.Event()
        self.is_free.set()
        self.full: set[str] = set()
        self._write = write

    def __call__(self, folder: str, name: str, text: str, **options: Any) -> None:
        assert self.is_free.wait(20)
        self.writes.append(name)
        if name in self.full:
            raise OSError(28, "No space left on device")
        self._write(folder, name, text, **options)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(write_in_folder)
    monkeypatch.setattr(report_module, "write_in_folder", made)
    return made


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(AgentConfig(state_dir=str(tmp_path), runtime_dir=str(tmp_path)), Executor())


def snapshot(*ports: int) -> Snapshot:
    instances = (Instance("n", f"i{port}", Address("10.0.0.1", port), CheckStatus.PASSING) for port in ports)
    return Snapshot({"web": Reading("web", tuple(instances))})


def publish(publisher: Publisher, count: int, catalog: Snapshot, *then: Callable[[], None]) -> None:
    report = Reporter().report
    counters = attrs.evolve(report.counters, passes=count)
    publisher.publish(attrs.evolve(report, counters=counters), catalog, then)


def test_the_newest_of_what_came_during_a_write_is_written_last_and_the_others_never(
    disk: Disk, publisher: Publisher, tmp_path: Path
) -> None:
    disk.is_free.clear()
    for count in (1, 2, 3):
        publish(publisher, count, snapshot(count))
    assert disk.writes == [], "the agent's thread waits for no disk"
    disk.is_free.set()
    publisher.finish(wait=True)

    report = report_from_json((tmp_path / REPORT_FILE).read_text())
    assert report is not None
    assert report.counters.passes == 3
    assert snapshot_from_json((tmp_path / SNAPSHOT_FILE).read_text()) == snapshot(3)
    assert disk.writes == [SNAPSHOT_FILE, REPORT_FILE] * 2


def test_a_reply_is_sent_once_the_report_with_its_result_is_on_disk(
    disk: Disk, publisher: Publisher, tmp_path: Path
) -> None:
    seen: list[int] = []

    def reply() -> None:
        report = report_from_json((tmp_path / REPORT_FILE).read_text())
        assert report is not None
        seen.append(report.counters.passes)

    disk.is_free.clear()
    publish(publisher, 1, snapshot(1))
    publish(publisher, 2, snapshot(1), reply)
    publish(publisher, 3, snapshot(1))
    disk.is_free.set()
    publisher.finish(wait=True)
    assert seen == [3]


def test_a_reply_waits_for_the_disk_and_not_for_the_agents_thread(disk: Disk, publisher: Publisher) -> None:
    replied = threading.Event()
    disk.is_free.clear()
    publish(publisher, 1, snapshot(1))
    publish(publisher, 2, snapshot(1), replied.set)
    disk.is_free.set()
    assert replied.wait(20), "the agent's thread may be in a reload now, and calls nothing"
    publisher.finish(wait=True)


def test_a_reply_after_another_in_the_same_step_of_the_agent_is_sent_at_once(tmp_path: Path) -> None:
    woken = threading.Event()
    publisher = Publisher(AgentConfig(state_dir=str(tmp_path), runtime_dir=str(tmp_path)), Executor(woken.set))
    publish(publisher, 1, snapshot(1))
    assert woken.wait(20), "the first is written"
    replied = threading.Event()
    publish(publisher, 2, snapshot(1), replied.set)
    assert replied.wait(20)
    publisher.finish(wait=True)


def test_a_reply_is_sent_though_nothing_can_be_written(
    disk: Disk, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    replied = threading.Event()
    disk.full = {SNAPSHOT_FILE, REPORT_FILE}
    publish(publisher, 1, snapshot(1), replied.set)
    publisher.finish(wait=True)
    assert replied.is_set()
    for name in (SNAPSHOT_FILE, REPORT_FILE):
        assert f"{name} not written: [Errno 28]" in caplog.text


def test_a_snapshot_that_was_not_written_is_in_the_report_and_tried_again(
    disk: Disk, publisher: Publisher, tmp_path: Path
) -> None:
    catalog = snapshot(1)
    disk.full = {SNAPSHOT_FILE}
    publish(publisher, 1, catalog)
    publisher.finish(wait=True)
    report = report_from_json((tmp_path / REPORT_FILE).read_text())
    assert report is not None
    assert report.snapshot_error == "[Errno 28] No space left on device"

    disk.full = set()
    publish(publisher, 2, catalog)
    publisher.finish(wait=True)
    assert snapshot_from_json((tmp_path / SNAPSHOT_FILE).read_text()) == catalog
    report = report_from_json((tmp_path / REPORT_FILE).read_text())
    assert report is not None
    assert report.snapshot_error is None


def test_a_snapshot_is_written_again_where_its_file_is_gone_or_the_catalog_changed(
    disk: Disk, publisher: Publisher, tmp_path: Path
) -> None:
    catalog, written = snapshot(1), []
    for count in (1, 2, 3, 4):
        if count == 3:
            (tmp_path / SNAPSHOT_FILE).unlink()
        if count == 4:
            catalog = snapshot(1, 2)
        disk.writes.clear()
        publish(publisher, count, catalog)
        publisher.finish(wait=True)
        written.append(SNAPSHOT_FILE in disk.writes)
    assert written == [True, False, True, True]

"""The master CLI: its processes, reloads that work and reloads that fail, on the real one."""

from contextlib import suppress
from pathlib import Path

import pytest

from hapsync.errors import ReloadError, RuntimeAPIError
from hapsync.haproxy.master import parse_processes, parse_refusal, read_processes, start_reload
from hapsync.haproxy.old_workers import Listed, old_among
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.ports import free_port
from tests.harness.processes import wait_until
from tests.harness.tools import ROOT

VERSIONS = ("2.6", "2.8", "3.0", "3.2", "3.4")
FIRST, SECOND = 4711, 4722
"""The workers in the recorded replies: the second came with a reload, and a client kept the first."""


def recorded(version: str, reply: str) -> str:
    """What the master of that version answered, but for its pids and paths."""
    return (ROOT / "tests" / "data" / "master" / version / f"{reply}.txt").read_text()


@pytest.fixture
def config(work: Path) -> Path:
    path = work / "haproxy.cfg"
    path.write_text(minimal_config(work / "admin.sock", free_port(), {"app": ["server srv1 127.0.0.1:1 disabled"]}))
    return path


def test_a_reload_replaces_the_worker(config: Path, work: Path) -> None:
    with HAProxy(config, work) as haproxy:
        before = read_processes(str(haproxy.master_path), 5)
        pid = haproxy.worker_pid()

        start_reload(str(haproxy.master_path), 5)

        wait_until(lambda: haproxy.worker_pid() not in (None, pid), 20, "a new worker")
        after = wait_until(
            lambda: read_processes(str(haproxy.master_path), 5), 20, "the master, which is deaf for a moment"
        )
        assert pid in before.workers
        assert haproxy.worker_pid() in after.workers
        assert [one.reloads for one in after.listed if one.pid == haproxy.worker_pid()] == [0]


def test_a_reload_into_a_broken_file_is_counted_as_failed_and_the_worker_stays(config: Path, work: Path) -> None:
    with HAProxy(config, work) as haproxy:
        before = read_processes(str(haproxy.master_path), 5)
        pid = haproxy.worker_pid()
        config.write_text("nonsense\n")

        with suppress(ReloadError):  # 2.7 and newer say so at once
            start_reload(str(haproxy.master_path), 5)

        wait_until(
            lambda: read_processes(str(haproxy.master_path), 5).failed_reloads > before.failed_reloads, 10, "it"
        )
        assert haproxy.worker_pid() == pid


def test_a_master_that_is_not_there_says_how_to_start_it(work: Path) -> None:
    with pytest.raises(RuntimeAPIError, match="start HAProxy with -W -S"):
        read_processes(str(work / "nosuch.sock"), 1)


def test_what_is_no_list_of_processes_is_an_error() -> None:
    with pytest.raises(RuntimeAPIError):
        parse_processes("Permission denied\n", "/run/x")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_lists_its_one_worker(version: str) -> None:
    found = parse_processes(recorded(version, "show-proc"), "")

    assert (found.failed_reloads, found.listed) == (0, (Listed(FIRST, 0, 2),))


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_lists_the_old_worker_beside_the_live_one(version: str) -> None:
    found = parse_processes(recorded(version, "show-proc-with-an-old-worker"), "")

    assert (found.failed_reloads, found.workers) == (0, (SECOND, FIRST))
    assert [one.pid for one in old_among(found.listed, SECOND)] == [FIRST]


@pytest.mark.parametrize("version", VERSIONS)
def test_after_a_failed_reload_of_each_version_the_live_worker_is_not_old_under_whatever_heading(
    version: str,
) -> None:
    found = parse_processes(recorded(version, "show-proc-after-a-failed-reload"), "")

    assert (found.failed_reloads, found.workers) == (1, (SECOND, FIRST))
    assert [one.pid for one in old_among(found.listed, SECOND)] == [FIRST]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reload_that_each_version_made_is_no_refusal(version: str) -> None:
    assert parse_refusal(recorded(version, "reload")) is None


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_a_refusal_of_each_version_begins_with_what_is_wrong(version: str) -> None:
    refusal = parse_refusal(recorded(version, "reload-failed"))

    assert refusal is not None
    assert refusal.startswith("[ALERT]")
    assert "unknown keyword 'nonsense'" in refusal
    assert "[NOTICE]" not in refusal


def test_version_2_6_says_nothing_of_a_failed_reload_so_that_it_has_to_be_counted() -> None:
    assert recorded("2.6", "reload-failed") == ""
    assert parse_refusal("") is None

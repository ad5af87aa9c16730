"""The master CLI: its processes, reloads that work and reloads that fail, on the real one."""

from pathlib import Path

import pytest

from hapsync.edge.master import parse_processes, read_processes, start_reload
from hapsync.errors import RuntimeAPIError
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.ports import free_port
from tests.harness.processes import wait_until


@pytest.fixture
def config(work: Path) -> Path:
    path = work / "haproxy.cfg"
    path.write_text(minimal_config(work / "admin.sock", free_port(), {"app": ["server srv1 127.0.0.1:1 disabled"]}))
    return path


def test_a_reload_replaces_the_worker_and_is_counted(config: Path, work: Path) -> None:
    with HAProxy(config, work) as haproxy:
        before = read_processes(str(haproxy.master_path), 5)
        pid = haproxy.worker_pid()

        start_reload(str(haproxy.master_path), 5)

        wait_until(lambda: haproxy.worker_pid() not in (None, pid), 10, "a new worker")
        after = read_processes(str(haproxy.master_path), 5)
        assert pid in before.workers
        assert haproxy.worker_pid() in after.workers
        assert (before.reloads, after.reloads) == (0, 1)


def test_a_reload_into_a_broken_file_is_counted_as_failed_and_the_worker_stays(config: Path, work: Path) -> None:
    with HAProxy(config, work) as haproxy:
        before = read_processes(str(haproxy.master_path), 5)
        pid = haproxy.worker_pid()
        config.write_text("nonsense\n")

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

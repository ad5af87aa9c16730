"""Downloads that outlive a reload, and their servers: shown, and left alone until the grace is over."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.demo.fleet import Fleet, Member
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.download import Download
from tests.harness.processes import wait_until


@contextmanager
def stage_with_grace(line: str) -> Iterator[Stage]:
    with Stage({"web": 4}, agent=False, backend_options=NO_GUARD) as stage:
        settings = stage.config_path.read_text()
        stage.config_path.write_text(settings.replace("[haproxy]\n", f"[haproxy]\n{line}\n"))
        stage.start_agent()
        yield stage


@contextmanager
def left_behind(stage: Stage, fleet: Fleet, seconds: float, count: int = 4) -> Iterator[Sequence[Download]]:
    """Downloads from two servers that an old worker carries on with; then both servers leave, two others serve."""
    leaving = [fleet.add(), fleet.add()]
    stage.wait_equal()
    wait_until(lambda: serve(stage, leaving), 10, "both servers")
    with ExitStack() as stack:
        downloads = [Download(stage.frontend_port, seconds) for _ in range(count)]
        for one in downloads:
            stack.callback(one.close)
        wait_until(lambda: all(one.received for one in downloads), 10, "all to have begun")
        staying = [fleet.add(), fleet.add()]
        stage.wait_equal()
        wait_until(lambda: serve(stage, staying), 10, "both newcomers")
        stage.haproxy.reload()
        for member in leaving:
            fleet.remove(member.name)
        stage.wait_equal(timeout_seconds=15)
        yield downloads


def serve(stage: Stage, members: Sequence[Member]) -> bool:
    ports = {one.port for one in stage.haproxy.servers("web").values() if one.running and not one.in_maintenance}
    return {member.port for member in members} <= ports


def old_workers(stage: Stage) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = stage.status()["old_workers"]["workers"]
    return workers


def connections_to_gone(stage: Stage) -> int:
    return sum(gone["connections"] for one in old_workers(stage) for gone in one["gone"])


def test_downloads_from_servers_that_left_are_shown_and_cut_only_after_the_grace() -> None:
    grace_seconds = 8
    with (
        stage_with_grace(f"old_worker_grace_seconds = {grace_seconds}") as stage,
        Fleet(stage) as fleet,
        left_behind(stage, fleet, seconds=60) as downloads,
    ):
        left_at = time.monotonic()
        wait_until(lambda: connections_to_gone(stage) == 4, 15, "the old worker to be shown")
        shown_at = time.monotonic()
        [old] = old_workers(stage)
        text = stage.hapsync("status").stdout
        cut_before_grace = [one.is_cut for one in downloads] if shown_at - left_at < grace_seconds else []
        wait_until(lambda: all(one.is_cut for one in downloads), 30, "the downloads to be cut")
        wait_until(lambda: not old_workers(stage), 20, "the old worker to end")

        assert old["pid"] != stage.haproxy.worker_pid()
        assert old["sessions"] == 4
        assert [(one["used"], one["connections"]) for one in old["gone"]] == [(2, 2), (2, 2)]
        assert f"old worker {old['pid']}" in text
        assert text.count("which is gone") == 2
        assert not any(cut_before_grace)
        assert all(one.ended_at is not None and one.ended_at - left_at >= grace_seconds for one in downloads)
        assert stage.status()["old_workers"]["ended"] == 4
        assert "ended 2 sessions to web/srv" in (stage.work / "agent.log").read_text()


@pytest.mark.parametrize(
    ("line", "command"),
    [("", None), ("old_worker_grace_seconds = 0", None), ("old_worker_grace_seconds = 1", "freeze")],
    ids=["no grace", "a grace of 0", "frozen"],
)
def test_without_a_grace_or_while_frozen_no_download_is_ever_cut(line: str, command: str | None) -> None:
    with (
        stage_with_grace(line) as stage,
        Fleet(stage) as fleet,
        left_behind(stage, fleet, seconds=28) as downloads,
    ):
        if command:
            stage.hapsync(command, check=True)
        wait_until(lambda: connections_to_gone(stage) == 4, 15, "the old worker to be shown")
        for one in downloads:
            one.wait()

        assert [one.is_whole for one in downloads] == [True] * 4
        assert stage.status()["old_workers"]["ended"] == 0
        wait_until(lambda: not old_workers(stage), 20, "the old worker to end")


def test_downloads_from_servers_that_stay_are_not_cut_after_the_grace() -> None:
    with stage_with_grace("old_worker_grace_seconds = 1") as stage, Fleet(stage) as fleet:
        member = fleet.add()
        stage.wait_equal()
        wait_until(lambda: serve(stage, [member]), 10, "the server")
        download = Download(stage.frontend_port, 18)
        try:
            wait_until(lambda: download.received, 10, "it to have begun")
            stage.haproxy.reload()
            # Looked at while the reload goes on, it is not asked yet.
            wait_until(lambda: old_workers(stage)[0]["sessions"] == 1, 15, "the old worker to be shown")
            [old] = old_workers(stage)
            download.wait()

            assert (old["sessions"], old["gone"], old["error"]) == (1, [], None)
            assert download.is_whole
        finally:
            download.close()

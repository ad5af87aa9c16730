"""What still runs on a server that left: it runs to its end, or until `drain_seconds` are over."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import attrs

from tests.demo.fleet import Fleet, Member
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.download import Download
from tests.harness.processes import wait_until

DRAIN = f"{NO_GUARD}\ndrain_seconds = 3"
KEPT_SECONDS = 2.0
"""HAProxy counts whole seconds."""


def is_busy(stage: Stage, address: str) -> bool:
    """Whether a session runs on the server with this address."""
    rows = stage.haproxy.stat("web")
    return any(int(row["scur"]) for row in rows.values() if row.get("addr") == address)


def is_out(stage: Stage) -> bool:
    return stage.haproxy.servers("web")["srv1"].in_maintenance


@contextmanager
def downloading(slots: int, options: str, seconds: float) -> Iterator[tuple[Stage, Fleet, Member, Download]]:
    """Two instances, on the first of which a download of so many seconds runs; their servers outlive them."""
    with (
        Stage({"web": slots}, backend_options=options, agent_options="resync_seconds = 1") as stage,
        Fleet(stage, linger_seconds=60) as fleet,
    ):
        first = fleet.add()
        stage.wait_equal()
        with closing(Download(stage.frontend_port, seconds)) as download:
            wait_until(lambda: is_busy(stage, first.address), 20, "the download to run")
            fleet.add()
            stage.wait_equal()
            yield stage, fleet, first, download


def test_a_download_on_a_server_that_left_is_ended_when_its_drain_seconds_are_over_which_frees_its_slot() -> None:
    with downloading(2, f'{DRAIN}\nscaling = "slots"', 30) as (stage, fleet, first, download):
        begin = time.monotonic()
        fleet.remove(first.name)
        wait_until(lambda: download.ended_at is not None, 15, "the download to be ended")
        assert download.is_cut
        assert time.monotonic() - begin >= KEPT_SECONDS
        wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "the file to be current")
        log = (stage.work / "agent.log").read_text(encoding="utf-8")
        assert f"end web/srv1 {first.address} 1 session (its drain_seconds are over)" in log
        assert "drift" not in log

        third = fleet.add()
        stage.wait_equal()
        assert stage.haproxy.servers("web")["srv1"].port == third.port
        assert stage.reloads() == 0


def test_a_download_on_a_server_that_left_runs_to_its_end_without_drain_seconds() -> None:
    with downloading(3, NO_GUARD, 8) as (stage, fleet, first, download):
        fleet.remove(first.name)
        wait_until(lambda: is_out(stage), 20, "maint")
        download.wait()
        assert download.is_whole


def test_a_download_on_a_server_that_is_only_critical_runs_to_its_end() -> None:
    with downloading(3, DRAIN, 8) as (stage, fleet, first, download):
        fleet.put(attrs.evolve(first, status="critical"))
        wait_until(lambda: is_out(stage), 20, "maint")
        download.wait()
        assert download.is_whole


def test_a_newcomer_with_slowstart_takes_its_share_over_time_and_nothing_is_repaired_meanwhile() -> None:
    options = "check inter 200ms slowstart 4s"
    with (
        Stage({"web": 4}, server_options=options, agent_options="resync_seconds = 1") as stage,
        Fleet(stage) as fleet,
    ):
        fleet.add()
        stage.wait_equal()
        newcomer = fleet.add()
        shares: list[int] = []
        begin = time.monotonic()
        while shares[-1:] != [10] and time.monotonic() - begin < 30:
            rows = stage.haproxy.stat("web").values()
            shares += [int(row["weight"]) for row in rows if row.get("addr") == newcomer.address]
            time.sleep(0.1)

        assert shares[0] < 4 < shares[-1] == 10
        assert len(set(shares)) > 3
        assert stage.status()["agent"]["counters"]["changes"] == 2

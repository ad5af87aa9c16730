"""What people do by hand or ask for is theirs: kept over restarts, reloads and crashes, until they release it."""

import json
import re
import signal
import time

from tests.demo.fleet import Fleet
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.haproxy import ServerState
from tests.harness.processes import wait_until


def server(stage: Stage, name: str) -> ServerState:
    return stage.haproxy.servers("web")[name]


def row(stage: Stage, name: str) -> dict[str, object]:
    rows: list[dict[str, object]] = stage.status()["backends"]["web"]["servers"]
    return next(one for one in rows if one["server"] == name)


def test_a_server_in_maint_by_hand_is_left_alone_through_passes_restarts_and_a_reload() -> None:
    with Stage({"web": 4}, agent_options="resync_seconds = 1") as stage, Fleet(stage) as fleet:
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        stage.haproxy.ask("set server web/srv1 state maint")
        stage.haproxy.ask("set server web/srv2 state drain")
        stage.wait_deferred("overridden by an operator", count=2)
        time.sleep(2.5)

        assert server(stage, "srv1").in_maintenance
        assert server(stage, "srv2").draining
        assert row(stage, "srv1")["use"] == row(stage, "srv2")["use"] == "overridden"
        deferred = {(one["server"], one["reason"]) for one in stage.status()["deferred"]}
        assert deferred == {("srv1", "overridden by an operator"), ("srv2", "overridden by an operator")}

        stage.kill_agent()
        stage.start_agent()
        fleet.add_at_once(4)  # more than there are slots: a reload
        wait_until(lambda: stage.reloads() == 1, 20, "the reload")
        wait_until(lambda: len([one for one in stage.haproxy.servers("web").values() if one.running]) == 6, 20, "six")

        assert server(stage, "srv1").in_maintenance
        wait_until(lambda: server(stage, "srv2").draining, 20, "the new worker to drain it, too")
        assert server(stage, "srv1").weight > 0
        wait_until(lambda: stage.status()["agent"]["in_sync"], 10, "the file")

        stage.haproxy.kill()
        stage.haproxy.start()
        wait_until(lambda: server(stage, "srv2").draining or server(stage, "srv2").in_maintenance, 20, "HAProxy")
        time.sleep(1.5)
        assert server(stage, "srv1").in_maintenance

        released = [stage.hapsync("release", f"web/{name}") for name in ("srv1", "srv2")]
        assert [one.returncode for one in released] == [0, 0], released
        stage.wait_equal()


def test_a_hold_outlives_the_agent_and_haproxy_and_ends_with_its_time() -> None:
    with Stage({"web": 4}, agent_options="resync_seconds = 1") as stage, Fleet(stage) as fleet:
        members = [fleet.add() for _ in range(3)]
        stage.wait_equal()
        deferred = stage.hapsync("hold", f"web/{members[0].address}", "--for", "20s", "--reason", "disk fails")
        assert deferred.returncode == 0, deferred
        slot = next(one for one in stage.haproxy.servers("web").values() if one.port == members[0].port)
        assert slot.in_maintenance
        [hold] = stage.status()["overrides"]
        assert (hold["backend"], hold["reason"], hold["state"]) == ("web", "disk fails", "maint")

        stage.haproxy.ask(f"set server web/{slot.name} state ready")  # somebody undoes it: it is asked for again
        wait_until(lambda: server(stage, slot.name).in_maintenance, 10, "the hold again")
        stage.kill_agent()
        stage.start_agent()
        assert server(stage, slot.name).in_maintenance

        stage.wait_equal(timeout_seconds=40)
        wait_until(lambda: stage.status()["overrides"] == [], 20, "the record to be gone")


def test_a_hand_on_a_server_right_after_its_release_is_another_hand() -> None:
    with Stage({"web": 4}, agent_options="resync_seconds = 1") as stage, Fleet(stage) as fleet:
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        stage.haproxy.ask("set server web/srv1 state maint")
        assert stage.hapsync("release", "web/srv1").returncode == 0
        stage.wait_equal()
        stage.haproxy.ask("set server web/srv1 state maint")
        assert stage.hapsync("thaw").returncode == 0  # whatever else is asked for meanwhile, the release is done
        time.sleep(4)

        assert server(stage, "srv1").in_maintenance
        assert row(stage, "srv1")["use"] == "overridden"

        assert stage.hapsync("release", "web/srv1").returncode == 0
        stage.wait_equal()


def test_a_freeze_stops_everything_at_once_and_thaw_goes_on() -> None:
    with Stage({"web": 2}) as stage, Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        frozen = stage.hapsync("freeze", "--reason", "incident 7")
        before = stage.haproxy.servers("web"), stage.haproxy.config.read_text(encoding="utf-8")
        for _ in range(4):
            fleet.add()
        time.sleep(1.5)
        stage.kill_agent()
        stage.start_agent()
        time.sleep(1.5)
        status = stage.hapsync("status")
        after = stage.haproxy.servers("web"), stage.haproxy.config.read_text(encoding="utf-8")

        assert frozen.returncode == 0
        assert {name: one.port for name, one in before[0].items()} == {n: one.port for n, one in after[0].items()}
        assert before[1] == after[1]
        assert stage.reloads() == 0
        assert status.returncode == 2
        assert "incident 7" in status.stdout
        assert "everything is frozen" in stage.hapsync("plan").stdout

        assert stage.hapsync("thaw").returncode == 0
        stage.wait_equal()
        assert stage.reloads() == 1


def test_a_file_that_is_being_checked_when_everything_is_frozen_is_not_installed() -> None:
    with Stage({"web": 4}) as stage, Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        wait_until(lambda: stage.status()["agent"]["in_sync"], 10, "the file")
        begun, may_end = stage.work / "begun", stage.work / "may_end"
        script = f"touch {begun}; until [ -e {may_end} ]; do sleep 0.05; done"
        settings = stage.config_path.read_text()
        command = json.dumps(["sh", "-c", script, "{config}"])
        stage.config_path.write_text(
            re.sub(r"(?m)^check_command = .*", lambda _: f"check_command = {command}", settings)
        )
        stage.agent.signal(signal.SIGHUP)
        wait_until(lambda: "settings taken" in (stage.work / "agent.log").read_text(), 10, "the slow check")
        before = stage.haproxy.config.read_text(encoding="utf-8")
        fleet.add()
        wait_until(begun.exists, 10, "the file to be checked")
        assert stage.hapsync("freeze").returncode == 0
        may_end.touch()
        time.sleep(3)

        assert stage.haproxy.config.read_text(encoding="utf-8") == before

        assert stage.hapsync("thaw").returncode == 0
        wait_until(lambda: stage.haproxy.config.read_text(encoding="utf-8") != before, 10, "the file after all")


def test_in_observe_mode_nothing_is_changed_and_the_plan_is_told() -> None:
    with Stage({"web": 2}, agent_options='mode = "observe"') as stage, Fleet(stage) as fleet:
        file = stage.haproxy.config.read_text(encoding="utf-8")
        fleet.add()
        fleet.add()
        stage.wait_deferred("mode is observe", count=2)
        time.sleep(1.5)
        status = stage.hapsync("status", "--json")

        assert not any(one.running for one in stage.haproxy.servers("web").values())
        assert stage.haproxy.config.read_text(encoding="utf-8") == file
        told = json.loads(status.stdout)
        assert (told["sync"]["verdict"], told["stopped"]) == ("out_of_sync", "mode is observe")
        assert [one["change"].split()[0] for one in told["deferred"]] == ["add", "add"]
        assert stage.hapsync("apply").returncode == 2


def test_what_the_guard_holds_is_let_go_by_a_person() -> None:
    with Stage({"web": 6}, server_options="check inter 200ms") as stage, Fleet(stage, linger_seconds=60) as fleet:
        members = [fleet.add() for _ in range(4)]
        stage.wait_equal()
        wait_until(lambda: stage.status()["backends"]["web"]["capacity"] == 4, 20, "the first checks")
        for member in members[1:]:
            fleet.remove(member.name)
        stage.wait_deferred("more than max_loss_fraction would be lost within the window", count=1)
        time.sleep(1)
        serving = [one for one in stage.haproxy.servers("web").values() if one.running]
        assert len(serving) == 2

        released = stage.hapsync("release", "web")
        assert released.returncode == 0, released
        assert stage.differences() == []

        fleet.remove(members[0].name)
        wait_until(lambda: len(stage.status()["deferred"]) == 1, 20, "the last one to be held")
        assert len([one for one in stage.haproxy.servers("web").values() if one.running]) == 1
        forced = stage.hapsync("apply", "--force")
        assert forced.returncode == 0, forced
        assert not [one for one in stage.haproxy.servers("web").values() if one.running]


def test_a_hold_without_an_agent_is_kept_by_the_next_one() -> None:
    with Stage({"web": 4}, backend_options=NO_GUARD) as stage, Fleet(stage) as fleet:
        fleet.add()
        fleet.add()
        stage.wait_equal()
        stage.stop_agent()
        drained = stage.hapsync("drain", "web/srv1")
        assert drained.returncode == 0, drained
        assert server(stage, "srv1").draining
        stage.start_agent()
        time.sleep(1)
        assert server(stage, "srv1").draining
        assert stage.hapsync("release", "web/srv1").returncode == 0
        stage.wait_equal()

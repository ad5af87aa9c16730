"""A release does what a person saw, once, and nothing later; and no half of it stays."""

import time

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.processes import wait_until


def serving(stage: Stage) -> int:
    return sum(one.running for one in stage.haproxy.servers("web").values())


def test_a_release_that_failed_lets_nothing_go_later() -> None:
    with Stage({"web": 4}) as stage, Fleet(stage) as fleet:
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        wait_until(lambda: stage.status()["agent"]["in_sync"], 10, "the file")
        stage.haproxy.kill()
        released = stage.hapsync("release", "web")
        fleet.vanish()
        time.sleep(3)

        assert released.returncode == 1
        assert "nothing was done" in released.stderr
        assert stage.haproxy.config.read_text(encoding="utf-8").count("127.0.0.1:1 ") == 1
        stage.haproxy.start()
        time.sleep(2)
        assert serving(stage) == 3


def test_a_release_while_frozen_forgets_nothing() -> None:
    with Stage({"web": 8}, server_options="check inter 200ms") as stage, Fleet(stage) as fleet:
        for _ in range(6):
            fleet.add()
        stage.wait_equal()
        wait_until(lambda: stage.status()["backends"]["web"]["capacity"] == 6, 20, "the first checks")
        fleet.vanish()
        wait_until(lambda: len(stage.status()["deferred"]) == 6, 20, "what is held")
        stage.hapsync("freeze")
        released = stage.hapsync("release", "web")
        fleet.put(next(iter(fleet.members.values())))
        stage.hapsync("thaw")
        time.sleep(1.5)

        assert released.returncode == 2
        assert "nothing is released" in released.stdout
        assert serving(stage) == 6


def test_what_was_released_is_not_held_again_by_an_older_file() -> None:
    with Stage({"web": 4}) as stage, Fleet(stage) as fleet:
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        assert stage.hapsync("hold", "web/srv1").returncode == 0
        wait_until(lambda: stage.status()["agent"]["in_sync"], 10, "the file")
        assert stage.hapsync("release", "web/srv1").returncode == 0
        stage.kill_agent()
        stage.haproxy.kill()
        stage.haproxy.start()
        stage.start_agent()

        stage.wait_equal()
        wait_until(lambda: stage.status()["overrides"] == [], 10, "the record to be gone")


def test_a_static_algorithm_that_refuses_a_weight_still_sends_traffic() -> None:
    with Stage({"web": 3}) as stage, Fleet(stage) as fleet:
        template = stage.work / "haproxy.cfg.j2"
        text = template.read_text(encoding="utf-8")
        template.write_text(text.replace("balance roundrobin", "balance static-rr"), encoding="utf-8")
        applied = stage.hapsync("apply")
        assert "brought there in a moment" in applied.stdout + applied.stderr
        wait_until(lambda: stage.reloads() == 1, 10, "the reload")
        fleet.add()
        fleet.add()
        wait_until(lambda: serving(stage) == 2, 10, "two servers")
        time.sleep(1)

        assert {one.weight for one in stage.haproxy.servers("web").values() if one.running} == {1}
        with stage.load(rate=50) as load:
            time.sleep(2)
            assert load.stop().failed == 0

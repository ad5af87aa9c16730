"""When slots run out: one checked, graceful reload, and nobody notices."""

import re
import signal
import time

import attrs
import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.processes import wait_until

SLOTS = 'scaling = "slots"'
"""Whatever the version: from 3.0 on servers would be added instead."""


def test_slots_run_out_under_load_and_one_reload_grows_them() -> None:
    with Stage({"web": 4}, backend_options=SLOTS) as stage, Fleet(stage) as fleet:
        members = [fleet.add() for _ in range(4)]
        stage.wait_equal()
        fleet.put(attrs.evolve(members[0], maintenance=True))
        fleet.put(attrs.evolve(members[1], status="critical"))
        stage.wait_equal()
        before = stage.haproxy.worker_pid()
        with stage.load(rate=300) as load:
            time.sleep(1)
            fleet.add_at_once(5)
            wait_until(lambda: stage.haproxy.worker_pid() not in (None, before), 20, "the new worker")
            # Servers leave right after it, while old connections still live.
            fleet.remove(members[2].name)
            fleet.remove(members[3].name)
            stage.wait_equal()
            time.sleep(4)
            result = load.stop()

        after = stage.haproxy.worker_pid()
        assert (result.failed, result.failures) == (0, ())
        assert result.requests > 1000
        assert stage.reloads() == 1
        servers = stage.haproxy.servers("web")
        assert len(servers) >= 8
        assert [one.draining for one in servers.values() if one.port == members[0].port] == [True]
        assert [one.in_maintenance for one in servers.values() if one.port == members[1].port] == [True]
        wait_until(lambda: stage.hapsync("plan").returncode == 0, 10, "an empty plan")
        assert stage.haproxy.worker_pid() == after
        assert stage.reloads() == 1
        assert "no free slot" in stage.status()["agent"]["reloads"][0]["why"]


def test_many_causes_at_once_are_one_reload() -> None:
    with (
        Stage({"web": 2, "api": 2, "img": 2}, backend_options=SLOTS) as stage,
        Fleet(stage, "web") as web,
        Fleet(stage, "api") as api,
        Fleet(stage, "img") as img,
    ):
        for fleet in (web, api, img):
            fleet.add_at_once(5)
        for name in stage.backends:
            stage.wait_equal(name, timeout_seconds=15)
        time.sleep(1)

        assert stage.reloads() == 1


def test_a_configuration_that_haproxy_refuses_changes_nothing_and_is_not_tried_again_and_again() -> None:
    with Stage({"web": 2}, backend_options=SLOTS) as stage, Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        wait_until(lambda: "node-a" in stage.haproxy.config.read_text(), 10, "the file to follow")
        stage.stop_agent()
        template = stage.work / "haproxy.cfg.j2"
        text = template.read_text()
        template.write_text(text.replace("timeout connect 5s", "timeout connect nonsense"))
        before, pid = stage.haproxy.config.read_text(), stage.haproxy.worker_pid()
        stage.start_agent()
        for _ in range(3):
            fleet.add()
        wait_until(lambda: stage.status()["agent"]["counters"]["failed_reloads"], 20, "a refused reload")
        time.sleep(7)

        status = stage.status()
        assert "timeout connect" in str(status["agent"]["reloads"][-1]["error"])
        assert status["agent"]["counters"]["failed_reloads"] <= 3
        assert (stage.haproxy.config.read_text(), stage.haproxy.worker_pid()) == (before, pid)
        assert sum(1 for one in stage.haproxy.servers("web").values() if one.running) == 2
        assert stage.hapsync("status").returncode == 2

        template.write_text(text)
        stage.agent.signal(signal.SIGHUP)

        stage.wait_equal(timeout_seconds=15)


def test_a_reload_that_the_master_refuses_puts_the_old_file_back() -> None:
    with Stage({"web": 1}, agent=False) as stage, Fleet(stage) as fleet:
        # A check command that accepts what HAProxy then cannot start with: a port that is taken.
        settings = stage.config_path.read_text()
        stage.config_path.write_text(
            re.sub(r"(?m)^check_command = .*", 'check_command = ["true", "{config}"]', settings)
        )
        fleet.add()
        stage.start_agent()
        stage.wait_equal()
        wait_until(lambda: "node-a" in stage.haproxy.config.read_text(), 10, "the file to follow")
        template = stage.work / "haproxy.cfg.j2"
        before, pid = stage.haproxy.config.read_text(), stage.haproxy.worker_pid()
        template.write_text(template.read_text().replace("mode http", "mode nonsense"))

        stage.agent.signal(signal.SIGHUP)

        wait_until(lambda: stage.status()["agent"]["counters"]["failed_reloads"], 20, "the failed reload")
        assert (stage.haproxy.config.read_text(), stage.haproxy.worker_pid()) == (before, pid)
        wait_until(lambda: stage.hapsync("status").returncode == 0, 10, "status to say in sync")


HAND_WRITTEN = """\
global
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
frontend public
    bind 127.0.0.1:{port}
    default_backend web
backend web
    server alpha 127.0.0.1:{origin}
"""


@pytest.mark.parametrize("cause", ["consul is away", "the service's name is wrong"])
def test_a_hand_written_backend_that_serves_is_never_replaced_by_one_that_serves_nothing(cause: str) -> None:
    with Stage({"web": 4}, agent=False) as stage, Fleet(stage) as fleet:
        member = fleet.start_server()
        text = HAND_WRITTEN.format(socket=stage.haproxy.socket_path, port=stage.frontend_port, origin=member.port)
        stage.haproxy.config.write_text(text)
        stage.haproxy.reload()
        if cause == "consul is away":
            stage.consul.kill()
        with stage.load(rate=50) as load:
            applied = stage.hapsync("apply")
            stage.start_agent()
            time.sleep(5)
            result = load.stop()

        assert (result.failed, result.failures) == (0, ())
        assert applied.returncode in (1, 2)
        assert stage.haproxy.config.read_text() == text
        assert stage.hapsync("status").returncode != 0 or cause != "consul is away"
        if cause == "consul is away":
            stage.consul.start()
        fleet.put(member)
        stage.wait_equal(timeout_seconds=15)
        assert stage.reloads() == 2  # the test's own, and the one that brought the template


def test_a_template_indented_with_tabs_is_reloaded_into_once() -> None:
    with Stage({"web": 2}, agent=False) as stage, Fleet(stage) as fleet:
        template = stage.work / "haproxy.cfg.j2"
        template.write_text(template.read_text().replace('    {{ servers("web") }}', '\t{{ servers("web") }}'))
        fleet.add()
        for _ in range(3):
            assert stage.hapsync("apply").returncode == 0
        stage.start_agent()
        time.sleep(4)

        assert stage.reloads() <= 1
        assert stage.hapsync("plan").returncode == 0


def test_a_reload_that_could_not_be_tried_is_tried_again_when_the_master_is_back() -> None:
    with Stage({"web": 1}, backend_options=SLOTS) as stage, Fleet(stage) as fleet:
        aside = stage.work / "aside.sock"
        stage.haproxy.master_path.rename(aside)
        fleet.add()
        fleet.add()
        wait_until(lambda: stage.status()["agent"]["counters"]["failed_reloads"], 15, "a failed reload")
        aside.rename(stage.haproxy.master_path)

        stage.wait_equal(timeout_seconds=15)


def test_a_change_made_by_hand_is_repaired_and_the_file_follows() -> None:
    with Stage({"web": 4}) as stage, Fleet(stage) as fleet:
        one = fleet.add()
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 10, "status to say in sync")
        stage.haproxy.ask(f"set server web/srv3 addr 127.0.0.1 port {one.port}")
        stage.haproxy.ask("set server web/srv3 weight 10")
        stage.haproxy.ask("set server web/srv3 state ready")
        stage.haproxy.ask("set server web/srv1 state maint")

        wait_until(lambda: stage.hapsync("status").returncode == 0, 25, "status to say in sync again")
        assert stage.differences() == []


def test_a_new_worker_that_is_not_what_was_meant_is_reloaded_away_at_once() -> None:
    with Stage({"web": 2}) as stage, Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        wait_until(lambda: "node-a" in stage.haproxy.config.read_text(), 10, "the file to follow")
        before = stage.haproxy.config.read_text()
        template = stage.work / "haproxy.cfg.j2"
        sound = template.read_text()
        # Only a worker of a master has that variable, so the check command sees another backend.
        servers = '{{ servers("web") }}'
        template.write_text(sound.replace(servers, f".if defined(HAPROXY_MWORKER)\n.else\n{servers}\n.endif"))

        stage.agent.signal(signal.SIGHUP)
        wait_until(lambda: stage.status()["agent"]["counters"]["failed_reloads"], 20, "the failed reload")

        stage.wait_equal()
        assert stage.haproxy.config.read_text() == before
        assert stage.reloads() == 2
        shown = stage.hapsync("status").stdout
        assert "settings not taken" in shown
        assert "HAProxy was reloaded into it" in shown
        template.write_text(sound)
        stage.agent.signal(signal.SIGHUP)
        wait_until(lambda: "settings not taken" not in stage.hapsync("status").stdout, 10, "the mended template")

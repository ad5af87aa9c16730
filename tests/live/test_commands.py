"""The commands as a person meets them: what they print, their exit codes, and what bad input gets."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import HAPSYNC, Stage
from tests.edge.fake_consul import fake_consul
from tests.harness.ports import free_port
from tests.harness.processes import wait_until

HOSTILE_ADDRESSES = (
    "10.0.0.1;set server web/srv1 weight 99",
    "10.0.0.1\nset server web/srv1 weight 99",
    "10.0.0.1\x00",
    "10.0.0.1 <<",
    '"10.0.0.1"',
    "{{ 7 * 7 }}",
    "host.example",
    "fe80::1%eth0",
    "224.0.0.1",
    "10.0.0.1 port 80",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((str(HAPSYNC), *arguments), capture_output=True, text=True, timeout=30, check=False)


def edited(stage: Stage, key: str, value: str) -> None:
    text = stage.config_path.read_text()
    stage.config_path.write_text(re.sub(rf"(?m)^{key} = .*$", lambda _: f"{key} = {value}", text))


@pytest.fixture(scope="module")
def quiet() -> Iterator[Stage]:
    """A stage without an agent, that tests only look at."""
    with Stage({"web": 4}, agent=False) as stage:
        yield stage


@pytest.fixture
def copy(quiet: Stage, tmp_path: Path) -> Path:
    """A copy of its configuration, to be spoilt."""
    path = tmp_path / "hapsync.toml"
    path.write_text(quiet.config_path.read_text())
    return path


def spoil(path: Path, key: str, value: str) -> None:
    path.write_text(re.sub(rf"(?m)^{key} = .*$", lambda _: f"{key} = {value}", path.read_text()))


@pytest.mark.parametrize("command", ["agent", "apply", "plan", "status", "render", "check"])
def test_every_command_teaches_by_example_and_fits_80_columns(command: str) -> None:
    shown = run(command, "--help")

    assert shown.returncode == 0
    assert "Examples:" in shown.stdout
    assert "--config FILE" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments", [(), ("nosuch",), ("plan", "--nosuch"), ("status", "--config"), ("plan", "extra")]
)
def test_wrong_usage_is_64(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 64


@pytest.mark.parametrize("command", ["agent", "apply", "plan", "status", "render", "check"])
def test_a_wrong_configuration_is_78_and_every_problem_is_listed(command: str, tmp_path: Path) -> None:
    path = tmp_path / "hapsync.toml"
    path.write_text('nosuch = 1\n[haproxy]\nsocket = "relative"\n[backends.web]\nslots = "many"\n')

    shown = run(command, "--config", str(path))

    assert shown.returncode == 78
    for part in ("nosuch", "haproxy.socket", "backends.web.slots", "backends.web.service"):
        assert part in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_missing_configuration_says_how_to_name_another(tmp_path: Path) -> None:
    shown = run("plan", "--config", str(tmp_path / "nosuch.toml"))

    assert (shown.returncode, "HAPSYNC_CONFIG" in shown.stderr) == (78, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{{ servers("nosuch") }}', "no such backend"),
        ("backend web\n  {{ nosuch }}", "line 2: 'nosuch' is undefined"),
        ("backend web\n\n{% if %}", "line 3"),
        ("backend web\n", "has no {{ servers"),
        ('backend api\n{{ servers("web") }}', "does not stand under `backend web`"),
        ('backend web\n{{ servers("web") }}\n{{ servers("web") }}', "stands 2 times"),
    ],
)
def test_a_broken_template_is_78_and_says_where(copy: Path, tmp_path: Path, text: str, said: str) -> None:
    template = tmp_path / "broken.j2"
    template.write_text(text)
    spoil(copy, "template", json.dumps(str(template)))

    for command in ("render", "check", "apply", "agent", "plan"):
        shown = run(command, "--config", str(copy))
        assert (shown.returncode, said in shown.stderr) == (78, True), (command, shown.stderr)


def test_a_socket_that_is_not_there_is_cannot_tell_and_says_what_to_look_at(copy: Path, tmp_path: Path) -> None:
    spoil(copy, "socket", json.dumps(str(tmp_path / "nosuch.sock")))

    for command in ("plan", "status"):
        shown = run(command, "--config", str(copy))
        assert shown.returncode == 1
        assert "is HAProxy running" in shown.stderr + shown.stdout
    shown = run("apply", "--config", str(copy))
    assert (shown.returncode, "the template has no such `stats socket`" in shown.stderr) == (78, True)
    shown = run("check", "--config", str(copy))
    assert (shown.returncode, "WRONG HAProxy's socket" in shown.stdout) == (2, True)


def test_a_consul_that_is_not_there_is_cannot_tell_and_haproxy_is_shown_all_the_same(copy: Path) -> None:
    spoil(copy, "address", json.dumps(f"http://127.0.0.1:{free_port()}"))

    assert run("plan", "--config", str(copy)).returncode == 1
    assert run("apply", "--config", str(copy)).returncode == 1
    shown = run("status", "--config", str(copy))
    assert shown.returncode == 1
    assert "CANNOT TELL" in shown.stdout
    assert "refuses the connection; is the agent running there?" in shown.stdout
    assert "slots 0 used, 4 free" in shown.stdout


def test_a_socket_of_too_low_a_level_is_told_by_check_and_by_apply() -> None:
    with Stage({"web": 2}, agent=False) as stage, Fleet(stage) as fleet:
        template = stage.work / "haproxy.cfg.j2"
        for path in (template, stage.haproxy.config):
            path.write_text(path.read_text().replace("level admin", "level operator"))
        stage.haproxy.stop()
        stage.haproxy.start()
        fleet.add()

        checked, applied = stage.hapsync("check"), stage.hapsync("apply")

    assert (checked.returncode, "add `level admin`" in checked.stdout) == (2, True)
    assert (applied.returncode, "Permission denied" in applied.stdout) == (2, True)


def test_apply_does_a_whole_pass_and_plan_says_the_same_before() -> None:
    with Stage({"web": 2}, agent=False) as stage, Fleet(stage) as fleet:
        for _ in range(3):
            fleet.add()
        planned = stage.hapsync("plan")
        assert planned.returncode == 2
        assert "no free slot for 1 server" in planned.stdout
        assert stage.haproxy.servers("web")["srv1"].in_maintenance, "plan changes nothing"

        applied = stage.hapsync("apply")

        assert (applied.returncode, "reloaded HAProxy" in applied.stdout) == (0, True), applied
        assert stage.differences() == []
        again = stage.hapsync("apply")
        assert (again.returncode, again.stdout) == (0, "HAProxy is in sync with Consul\n")
        assert stage.hapsync("plan").returncode == 0
        assert stage.hapsync("status").returncode == 0


@pytest.mark.parametrize("agent", [False, True])
def test_plan_apply_and_status_agree_that_a_person_should_look_at_a_service_that_vanished(*, agent: bool) -> None:
    why = "backend web: 2 servers kept, the whole service is gone from Consul"
    with Stage({"web": 2}, agent=agent) as stage, Fleet(stage) as fleet:
        fleet.add()
        fleet.add()
        assert stage.hapsync("apply").returncode in {0, 2}  # the agent may not have heard of them
        stage.wait_equal()
        fleet.vanish()
        wait_until(lambda: why in stage.hapsync("status").stdout, 10, "status to tell")
        told = {command: stage.hapsync(command) for command in ("plan", "apply", "status")}

    assert {command: ended.returncode for command, ended in told.items()} == dict.fromkeys(told, 2), told
    assert all(why in ended.stdout for ended in told.values()), told
    assert "in sync with Consul: nothing" not in told["plan"].stdout


def test_apply_beside_an_agent_is_made_by_the_agent() -> None:
    with Stage({"web": 2}) as stage, Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        # Until its pass is over and the file is written the agent itself may find the change.
        wait_until(lambda: stage.status()["agent"]["in_sync"], 20, "the agent to be in sync, its file too")
        stage.haproxy.ask("set server web/srv1 weight 77")
        applied = stage.hapsync("apply")

        assert (applied.returncode, applied.stderr) == (0, "")
        assert "weight web/srv1" in applied.stdout
        assert "HAProxy is in sync with Consul" in applied.stdout
        assert stage.differences() == []
        assert stage.status()["agent"]["counters"]["drift"] == 1


def test_a_second_agent_says_who_runs_whatever_folders_it_has() -> None:
    with Stage({"web": 2}) as stage:
        second = stage.hapsync("agent")
        text = stage.config_path.read_text(encoding="utf-8")
        stage.config_path.write_text(text.replace("/state", "/other-state").replace("/run", "/other-run"))
        third = stage.hapsync("agent")

    assert (second.returncode, third.returncode) == (1, 1)
    assert f"hapsync agent, pid {stage.agent.pid}, holds" in second.stderr
    assert f"hapsync agent, pid {stage.agent.pid}, holds" in third.stderr


def test_render_gives_the_configuration_alone_and_needs_neither_haproxy_nor_consul(
    quiet: Stage, copy: Path, tmp_path: Path
) -> None:
    spoil(copy, "address", json.dumps(f"http://127.0.0.1:{free_port()}"))
    spoil(copy, "socket", json.dumps(str(tmp_path / "nosuch.sock")))
    from_file = run("render", "--config", str(copy))
    spoil(copy, "config", json.dumps(str(tmp_path / "nosuch.cfg")))
    from_nothing = run("render", "--config", str(copy))

    assert (from_file.returncode, from_nothing.returncode) == (0, 0)
    assert from_file.stdout == quiet.haproxy.config.read_text()
    assert from_nothing.stdout.count("disabled  # free") == 4


def test_a_hostile_instance_is_left_out_alone_and_shown_and_nothing_else_is_disturbed() -> None:
    with Stage({"web": 4}) as stage, Fleet(stage) as fleet:
        good = fleet.add()
        for number, address in enumerate(HOSTILE_ADDRESSES):
            stage.consul.put("web", f"bad-{number}", node=f"bad-{number}", address=address, port=80)
        stage.consul.put("web", "bad-port", node="bad-port", address="10.0.0.1", port=70000)
        stage.consul.put("web", "no-port", node="no-port", address="10.0.0.1", port=0)
        odd = 'x";\n{{ 1 }} `id`\x1b[31m' + "y" * 300
        port = free_port()
        stage.origins.open("127.0.0.1", port)
        stage.consul.put("web", odd, node="odd # node\n", address="127.0.0.1", port=port, tags=["a b `c`"])
        wait_until(
            lambda: stage.status()["counts"]["quarantined"] == len(HOSTILE_ADDRESSES) + 2, 20, "the quarantine"
        )
        wait_until(
            lambda: {one.port for one in stage.haproxy.servers("web").values() if one.running} == {good.port, port},
            20,
            "both good ones to serve",
        )
        wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "status to say in sync")

        shown = stage.hapsync("status").stdout
        servers = stage.haproxy.servers("web")
        written = stage.haproxy.config.read_text()

        assert {one.port for one in servers.values() if one.running} == {good.port, port}
        assert {one.weight for one in servers.values() if one.running} == {10, 1}
        assert shown.count("quarantined bad-") == len(HOSTILE_ADDRESSES) + 1
        assert "\x1b" not in shown + written
        assert written.count("\n    server srv") == 4
        assert "\\u001b[31m" in written


def test_queues_shows_the_accept_queue_of_each_listener(quiet: Stage) -> None:
    shown = quiet.hapsync("status", "--queues")

    assert f"127.0.0.1:{quiet.frontend_port}" in shown.stdout


def test_status_names_an_unknown_backend(quiet: Stage) -> None:
    shown = quiet.hapsync("status", "nosuch")

    assert (shown.returncode, "no such backend: nosuch" in shown.stderr) == (64, True)


def test_plan_status_and_apply_agree_that_nobody_can_tell_while_consul_is_away() -> None:
    with fake_consul(1, 2) as fake, Stage({"web": 4}, consul_url=lambda _stage: fake.url) as stage:
        wait_until(lambda: stage.status()["sync"]["verdict"] == "in_sync", 20, "the agent to be in sync")
        assert stage.hapsync("plan").returncode == 0

        fake.show(1, 2, status=500)
        wait_until(lambda: stage.status()["sync"]["verdict"] == "cannot_tell", 20, "Consul to be given up")

        said = {command: stage.hapsync(command) for command in ("status", "plan", "apply")}
        assert {command: one.returncode for command, one in said.items()} == dict.fromkeys(said, 1)
        for one in said.values():
            assert 'service "web": Consul does not answer' in " ".join((one.stdout + one.stderr).split())

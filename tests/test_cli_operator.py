"""What people ask of hapsync: by a running agent, by themselves where none runs, and what bad input gets."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from hapsync.api.client import SOCKET_FILE, user_name
from hapsync.api.messages import Apply, FreezeAll, OverrideServer, ReleaseBackend, ReleaseServer, Reply, Request, Thaw
from hapsync.api.server import Pending, Requests
from hapsync.cli import COMMANDS, operator, run
from hapsync.model.overrides import Freeze, Override, SavedState, state_from_json, state_to_json, with_override
from hapsync.model.server import Address, AdminState
from hapsync.system.lock import lock
from tests.demo.fleet import Fleet
from tests.demo.stage import HAPSYNC, Stage
from tests.harness.ports import free_port
from tests.harness.processes import wait_until

MAINT, DRAIN = AdminState.MAINT, AdminState.DRAIN
HELD = Override("web", Address("10.0.0.5", 80), MAINT, 5.0, None, "alice", "disk")
ME = user_name(os.geteuid(), "")
WORK = ("agent", "consul", "haproxy", "inspect", "plan", "system")
NEW = ("hold", "drain", "release", "freeze", "thaw")
IMPORTS = "import json, sys\nfrom hapsync.cli import run\nrun(sys.argv[1:])\nprint(json.dumps(list(sys.modules)))"


@pytest.fixture
def config(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose Consul, HAProxy and template are not there; commands find it by the environment."""
    path = work / "hapsync.toml"
    path.write_text(f"""\
[consul]
address = "http://127.0.0.1:{free_port()}"
[haproxy]
socket = "{work}/admin.sock"
config = "{work}/haproxy.cfg"
template = "{work}/haproxy.cfg.j2"
[agent]
state_dir = "{work}/state"
runtime_dir = "{work}"
[backends.web]
service = "web"
[backends.api]
service = "api"
""")
    monkeypatch.setenv("HAPSYNC_CONFIG", str(path))
    monkeypatch.delenv("SUDO_USER", raising=False)
    return path


@pytest.fixture
def template(work: Path) -> None:
    (work / "haproxy.cfg.j2").write_text('backend web\n  {{ servers("web") }}\nbackend api\n  {{ servers("api") }}\n')


class Agent:
    """A stand-in for a running agent: the real socket and the real lock; it answers with `reply`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.asked: list[Request] = []
        self.reply = Reply.done("done")

    def take(self, pending: Pending) -> None:
        self.asked.append(attrs.evolve(pending.request, deadline=None))
        pending.respond(self.reply)

    def listen(self) -> Requests:
        return Requests(str(self.work / SOCKET_FILE), self.take)


@pytest.fixture
def agent(work: Path, config: Path) -> Iterator[Agent]:  # noqa: ARG001
    made = Agent(work)
    (work / "state").mkdir()
    with lock(str(work / "state" / "lock"), "hapsync agent, pid 42,"):
        requests = made.listen()
        yield made
        requests.close()
    assert not (work / "state" / "memory.json").exists(), "with an agent, only the agent writes"


def memory_in(work: Path) -> SavedState:
    found = state_from_json((work / "state" / "memory.json").read_text())
    assert found is not None
    return found


def remembered(work: Path, saved: SavedState) -> Path:
    path = work / "state" / "memory.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(state_to_json(saved))
    return path


# -- what is said before anything is asked ------------------------------------------------------------------------


@pytest.mark.parametrize("command", [*NEW, "apply"])
def test_the_help_teaches_by_example_and_fits_80_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out

    assert "Examples:" in shown
    assert "--config FILE" in shown
    assert "Exit codes:" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_list_of_commands_has_a_line_for_each_and_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert set(NEW) <= set(COMMANDS)
    assert [line.split()[0] for line in lines if line.strip() and line.split()[0] in COMMANDS] == list(COMMANDS)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", NEW)
def test_the_help_of_a_command_imports_none_of_its_work(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, command, "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout.splitlines()[-1])

    assert [
        name for name in found if name.startswith((*(f"hapsync.{room}" for room in WORK), "jinja2", "rich"))
    ] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("hold", "Missing argument 'BACKEND/SERVER'"),
        ("hold web", "say which server: web/srv3, or its address: web/10.0.0.5:80"),
        ("drain web", "say which server"),
        ("hold web/", "write HAProxy's name of it (srv3) or its address"),
        ("hold web/sr;v", "write HAProxy's name of it (srv3) or its address"),
        ("drain web/2001:db8::1", "write [2001:db8::1]:80"),
        ("hold we;b/srv1", "write BACKEND/SERVER, for example web/srv3"),
        ("release we;b", "write BACKEND/SERVER, for example web/srv3"),
        ("release web/srv1 more", "unexpected extra argument"),
        ("hold nosuch/srv1", 'no such backend: "nosuch"; {config} has api, web'),
        ("drain nosuch/srv1", 'no such backend: "nosuch"; {config} has api, web'),
        ("release nosuch", 'no such backend: "nosuch"; {config} has api, web'),
        ("hold web/srv1 --for 45", "say the unit: 45s, 45m, 45h or 45d"),
        ("drain web/srv1 --for 32d", "must be from 1s to 31d"),
        ("freeze --for soon", "write 90s, 30m, 1h or 2d"),
        ("freeze --for", "requires an argument"),
        ("hold web/srv1 --reason a\x1bb", "one line of printable characters"),
        ("freeze --reason a\nb", "one line of printable characters"),
        ("freeze --reason " + "x" * 201, "the reason has 201 characters; write at most 200"),
        ("thaw now", "unexpected extra argument"),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_bad_input_is_64_says_what_to_write_and_reaches_nobody(
    agent: Agent, config: Path, capsys: pytest.CaptureFixture[str], arguments: str, said: str
) -> None:
    code = run(arguments.split(" "))
    shown = capsys.readouterr()

    assert code == 64
    assert said.format(config=config) in shown.err
    assert shown.out == ""
    assert "\x1b" not in shown.err
    assert agent.asked == []


@pytest.mark.parametrize("arguments", ["hold web/srv1", "drain web/srv1", "release web", "freeze", "thaw", "apply"])
def test_a_wrong_configuration_is_78_and_reaches_nobody(agent: Agent, config: Path, arguments: str) -> None:
    config.write_text("speed = 1\n")
    shown = subprocess.run((HAPSYNC, *arguments.split()), capture_output=True, text=True, check=False, timeout=60)

    assert (shown.returncode, "speed" in shown.stderr, agent.asked) == (78, True, [])


# -- by the agent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["hold", "web/srv3"], OverrideServer("web", "srv3", MAINT)),
        (
            ["hold", "web/[2001:DB8::1]:80", "--for", "2d", "--reason", " disk is failing "],
            OverrideServer("web", "[2001:db8::1]:80", MAINT, 172800, "disk is failing"),
        ),
        (["drain", "api/10.0.0.5:80", "--for=30m"], OverrideServer("api", "10.0.0.5:80", DRAIN, 1800)),
        (["release", "web/srv3"], ReleaseServer("web", "srv3")),
        (["release", "web"], ReleaseBackend("web")),
        (["freeze"], FreezeAll()),
        (["freeze", "--for", "1h", "--reason", "Consul für 1.8"], FreezeAll(3600, "Consul für 1.8")),
        (["thaw"], Thaw()),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_a_command_hands_its_request_to_the_agent_and_prints_the_answer(
    agent: Agent, capsys: pytest.CaptureFixture[str], arguments: list[str], request_: Request
) -> None:
    agent.reply = Reply.done("first", "second")

    assert run(arguments) == 0
    assert capsys.readouterr() == ("first\nsecond\n", "")
    assert agent.asked == [attrs.evolve(request_, who=ME)]


def test_the_exit_code_is_the_agents_and_what_cannot_be_told_is_no_output(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    for reply, code, out, err in (
        (Reply.not_done("not yet"), 2, "not yet\n", ""),
        (Reply.cannot_tell("HAProxy is gone"), 1, "", "hapsync: HAProxy is gone\n"),
        (Reply.wrong("no server srv9"), 64, "", "hapsync: no server srv9\n"),
    ):
        agent.reply = reply
        assert run(["release", "web/srv9"]) == code
        assert capsys.readouterr() == (out, err)


def test_what_the_agent_says_cannot_move_a_terminals_cursor(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.reply = Reply.done("a\x1b[31m\nforged: line", "é\u202e")
    run(["thaw"])

    assert capsys.readouterr().out == "a\\u001b[31m; forged: line\n\\u00e9\\u202e\n"


@pytest.mark.parametrize(("arguments", "request_"), [((), Apply()), (("--force",), Apply(force=True))])
def test_apply_beside_an_agent_lets_the_agent_make_the_pass(
    agent: Agent, arguments: tuple[str, ...], request_: Request
) -> None:
    agent.reply = Reply.not_done("add web/srv1", "HAProxy is not in sync with Consul")
    shown = subprocess.run((HAPSYNC, "apply", *arguments), capture_output=True, text=True, check=False, timeout=60)

    assert (shown.returncode, shown.stdout) == (2, "add web/srv1\nHAProxy is not in sync with Consul\n")
    assert agent.asked == [attrs.evolve(request_, who=ME)]


@pytest.mark.usefixtures("config", "template")
def test_apply_beside_another_apply_says_so(work: Path) -> None:
    (work / "state").mkdir()
    with lock(str(work / "state" / "lock"), "hapsync apply, pid 42,"):
        shown = subprocess.run((HAPSYNC, "apply"), capture_output=True, text=True, check=False, timeout=60)

    assert (shown.returncode, "hapsync apply, pid 42, holds" in shown.stderr) == (1, True)


# -- without an agent ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("config")
def test_a_freeze_needs_nothing_but_the_configuration(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = time.time()
    code = run(["freeze", "--for", "1h", "--reason", "upgrade"])
    shown = capsys.readouterr()
    freeze = memory_in(work).freeze

    assert (code, shown.err) == (0, "")
    assert "frozen for 1 h: hapsync changes nothing until " in shown.out
    assert "no agent runs" in shown.out
    assert freeze is not None
    assert before <= freeze.at <= time.time()
    assert freeze == Freeze(freeze.at, freeze.at + 3600, ME, "upgrade")


@pytest.mark.usefixtures("config")
def test_a_thaw_ends_the_freeze_says_whose_it_was_and_leaves_the_holds(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deferred = with_override(SavedState(), HELD)
    remembered(work, attrs.evolve(deferred, freeze=Freeze(5.0, None, "alice", "disk\u202e full")))

    assert run(["thaw"]) == 0
    assert "by alice: disk\\u202e full" in capsys.readouterr().out
    assert attrs.evolve(memory_in(work), boot_id="") == deferred
    assert run(["thaw"]) == 0
    assert "nothing was frozen" in capsys.readouterr().out
    assert attrs.evolve(memory_in(work), boot_id="") == deferred


@pytest.mark.usefixtures("config")
def test_a_second_freeze_takes_the_place_of_the_first_and_says_so(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["freeze", "--reason", "first"])
    capsys.readouterr()
    monkeypatch.setenv("SUDO_USER", "bob")
    run(["freeze", "--for", "90s", "--reason", "second"])
    freeze = memory_in(work).freeze

    assert f"by {ME}: first" in capsys.readouterr().out
    assert freeze is not None
    assert (freeze.reason, freeze.who) == ("second", f"bob (through sudo as {ME})")


@pytest.mark.usefixtures("config")
def test_the_memory_is_for_owner_and_group_only(work: Path) -> None:
    before = os.umask(0)
    try:
        run(["freeze"])
    finally:
        os.umask(before)

    assert oct((work / "state" / "memory.json").stat().st_mode & 0o777) == "0o640"
    assert oct((work / "state").stat().st_mode & 0o777) == "0o750"


@pytest.mark.usefixtures("config")
def test_a_damaged_memory_is_kept_aside_and_named(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = remembered(work, with_override(SavedState(), HELD))
    damaged = path.read_text().replace("10.0.0.5", "10.0.0.6")
    path.write_text(damaged)

    assert run(["freeze"]) == 0
    assert f"{path} is damaged" in caplog.text
    assert (work / "state" / "memory.json.damaged").read_text() == damaged
    assert memory_in(work).freeze is not None

    path.write_text("damaged again")
    assert run(["freeze"]) == 0
    assert (work / "state" / "memory.json.damaged").read_text() == damaged
    assert (work / "state" / "memory.json.damaged.2").read_text() == "damaged again"


@pytest.mark.usefixtures("config")
def test_status_says_that_holds_were_lost_until_a_person_acknowledges_it(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost() -> bool:
        capsys.readouterr()
        run(["status", "--json"])
        told = json.loads(capsys.readouterr().out)
        is_told = any("overrides and a freeze are lost" in one for one in told["sync"]["reasons"])
        assert (told["state_file"]["lost"] is not None) == is_told
        return is_told

    path = remembered(work, with_override(SavedState(), HELD))
    assert not lost()
    path.write_text(path.read_text()[:-5])
    assert lost()

    assert run(["freeze"]) == 0
    assert run(["thaw"]) == 0
    assert lost()
    assert run(["thaw", "--acknowledge"]) == 0
    assert "the damaged file is " in capsys.readouterr().out
    assert not lost()


@pytest.mark.usefixtures("config", "template")
@pytest.mark.parametrize(
    "arguments", [["freeze"], ["freeze", "--for", "5s"], ["thaw"], ["hold", "web/srv1"], ["release", "web/srv1"]]
)
def test_a_memory_of_another_version_is_left_as_it_is_and_nothing_is_done(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    path = remembered(work, with_override(SavedState(), HELD))
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 7}))
    before = path.read_text()

    assert run(arguments) == 2
    assert "it is of version 7" in capsys.readouterr().out
    assert path.read_text() == before
    assert {one.name for one in path.parent.iterdir()} == {"memory.json", "lock"}


@pytest.mark.usefixtures("config")
def test_a_person_goes_on_without_a_memory_of_another_version_which_is_kept(work: Path) -> None:
    path = remembered(work, with_override(SavedState(), HELD))
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 7}))
    before = path.read_text()

    assert run(["thaw", "--acknowledge"]) == 0
    assert (work / "state" / "memory.json.version-7").read_text() == before
    assert memory_in(work).holds == ()
    assert run(["freeze"]) == 0


@pytest.mark.usefixtures("config")
def test_a_memory_that_cannot_be_written_is_said_and_stays_as_it_was(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = remembered(work, with_override(SavedState(), HELD))
    before = path.read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    assert run(["freeze"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert path.read_text() == before


@pytest.mark.usefixtures("config", "template")
@pytest.mark.parametrize("arguments", [["hold", "web/srv1"], ["drain", "web/srv1"], ["release", "web/srv1"]])
def test_what_needs_haproxy_says_so_when_it_is_not_there_and_remembers_nothing(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 1
    assert "is HAProxy running" in capsys.readouterr().err
    path = work / "state" / "memory.json"
    assert not path.exists() or memory_in(work).holds == ()


@pytest.mark.usefixtures("config")
def test_what_the_guard_holds_back_in_a_backend_is_only_released_by_who_has_the_catalog(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["release", "web"]) == 2
    assert "`hapsync apply --force`" in capsys.readouterr().out


@pytest.mark.usefixtures("config")
def test_a_lock_that_stays_held_without_a_socket_is_cannot_tell(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "_LOCK_SECONDS", 0.3)
    (work / "state").mkdir()
    with lock(str(work / "state" / "lock"), "hapsync apply, pid 42,"):
        assert run(["freeze"]) == 1

    assert "hapsync apply, pid 42, holds" in capsys.readouterr().err
    assert not (work / "state" / "memory.json").exists()


@pytest.mark.usefixtures("config")
def test_a_freeze_waits_for_an_apply_that_is_at_work(work: Path) -> None:
    (work / "state").mkdir()
    is_held, may_end = threading.Event(), threading.Event()

    def applying() -> None:
        with lock(str(work / "state" / "lock"), "hapsync apply, pid 42,"):
            is_held.set()
            may_end.wait(10)

    thread = threading.Thread(target=applying)
    thread.start()
    is_held.wait(10)
    threading.Timer(0.4, may_end.set).start()
    code = run(["freeze"])
    thread.join()

    assert (code, memory_in(work).freeze is not None) == (0, True)


@pytest.mark.usefixtures("config")
def test_an_agent_that_is_just_starting_is_asked_as_soon_as_it_listens(work: Path) -> None:
    agent = Agent(work)
    started: list[Requests] = []
    (work / "state").mkdir()
    with lock(str(work / "state" / "lock"), "hapsync agent, pid 42,"):
        starting = threading.Timer(0.4, lambda: started.append(agent.listen()))
        starting.start()
        code = run(["freeze"])
        starting.join()
        started[0].close()

    assert (code, agent.asked) == (0, [FreezeAll(who=ME)])
    assert not (work / "state" / "memory.json").exists()


# -- with everything real -----------------------------------------------------------------------------------------


def states(stage: Stage) -> dict[str, str]:
    found = stage.haproxy.servers("web")
    return {
        name: "maint" if one.in_maintenance else "drain" if one.draining else "ready" for name, one in found.items()
    }


def test_what_people_set_aside_stays_aside_over_a_restart_of_the_agent_until_it_is_released() -> None:
    with Stage({"web": 3}) as stage, Fleet(stage) as fleet:
        for _ in range(3):
            fleet.add()
        stage.wait_equal()
        third = f"web/127.0.0.1:{stage.haproxy.servers('web')['srv3'].port}"
        deferred = stage.hapsync("hold", "web/srv1", "--for", "1h", "--reason", "disk")
        drained = stage.hapsync("drain", third)
        nobody = stage.hapsync("hold", "web/srv9")
        aside = {"srv1": "maint", "srv2": "ready", "srv3": "drain"}
        assert (deferred.returncode, drained.returncode, states(stage)) == (0, 0, aside), (deferred, drained)
        assert (nobody.returncode, "has no server srv9" in nobody.stderr) == (64, True)

        stage.kill_agent()
        stage.start_agent()
        assert stage.hapsync("apply").returncode == 0
        assert states(stage) == aside

        assert stage.hapsync("release", "web/srv1").returncode == 0
        wait_until(lambda: states(stage) == {**aside, "srv1": "ready"}, 10, "srv1 to serve again")
        stage.stop_agent()
        assert stage.hapsync("release", third).returncode == 0
        assert stage.hapsync("apply").returncode == 0
        assert set(states(stage).values()) == {"ready"}


def test_while_frozen_nothing_changes_and_afterwards_everything_that_is_due_does() -> None:
    with Stage({"web": 3}) as stage, Fleet(stage) as fleet:
        fleet.add()
        stage.wait_equal()
        assert stage.hapsync("freeze", "--reason", "upgrade").returncode == 0
        fleet.add()
        wait_until(lambda: "add" in stage.hapsync("plan").stdout, 10, "plan to show the newcomer")
        applied = stage.hapsync("apply", "--force")
        assert applied.returncode == 2, applied
        assert sorted(states(stage).values()) == ["maint", "maint", "ready"]

        assert stage.hapsync("thaw").returncode == 0
        stage.wait_equal()
        assert sorted(states(stage).values()) == ["maint", "ready", "ready"]

"""SIGKILL at every step of what hapsync does: nothing is half done, and whoever comes next ends the same."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from hapsync.api.client import ask_agent
from hapsync.api.messages import OverrideServer, ReleaseServer, Request
from hapsync.errors import AgentError
from hapsync.model.server import AdminState
from tests.demo import truth
from tests.demo.fleet import Fleet, Member
from tests.demo.stage import Stage
from tests.harness.haproxy import ServerState
from tests.harness.load import Load
from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT, haproxy_path

pytestmark = pytest.mark.timeout(900)

OPTIONS = "check inter 200ms"
NO_LIMIT = "max_loss_fraction = 1.0\ndamping_seconds = 0"
"""What the guard would hold back is not what is asked here; one server always stays."""
PLACEHOLDER = "127.0.0.1:1"


class Ground:
    """Everything running but the agent, under load; and a hapsync that dies at its N-th act."""

    def __init__(self, stage: Stage, fleet: Fleet, load: Load) -> None:
        self.stage, self.fleet, self.load = stage, fleet, load
        self.overrides: set[str] = set()
        """Addresses that a person set aside, or asked for without being told that it was done."""
        self.acts: list[str] = []
        self.allowed_failures = 0

    # Runs that die

    def dying(self, number: int, *arguments: str) -> Process:
        """Start `hapsync arguments` to die at its act `number`."""
        log = self.stage.work / "acts.log"
        log.unlink(missing_ok=True)
        command, *more = arguments
        words = (sys.executable, "-m", "tests.faults.crashing", str(number), str(log), command)
        return Process((*words, "--config", str(self.stage.config_path), *more), self._log, folder=ROOT)

    def note_acts(self) -> None:
        log = self.stage.work / "acts.log"
        self.acts = log.read_text().splitlines() if log.exists() else []

    def apply(self, number: int) -> bool:
        """`hapsync apply` that dies at act `number`; whether it lived to its end."""
        return self.ends(self.dying(number, "apply"))

    def ends(self, process: Process) -> bool:
        """Wait for a command's end; whether it came to it by itself, with all done."""
        wait_until(lambda: not process.running, 30, "hapsync to end")
        try:
            process.check()
        except Exception as error:  # noqa: BLE001  # it says how it ended
            how = str(error).splitlines()[0]
        else:
            raise AssertionError("it has not ended")
        process.kill()
        self.note_acts()
        assert how.endswith(("SIGKILL", "exit code 0")), f"{how}\n{process.log_tail()}"
        return how.endswith("exit code 0")

    def agent(self, number: int) -> bool:
        """`hapsync agent` that dies at act `number`; whether it lived until all was in sync, and beyond."""
        process = self.dying(number, "agent")
        lived = self.lives(process)
        process.kill()
        self.note_acts()
        return lived

    def lives(self, process: Process) -> bool:
        """Wait until the agent is in sync; False if it was killed before."""
        wait_until(lambda: not process.running or self.is_in_sync(process), 30, "the agent to be in sync")
        return process.running

    def is_in_sync(self, process: Process) -> bool:
        report = json.loads((self.stage.work / "run" / "status.json").read_text())
        return report["pid"] == process.pid and report["in_sync"] and not self.stage.differences()

    @property
    def _log(self) -> Path:
        return self.stage.work / "dying.log"

    # What must be true

    def failures(self) -> int:
        return self.load.snapshot().failed

    def slots(self) -> list[ServerState]:
        return list(self.stage.haproxy.servers("web").values())

    def overridden(self) -> set[str]:
        """Addresses of the slots that look as if a person had set them aside."""
        return {
            truth.address(one)
            for one in self.slots()
            if (one.in_maintenance or one.draining) and one.weight > 0 and truth.address(one) != PLACEHOLDER
        }

    def examine(self) -> None:
        """Look at what a killed hapsync left."""
        before = self.load.snapshot()
        wait_until(lambda: self.load.snapshot().requests >= before.requests + 5, 10, "requests to be answered")
        after = self.load.snapshot()
        assert after.failed == self.allowed_failures, after
        assert self.overridden() <= self.overrides
        config = self.stage.haproxy.config
        words = (haproxy_path(), "-c", "-f", str(config))
        checked = subprocess.run(words, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked
        assert enabled(config.read_text()), "HAProxy would start without a server"
        for path in (self.stage.work / "state" / "memory.json", self.stage.work / "state" / "snapshot.json"):
            assert not path.exists() or isinstance(json.loads(path.read_text()), dict)

    def recover(self, number: int) -> None:
        """Have the next hapsync end where the killed one would have: a command, and now and then an agent."""
        stage = self.stage
        is_by_agent = number % 4 == 0
        if not is_by_agent:
            applied = stage.hapsync("apply")
            assert applied.returncode == 0, applied
        else:
            stage.start_agent()
            wait_until(lambda: self.is_in_sync(stage.agent), 15, "the agent to be in sync", process=stage.agent)
            stage.stop_agent()
        log = self._log.read_text() + (stage.work / "agent.log").read_text() if is_by_agent else ""
        assert "damaged" not in log, log
        wait_until(lambda: not stage.differences(), 5, "the checks of who came in to pass")
        assert self.overridden() == set()
        ready = {truth.address(one) for one in self.slots() if one.running and not one.draining}
        assert enabled(stage.haproxy.config.read_text()) == ready
        assert leftovers(stage.work) == []
        assert self.failures() == self.allowed_failures, self.load.snapshot()

    # From the start again

    def restart_from(self, config: str) -> None:
        """Have HAProxy be as at first, as if no hapsync had ever run."""
        self.stage.haproxy.kill()
        for path in self.stage.work.glob("haproxy.cfg.*"):
            if not path.name.endswith(".j2"):
                path.unlink()
        shutil.rmtree(self.stage.work / "state", ignore_errors=True)
        shutil.rmtree(self.stage.work / "run", ignore_errors=True)
        self.stage.haproxy.config.write_text(config)
        self.stage.haproxy.start()

    def settle(self) -> None:
        """Wait until what the restart cost has been counted."""
        last = -1

        def is_quiet() -> bool:
            nonlocal last
            before, last = last, self.load.snapshot().failed
            return before == last

        wait_until(is_quiet, 15, "the load to go well", interval_seconds=0.15)
        self.allowed_failures = last


@contextmanager
def ground(slots: int, options: str = "", *, lines: str = "") -> Iterator[Ground]:
    """`options` are more of the backend in hapsync.toml, `lines` more of it in the template."""
    with ExitStack() as stack:
        enter = stack.enter_context
        stage = Stage({"web": slots}, server_options=OPTIONS, backend_options=f"{NO_LIMIT}\n{options}", agent=False)
        enter(stage)
        if lines:
            path = stage.work / "haproxy.cfg.j2"
            path.write_text(path.read_text().replace("    balance roundrobin\n", f"    balance roundrobin\n{lines}"))
            stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout)
            stage.haproxy.reload()
        fleet = enter(Fleet(stage, linger_seconds=300))
        yield Ground(stage, fleet, enter(stage.load(rate=60, clients=8, closing=2)))


def enabled(config: str) -> set[str]:
    """Addresses of the servers in a configuration that are not disabled."""
    found = (re.match(r"\s+server \S+ (\S+)([^#]*)", line) for line in config.splitlines())
    return {one[1] for one in found if one and " disabled" not in one[2]}


def leftovers(work: Path) -> list[str]:
    """Candidates that somebody forgot, for whatever file."""
    return sorted(path.name for path in work.rglob(".*.hapsync"))


def at_every_act(
    all_of_it: Ground,
    prepare: Callable[[int], None],
    run: Callable[[int], bool],
    *,
    least: Sequence[str],
    first: int = 1,
    step: int = 1,
) -> None:
    """Prepare, run with a kill at act `first`, examine, recover; then `step` acts later, until one lives to its end.

    `least` are the beginnings of acts that must have been among them.
    """
    seen: set[str] = set()
    for number in range(first, first + 200, step):
        prepare(number)
        lived = run(number)
        seen |= set(all_of_it.acts)
        where = f"killed at act {number}: {all_of_it.acts[-1] if all_of_it.acts else 'none'}"
        try:
            if not lived:
                all_of_it.examine()
            all_of_it.recover(number)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{where}\n{error}") from error
        if lived:
            print(f"{number - 1} acts")
            assert [act for act in least if not any(one.startswith(act) for one in seen)] == []
            return
    raise AssertionError("it never came to its end")


def change_much(fleet: Fleet, number: int) -> None:
    """One comes, one goes, one is drained, one fails, one gets another weight; those of the round before heal."""
    for member in list(fleet.members.values()):
        if (member.maintenance, member.status) != (False, "passing"):
            fleet.put(evolve(member, maintenance=False, status="passing"))
    first, second, third, fourth, *_ = fleet.members.values()
    fleet.remove(first.name)
    fleet.put(evolve(second, maintenance=True))
    fleet.put(evolve(third, status="critical"))
    fleet.put(evolve(fourth, weights=(20 + number, 3)))
    fleet.add()


PASS = ("set server web/", "fsync", "replace", "mkstemp .memory.json", "mkstemp .haproxy.cfg", "start ")


@pytest.mark.parametrize("command", ["apply", "agent"])
def test_killed_at_any_act_of_a_pass_nothing_is_lost_and_the_next_one_ends_the_same(command: str) -> None:
    with ground(14) as all_of_it:
        stage, fleet = all_of_it.stage, all_of_it.fleet
        for _ in range(8):
            fleet.add()
        assert stage.hapsync("apply").returncode == 0
        all_of_it.settle()
        run, step = (all_of_it.apply, 1) if command == "apply" else (all_of_it.agent, 2)
        at_every_act(all_of_it, lambda number: change_much(fleet, number), run, least=PASS, step=step)


CHECKED = 'start = "checked"'


@pytest.mark.parametrize(
    ("options", "least"),
    [
        (f'scaling = "slots"\n{CHECKED}', ("set server web/srv",)),
        (f'scaling = "dynamic"\n{CHECKED}', ("add server web/dyn-", "enable health web/dyn-", "del server web/dyn-")),
    ],
    ids=["slots", "dynamic"],
)
def test_killed_at_any_act_of_a_pass_that_lets_in_who_was_checked_the_next_one_ends_the_same(
    options: str, least: Sequence[str]
) -> None:
    with ground(14, options) as all_of_it:
        stage, fleet = all_of_it.stage, all_of_it.fleet
        for _ in range(8):
            fleet.add()
        assert stage.hapsync("apply").returncode == 0
        all_of_it.settle()
        at_every_act(all_of_it, lambda number: change_much(fleet, number), all_of_it.apply, least=(*PASS, *least))
        assert any(act.endswith("health down") for act in all_of_it.acts)


STICKS = "    stick-table type string len 32 size 1k expire 1h\n    stick on path\n"


def test_killed_at_any_act_of_giving_a_slot_away_no_client_of_its_last_instance_is_led_to_the_next() -> None:
    with ground(4, f'scaling = "slots"\n{CHECKED}', lines=STICKS) as all_of_it:
        stage, fleet = all_of_it.stage, all_of_it.fleet
        for _ in range(4):
            fleet.add()
        assert stage.hapsync("apply").returncode == 0
        all_of_it.settle()
        keys: set[str] = set()
        number_of_slot = 0

        def prepare(number: int) -> None:
            nonlocal keys, number_of_slot
            last = list(fleet.members.values())[-1]
            asked = [f"/{number}-{one}" for one in range(12)]
            for key in asked:
                ask_for(stage, key)
            [number_of_slot] = [one.id for one in all_of_it.slots() if truth.address(one) == last.address]
            keys = led_to(stage, number_of_slot) & set(asked)
            assert keys, "nobody was the last instance's client"
            fleet.remove(last.name)
            assert stage.hapsync("apply").returncode == 0
            wait_until(lambda: is_idle(stage, number_of_slot), 10, "the slot to be free")
            fleet.add()

        def run(number: int) -> bool:
            lived = all_of_it.apply(number)
            look()
            return lived

        def look() -> None:
            [slot] = [one for one in all_of_it.slots() if one.id == number_of_slot]
            newest = list(fleet.members.values())[-1]
            if truth.address(slot) == newest.address:
                assert not led_to(stage, number_of_slot) & keys, f"led to {newest}"

        def prepare_after_a_look(number: int) -> None:
            look()  # after the recovery from the round before
            prepare(number)

        least = ("clear table web", "set server web/", "replace")
        number_of_slot = all_of_it.slots()[-1].id
        at_every_act(all_of_it, prepare_after_a_look, run, least=least)
        look()


def ask_for(stage: Stage, path: str) -> None:
    connection = HTTPConnection("127.0.0.1", stage.frontend_port, timeout=5)
    connection.request("GET", path, headers={"Connection": "close"})
    assert connection.getresponse().status == 200
    connection.close()


def led_to(stage: Stage, number: int) -> set[str]:
    """The keys of the stick table's entries that lead to the server with this id."""
    return set(re.findall(r" key=(\S+)", stage.haproxy.ask(f"show table web data.server_id eq {number}")))


def is_idle(stage: Stage, number: int) -> bool:
    """Whether nothing is on the server with this id."""
    [stat] = [one for one in stage.haproxy.stat("web").values() if one["sid"] == str(number) and one["type"] == "2"]
    return not any(int(stat[name] or 0) for name in ("scur", "qcur", "idle_conn_cur", "used_conn_cur"))


@pytest.mark.parametrize("command", ["apply", "agent"])
def test_killed_at_any_act_of_a_reload_no_request_is_lost_and_the_next_one_ends_the_same(command: str) -> None:
    with ground(2) as all_of_it:
        stage, fleet = all_of_it.stage, all_of_it.fleet
        first, second = fleet.add(), fleet.add()
        assert stage.hapsync("apply").returncode == 0
        config = stage.haproxy.config.read_text()
        more: list[Member] = []

        def prepare(_number: int) -> None:
            for member in more:
                fleet.remove(member.name)
            fleet.put(evolve(second, maintenance=False))
            all_of_it.restart_from(config)
            all_of_it.settle()
            more[:] = [fleet.add() for _ in range(3)]
            fleet.put(evolve(second, maintenance=True))

        run, step = (all_of_it.apply, 1) if command == "apply" else (all_of_it.agent, 2)
        least = ("reload", "reload was asked for", "start ", "replace")
        at_every_act(all_of_it, prepare, run, least=least, step=step)
        assert first.address in enabled(stage.haproxy.config.read_text())


def test_killed_at_any_act_of_the_first_adoption_the_file_written_by_hand_is_kept() -> None:
    with ground(4) as all_of_it:
        stage, fleet = all_of_it.stage, all_of_it.fleet
        members = [fleet.add() for _ in range(2)]
        lines = "".join(f"    server old{number} {one.address} {OPTIONS}\n" for number, one in enumerate(members))
        text = stage.haproxy.config.read_text()
        without = re.sub(r"(?m)^    server srv\d+ .*\n", "", text)
        overridden = f"# written by hand\n{without.partition(chr(10))[2]}".rstrip() + f"\n{lines}"
        assert enabled(overridden) == {one.address for one in members}

        def prepare(_number: int) -> None:
            all_of_it.restart_from(overridden)
            all_of_it.settle()

        def run(number: int) -> bool:
            lived = all_of_it.apply(number)
            kept, now = stage.work / "haproxy.cfg.before-hapsync", stage.haproxy.config.read_text()
            assert overridden in (kept.read_text() if kept.exists() else "", now)
            return lived

        at_every_act(all_of_it, prepare, run, least=("reload", "mkstemp .haproxy.cfg.before-hapsync"))
        assert (stage.work / "haproxy.cfg.before-hapsync").read_text() == overridden


def test_killed_at_any_act_of_a_hold_or_release_what_was_told_to_be_done_is_done() -> None:
    """Asked of an agent; what it did not answer may have been done or not, and shows either way as a person's."""
    with ground(8) as all_of_it:
        stage, fleet = all_of_it.stage, all_of_it.fleet
        members = [fleet.add() for _ in range(5)]
        assert stage.hapsync("apply").returncode == 0
        all_of_it.settle()
        address = members[0].address

        def ask(request: Request) -> bool:
            try:
                reply = ask_agent(str(stage.work / "run"), request, 10)
            except AgentError:
                return False
            assert reply is None or reply.is_ok, reply
            return reply is not None

        def run(number: int) -> bool:
            process = all_of_it.dying(number, "agent")
            lived = all_of_it.lives(process)
            admin = AdminState.MAINT if number % 2 else AdminState.DRAIN
            sure: set[str] = set()
            why_unknown: set[str] = set()
            hold = OverrideServer("web", address, admin, None, "test")
            for request, then in ((hold, {address}), (ReleaseServer("web", address), set[str]())) if lived else ():
                all_of_it.overrides.add(address)
                if not ask(request):
                    why_unknown, lived = {address}, False
                    break
                sure = then
            process.kill()
            all_of_it.note_acts()
            assert sure - why_unknown <= all_of_it.overridden() <= sure | why_unknown
            stage.start_agent()  # what was told stays; what was not is done or not
            assert sure - why_unknown <= all_of_it.overridden() <= sure | why_unknown
            released = stage.hapsync("release", f"web/{address}")
            assert released.returncode == 0, released
            stage.stop_agent()
            all_of_it.overrides.clear()
            return lived

        quiet = all_of_it.dying(0, "agent")
        all_of_it.lives(quiet)
        quiet.kill()
        all_of_it.note_acts()
        least = ("set server web/", "fsync", "replace", "mkstemp .memory.json", "{")
        at_every_act(all_of_it, lambda _number: None, run, least=least, first=len(all_of_it.acts) - 1)


@pytest.mark.parametrize("command", ["hold", "release"])
def test_killed_at_any_act_of_a_command_without_an_agent_the_command_can_be_given_again(command: str) -> None:
    with ground(8) as all_of_it:
        stage, fleet = all_of_it.stage, all_of_it.fleet
        first, *_ = [fleet.add() for _ in range(4)]
        target = f"web/{first.address}"
        assert stage.hapsync("apply").returncode == 0
        all_of_it.settle()

        def prepare(_number: int) -> None:
            if command == "release":
                assert stage.hapsync("hold", target).returncode == 0

        def run(number: int) -> bool:
            all_of_it.overrides.add(target.partition("/")[2])
            lived = all_of_it.ends(all_of_it.dying(number, command, target))
            if not lived:
                all_of_it.examine()
            again = stage.hapsync(command, target)
            assert again.returncode == 0, again
            is_held = all_of_it.overridden() == all_of_it.overrides
            assert is_held == (command != "release")
            assert stage.hapsync("release", target).returncode == 0
            all_of_it.overrides.clear()
            return lived

        at_every_act(all_of_it, prepare, run, least=("mkstemp .memory.json", "replace"))


def test_the_acts_of_a_run_are_all_counted() -> None:
    """Else the tests above would kill at less than every step."""
    with ground(4) as all_of_it:
        all_of_it.fleet.add()
        assert all_of_it.apply(0)
        kinds: dict[str, Any] = {}
        for act in all_of_it.acts:
            kinds[act.split()[0]] = kinds.get(act.split()[0], 0) + 1

    assert {"set", "mkstemp", "fsync", "replace", "fchmod", "start", "started", "pwrite"} <= set(kinds), kinds
    assert kinds["set"] == 4  # weight 0, the address, ready, the weight

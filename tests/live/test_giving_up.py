"""What a person asked for and gave up while the agent hung is not done when the agent wakes."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hapsync.agent.guard_state import GuardState
from hapsync.agent.operator import Answers
from hapsync.agent.reconcile import Reconciler, run_pass
from hapsync.agent.settings import read_settings
from hapsync.api.messages import FreezeAll, OverrideServer
from hapsync.errors import Withdrawn
from hapsync.model.catalog import Instance, Reading
from hapsync.model.overrides import SavedState
from hapsync.model.server import Address, AdminState, CheckStatus
from hapsync.plan.assessment import Rules
from hapsync.plan.desired import Desired, desired_backend
from tests.demo.fleet import Fleet
from tests.demo.stage import HAPSYNC, Stage
from tests.harness.processes import Process, wait_until

INSTANCES = 3


@contextlib.contextmanager
def vanished_service(stage: Stage, fleet: Fleet) -> Iterator[None]:
    """Within the block Consul has no instance left, and the guard keeps the servers of all of them."""
    for _ in range(INSTANCES):
        fleet.add()
    stage.wait_equal()
    wait_until(lambda: stage.status()["agent"]["in_sync"], 20, "the file")
    fleet.vanish()
    wait_until(lambda: stage.status()["counts"]["deferred"] == INSTANCES, 20, "the servers to be held")
    yield
    assert serving(stage) == INSTANCES


def serving(stage: Stage) -> int:
    return sum(one.running for one in stage.haproxy.servers("web").values())


def log_of(stage: Stage) -> str:
    return (stage.work / "agent.log").read_text(encoding="utf-8")


def is_over(asking: Process) -> bool:
    return not asking.running


def tells_of_silence(log: Path) -> bool:
    return "has not answered for 2 s" in log.read_text(encoding="utf-8")


def give_up(stage: Stage, *asked: tuple[str, ...]) -> str:
    """Ask the agent, wait until it is said that it does not answer, and press Ctrl-C; return what was said first."""
    with contextlib.ExitStack() as stack:
        said = [stage.work / f"{words[0]}.log" for words in asked]
        for words, log in zip(asked, said, strict=True):
            command = (str(HAPSYNC), words[0], "--config", str(stage.config_path), *words[1:])
            asking = Process(command, log)
            stack.callback(asking.stop)
            stack.callback(wait_until, partial(is_over, asking), 20, "the command to end")
            stack.callback(asking.signal, signal.SIGINT)
        for log in said:
            wait_until(partial(tells_of_silence, log), 20, "a word of the silence")
    return said[0].read_text(encoding="utf-8")


def test_what_was_given_up_while_the_agent_was_stopped_is_not_done_when_it_wakes() -> None:
    with Stage({"web": 4}) as stage, Fleet(stage) as fleet, vanished_service(stage, fleet):
        stage.agent.signal(signal.SIGSTOP)
        said = give_up(stage, ("release", "web"), ("freeze", "--for", "5s"))
        stage.agent.signal(signal.SIGCONT)
        wait_until(lambda: log_of(stage).count("has withdrawn it") == 2, 20, "both to be dropped")

        assert f"agent pid {stage.agent.pid} at " in said
        assert f"it is stopped (SIGSTOP or a debugger); `kill -CONT {stage.agent.pid}` lets it go on" in said
        assert "Ctrl-C withdraws the request" in said
        assert "given up; it is withdrawn" in said
        assert stage.status()["freeze"] is None


def test_what_was_given_up_during_a_reload_is_not_done_after_it() -> None:
    with Stage({"web": 4}, agent=False) as stage:
        begun, may_end = stage.work / "begun", stage.work / "may_end"
        script = f"touch {begun}; until [ -e {may_end} ]; do sleep 0.05; done; exit 1"
        reload = f"reload_command = {json.dumps(['sh', '-c', script])}\nreload_timeout_seconds = 60"
        settings = stage.config_path.read_text(encoding="utf-8")
        stage.config_path.write_text(re.sub(r"(?m)^master_socket = .*", lambda _: reload, settings), encoding="utf-8")
        stage.start_agent()
        with Fleet(stage) as fleet, vanished_service(stage, fleet):
            template = stage.work / "haproxy.cfg.j2"
            edited = re.sub(r"(?m)^global$", "global\n    spread-checks 5", template.read_text(encoding="utf-8"))
            template.write_text(edited, encoding="utf-8")
            stage.agent.signal(signal.SIGHUP)
            wait_until(begun.exists, 20, "the reload")
            said = give_up(stage, ("release", "web"))
            may_end.touch()
            wait_until(lambda: "has withdrawn it" in log_of(stage), 20, "the request to be dropped")

            assert "a reload, or a HAProxy that hangs, may keep it busy" in said


def test_what_was_given_up_while_haproxy_hung_is_not_done_when_haproxy_answers() -> None:
    with Stage({"web": 4}, agent=False) as stage:
        settings = stage.config_path.read_text(encoding="utf-8")
        patient = re.sub(r"(?m)^\[haproxy\]$", "[haproxy]\ntimeout_seconds = 60", settings)
        stage.config_path.write_text(patient, encoding="utf-8")
        stage.start_agent()
        with Fleet(stage) as fleet, vanished_service(stage, fleet):
            worker = stage.haproxy.worker_pid()
            assert worker is not None
            os.kill(worker, signal.SIGSTOP)
            try:
                give_up(stage, ("release", "web"))
            finally:
                os.kill(worker, signal.SIGCONT)
            wait_until(lambda: "withdrawn by" in log_of(stage) or "has withdrawn it" in log_of(stage), 20, "the drop")


def test_what_is_given_up_while_haproxy_is_read_changes_nothing() -> None:
    """The last moment at which it can be noticed: whoever asked leaves between the reading and the first command."""
    asked: list[str] = []

    def left() -> None:
        asked.append("left")
        raise Withdrawn("given up")

    with Stage({"web": 2}, agent=False) as stage:
        settings = read_settings(str(stage.config_path))
        config = settings.config
        instances = (Instance("n1", "a", Address("10.0.0.1", 80), CheckStatus.PASSING),)
        wanted = Desired({"web": desired_backend("web", config.backends["web"], Reading("web", instances))})
        before = stage.haproxy.ask("show servers state web")
        with pytest.raises(Withdrawn):
            run_pass(config.haproxy.socket, 5, wanted, ("web",), Rules(), before_acting=left)
        assert stage.haproxy.ask("show servers state web") == before

        run_pass(config.haproxy.socket, 5, wanted, ("web",), Rules())
        guard_state = GuardState(config, SavedState())
        answers = Answers(Reconciler(lambda: settings, guard_state))
        for request in (FreezeAll(), OverrideServer("web", "10.0.0.1:80", AdminState.MAINT)):
            with pytest.raises(Withdrawn):
                answers.answer(request, left)
        assert guard_state.saved == GuardState(config, SavedState()).saved
        assert not (stage.work / "state" / "memory.json").exists()
    assert len(asked) == 3

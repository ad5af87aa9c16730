"""What cannot be read, started or asked for a moment is tried again by itself, and nobody has to come for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.faults.scene import settle
from tests.harness.processes import wait_until
from tests.harness.tools import haproxy_path


@contextmanager
def a_directory_in_its_place(stage: Stage) -> Iterator[None]:
    """haproxy.cfg is a directory, as while a deployment moves things about."""
    config = stage.haproxy.config
    overrides = config.with_name("aside.cfg")
    config.rename(overrides)
    config.mkdir()
    yield
    config.rmdir()
    overrides.rename(config)


@contextmanager
def no_check_command(stage: Stage) -> Iterator[None]:
    """The check command is not there, as while its package is upgraded."""
    command = stage.work / "check"
    overrides = command.with_name("check.aside")
    command.rename(overrides)
    yield
    overrides.rename(command)


@contextmanager
def a_check_command_that_cannot_be_run(stage: Stage) -> Iterator[None]:
    """The check command is no program yet: ENOEXEC."""
    command = stage.work / "check"
    text = command.read_text(encoding="utf-8")
    command.write_text("", encoding="utf-8")
    command.write_bytes(b"\0\0")
    yield
    command.write_text(text, encoding="utf-8")


@contextmanager
def a_check_command_that_is_killed(stage: Stage) -> Iterator[None]:
    """The check command is ended by the kernel, as where memory is short."""
    command = stage.work / "check"
    text = command.read_text(encoding="utf-8")
    command.write_text("#!/bin/sh\nkill -KILL $$\n", encoding="utf-8")
    yield
    command.write_text(text, encoding="utf-8")


@contextmanager
def a_growing_stage() -> Iterator[tuple[Stage, Fleet]]:
    """One slot, taken, and a backend that grows by a reload; the check command is a file in the work folder."""
    with Stage({"web": 1}, agent=False, backend_options='scaling = "slots"') as stage, Fleet(stage) as fleet:
        command = stage.work / "check"
        command.write_text(f'#!/bin/sh\nexec {haproxy_path()} -c -f "$1"\n', encoding="utf-8")
        command.chmod(0o755)
        settle(stage.config_path, check_command=[str(command), "{config}"], reload_gap_seconds=0.2)
        fleet.add()
        assert stage.hapsync("apply").returncode == 0
        stage.start_agent()
        stage.wait_equal()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")
        yield stage, fleet


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(a_directory_in_its_place, "Is a directory", marks=pytest.mark.quick),
        (no_check_command, "there is no program"),
        (a_check_command_that_cannot_be_run, "cannot be run"),
        (a_check_command_that_is_killed, "ended by SIGKILL"),
    ],
)
def test_growth_goes_on_by_itself_after_what_kept_a_reload_away(
    fault: Callable[[Stage], Iterator[None]], words: str
) -> None:
    with a_growing_stage() as (stage, fleet):
        log = Path(stage.work, "agent.log")
        with fault(stage):  # type: ignore[attr-defined]
            fleet.add()
            wait_until(lambda: "not reloaded (" in log.read_text(encoding="utf-8"), 30, "a reload that was not made")
        assert words in log.read_text(encoding="utf-8")
        stage.wait_equal(timeout_seconds=30)
        wait_until(lambda: stage.hapsync("status").returncode == 0, 30, "status to say in sync")
        assert "a defect of hapsync" not in log.read_text(encoding="utf-8")


def test_a_reload_command_that_is_away_for_a_moment_leaves_file_and_worker_equal() -> None:
    with Stage({"web": 1}, agent=False, backend_options='scaling = "slots"') as stage, Fleet(stage) as fleet:
        command = stage.work / "reload"
        command.write_text(f"#!/bin/sh\nkill -USR2 {stage.haproxy.process.pid}\n", encoding="utf-8")
        command.chmod(0o755)
        settle(stage.config_path, master_socket=None, reload_command=[str(command)], reload_gap_seconds=0.2)
        fleet.add()
        assert stage.hapsync("apply").returncode == 0
        before = stage.haproxy.config.read_text(encoding="utf-8")
        overrides = command.with_name("reload.aside")
        command.rename(overrides)
        stage.start_agent()
        fleet.add()
        log = Path(stage.work, "agent.log")
        wait_until(lambda: "not reloaded (" in log.read_text(encoding="utf-8"), 30, "a reload that was not made")
        assert stage.haproxy.config.read_text(encoding="utf-8").count("server srv") == before.count("server srv")
        overrides.rename(command)
        stage.wait_equal(timeout_seconds=30)

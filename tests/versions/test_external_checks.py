"""Backends whose checks run a program: HAProxy dies of an `add server` there, so hapsync makes none."""

import signal
from pathlib import Path

import pytest

from hapsync.haproxy.cfg import parse_sections
from hapsync.haproxy.dangers import fatal_addition
from tests.demo.fleet import Fleet
from tests.demo.routed import name_defaults, wait_in_step, wait_serves
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.processes import wait_until
from tests.versions.programs import let_programs_check

OPTIONS = f'scaling = "dynamic"\n{NO_GUARD}'


@pytest.mark.parametrize("after", ["backend web", "defaults"])
def test_where_a_program_checks_no_server_is_added_live_and_haproxy_lives(after: str) -> None:
    with Stage({"web": 1}, backend_options=OPTIONS, agent=False) as stage, Fleet(stage) as fleet:
        let_programs_check(stage, after=after)
        for _ in range(4):
            fleet.add()
        before = stage.reloads()
        stage.start_agent()
        stage.wait_equal(timeout_seconds=30)
        means = stage.status()["backends"]["web"]["scaling"]
        said = stage.hapsync("check").stdout

        assert stage.haproxy.process.running
        assert stage.reloads() > before
        assert not any(name.startswith("dyn-") for name in stage.haproxy.servers("web"))
        assert not means["dynamic"]
        assert "would die of `add server`" in means["why_not"]
        assert "backend web" in said
        assert "would die of `add server`" in said


def test_a_whole_backend_whose_defaults_have_programs_check_comes_by_a_reload_and_haproxy_lives() -> None:
    with Stage({"web": 2}, agent=False) as stage, Fleet(stage) as fleet, Fleet(stage, "api") as api:
        name_defaults(stage)
        let_programs_check(stage, after="defaults apps")
        fleet.add()
        api.add()
        stage.start_agent()
        stage.wait_equal(timeout_seconds=30)
        before = stage.reloads()
        with (stage.work / "haproxy.cfg.j2").open("a", encoding="utf-8") as template:
            template.write('\nbackend api from apps\n    {{ servers("api") }}\n')
        with stage.config_path.open("a", encoding="utf-8") as settings:
            settings.write('\n[backends.api]\nservice = "api"\nslots = 6\n')
        stage.agent.signal(signal.SIGHUP)
        wait_serves(stage, api)
        wait_in_step(stage)

        assert stage.haproxy.process.running
        wait_until(lambda: stage.reloads() == before + 1, 10, "the one reload to be counted")
        assert "would die of" in fatal_addition(
            parse_sections(Path(stage.haproxy.config).read_text(encoding="utf-8")), "api", "check"
        )

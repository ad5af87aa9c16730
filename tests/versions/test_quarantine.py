"""Options or a template that HAProxy refuses: what else goes on, and what is said of it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.processes import wait_until

SLOTS = 'scaling = "slots"'
GOOD = "check inter 2s"
WRONG = "check inter nonsense"
"""Refused with file and line."""
NO_RESOLVERS = "check resolvers nosuch"
"""Refused with the names of backend and server alone."""
TAKEN_BUT = "settings taken, but backend api is quarantined"


@contextmanager
def two_backends(*, agent: bool = True) -> Iterator[tuple[Stage, Fleet, Fleet]]:
    """Backends web and api of two slots each, with one instance each, in sync."""
    with (
        Stage({"web": 2, "api": 2}, backend_options=SLOTS, agent=agent) as stage,
        Fleet(stage, "web") as web,
        Fleet(stage, "api") as api,
    ):
        web.add()
        api.add()
        if not agent:
            assert stage.hapsync("apply").returncode == 0
        for name in stage.backends:
            stage.wait_equal(name)
        wait_until(lambda: stage.hapsync("status").returncode == 0, 20, "status to say in sync")
        yield stage, web, api


def settings_with(stage: Stage, *, web: str = GOOD, api: str = GOOD) -> None:
    """Write other options of both backends, which have GOOD ones now or had."""
    head, web_part, rest = stage.config_path.read_text().partition("[backends.web]")
    lines = [line for line in (web_part + rest).split("\n") if not line.startswith("server_options")]
    parts = "\n".join(lines).partition("[backends.api]")
    text = (
        f'{parts[0].rstrip()}\nserver_options = "{web}"\n\n{parts[1]}{parts[2].rstrip()}\nserver_options = "{api}"\n'
    )
    stage.config_path.write_text(head + text)


def read_again(stage: Stage) -> None:
    stage.agent.signal(signal.SIGHUP)


def in_file(stage: Stage, backend: str) -> str:
    """That backend's section of haproxy.cfg."""
    _, _, text = stage.haproxy.config.read_text().partition(f"\nbackend {backend}\n")
    return text.partition("\nbackend ")[0]


def status(stage: Stage) -> str:
    return stage.hapsync("status").stdout


def wait_said(stage: Stage, words: str) -> None:
    wait_until(lambda: words in status(stage), 15, f"status to say {words!r}")


@pytest.mark.parametrize(
    ("mistake", "said"), [(WRONG, "'server api/srv1'"), (NO_RESOLVERS, "backend 'api', server 'srv1'")]
)
def test_a_backend_whose_servers_haproxy_refuses_keeps_its_options_and_the_others_go_on(
    mistake: str, said: str
) -> None:
    with two_backends() as (stage, web, api):
        with stage.load(rate=200) as to_web, stage.load(path="/api/", rate=50) as to_api:
            settings_with(stage, web="check inter 3s", api=mistake)
            read_again(stage)
            wait_until(lambda: "check inter 3s" in in_file(stage, "web"), 20, "web's new options")
            web.add_at_once(4)
            first = next(iter(api.members.values()))
            api.put(attrs.evolve(first, weights=(7, 1)))
            api.add()
            api.add()
            for name in stage.backends:
                stage.wait_equal(name, timeout_seconds=20)
            shown = status(stage)
            results = [to_web.stop(), to_api.stop()]

        assert TAKEN_BUT in shown
        assert f'stay "{GOOD}"' in shown
        assert said in shown
        assert "settings not taken" not in shown
        assert [(one.failed, one.failures) for one in results] == [(0, ())] * 2
        assert GOOD in in_file(stage, "api")
        assert mistake not in in_file(stage, "api")

        settings_with(stage, web="check inter 4s", api="check inter 4s")
        read_again(stage)
        wait_until(lambda: "check inter 4s" in in_file(stage, "api"), 20, "the mended options")
        assert "check inter 4s" in in_file(stage, "web")
        wait_until(lambda: "quarantined" not in status(stage), 10, "status to forget it")
        stage.wait_equal("api")


def test_a_template_that_is_edited_while_a_backend_is_quarantined_is_taken_and_the_backend_stays_so() -> None:
    with two_backends() as (stage, _, api):
        settings_with(stage, api=WRONG)
        read_again(stage)
        wait_said(stage, TAKEN_BUT)
        template = stage.work / "haproxy.cfg.j2"
        template.write_text(template.read_text().replace("timeout connect 5s", "timeout connect 4s"))

        with stage.load(path="/api/", rate=100) as load:
            read_again(stage)
            wait_until(lambda: "timeout connect 4s" in stage.haproxy.config.read_text(), 20, "the edited template")
            wait_said(stage, TAKEN_BUT)
            api.add()
            api.add()
            stage.wait_equal("api", timeout_seconds=20)
            result = load.stop()

        assert (result.failed, result.failures) == (0, ())
        assert GOOD in in_file(stage, "api")
        assert TAKEN_BUT in status(stage)


def test_a_new_backend_whose_servers_haproxy_refuses_keeps_all_new_settings_back() -> None:
    with two_backends() as (stage, web, _):
        template = stage.work / "haproxy.cfg.j2"
        before = stage.haproxy.config.read_text()
        template.write_text(
            template.read_text().replace("default_backend web", "default_backend img")
            + '\nbackend img\n    {{ servers("img") }}\n'
        )
        settings = stage.config_path.read_text()
        stage.config_path.write_text(
            f'{settings}\n[backends.img]\nservice = "web"\nslots = 4\nserver_options = "{WRONG}"\n'
        )

        with stage.load(rate=100) as load:
            read_again(stage)
            wait_said(stage, "settings not taken")
            is_unchanged = stage.haproxy.config.read_text() == before
            web.add_at_once(3)
            stage.wait_equal(timeout_seconds=20)
            result = load.stop()

        assert is_unchanged
        assert (result.failed, result.failures) == (0, ())
        assert "backend img" not in stage.haproxy.config.read_text()
        wait_said(stage, "settings not taken")
        assert "quarantined" not in status(stage)

        stage.config_path.write_text(stage.config_path.read_text().replace(WRONG, GOOD))
        read_again(stage)
        wait_until(lambda: "backend img" in stage.haproxy.config.read_text(), 20, "the mended backend")
        stage.wait_equal("web")
        wait_until(lambda: "settings not taken" not in status(stage), 10, "status to forget it")


def test_what_is_said_of_settings_that_were_given_up_outlives_a_reload_into_the_old_ones() -> None:
    with two_backends() as (stage, web, _):
        template = stage.work / "haproxy.cfg.j2"
        good = template.read_text()
        # HAProxy looks for backends only when all lines are in order: so api is quarantined, and then all is refused.
        template.write_text(good.replace("default_backend web", "default_backend nosuch"))
        settings_with(stage, api=WRONG)
        read_again(stage)
        wait_said(stage, "unable to find required default_backend: 'nosuch'")
        before = stage.reloads()
        web.add_at_once(3)
        stage.wait_equal(timeout_seconds=20)
        wait_until(lambda: stage.status()["agent"]["counters"]["reloads"] == 1, 10, "the reload to be reported")
        shown = status(stage)

        assert stage.reloads() == before + 1
        assert "settings not taken" in shown
        assert "'nosuch'" in shown
        assert "quarantined" not in shown

        template.write_text(good)
        read_again(stage)
        wait_said(stage, TAKEN_BUT)
        assert "settings not taken" not in status(stage)


def test_apply_without_an_agent_quarantines_just_the_same() -> None:
    with two_backends(agent=False) as (stage, web, api):
        for mistake in (WRONG, NO_RESOLVERS):
            settings_with(stage, web="check inter 3s", api=mistake)
            web.add()
            api.add()
            web.add()

            applied = stage.hapsync("apply")

            assert applied.returncode == 2
            assert TAKEN_BUT in applied.stdout
            assert "check inter 3s" in in_file(stage, "web")
            assert GOOD in in_file(stage, "api")
            assert [stage.differences(name) for name in stage.backends] == [[], []]
            before = stage.reloads()
            assert stage.hapsync("apply").returncode == 2
            assert stage.reloads() == before

        settings_with(stage, api="check inter 4s")
        assert stage.hapsync("apply").returncode == 0
        assert "check inter 4s" in in_file(stage, "api")


def test_apply_without_an_agent_changes_nothing_where_more_is_wrong() -> None:
    with two_backends(agent=False) as (stage, _, _api):
        template = stage.work / "haproxy.cfg.j2"
        template.write_text(template.read_text().replace("default_backend web", "default_backend nosuch"))
        settings_with(stage, api=WRONG)
        before = stage.haproxy.config.read_text()

        applied = stage.hapsync("apply")

        assert applied.returncode == 2
        assert "not reloaded" in applied.stdout
        assert "'nosuch'" in applied.stdout
        assert (stage.haproxy.config.read_text(), stage.reloads()) == (before, 0)

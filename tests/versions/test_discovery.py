"""Services with a tag get backends of their own as they appear, and lose them once they are gone."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hapsync.agent.discovery import BURST
from tests.demo.fleet import Fleet
from tests.demo.routed import (
    SECTIONS,
    adds_backends,
    backends,
    discover,
    name_defaults,
    wait_in_step,
    wait_serves,
)
from tests.demo.stage import Stage
from tests.harness.processes import wait_until


@contextmanager
def discovering(*, forget_seconds: float = 2, max_backends: int = 100, haproxy_options: str = "") -> Iterator[Stage]:
    """A stage whose settings discover services tagged `app`; a request for /NAME/ goes to the backend app-NAME."""
    with Stage({"web": 4}, agent=False) as stage, Fleet(stage) as fleet:
        name_defaults(stage, prefix="app-")
        discover(stage, forget_seconds=forget_seconds, max_backends=max_backends)
        settings = stage.config_path.read_text(encoding="utf-8")
        stage.config_path.write_text(
            settings.replace("[haproxy]\n", f"[haproxy]\n{haproxy_options}\n"), encoding="utf-8"
        )
        stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout, encoding="utf-8")
        stage.haproxy.reload()
        fleet.add()
        stage.start_agent()
        stage.wait_equal()
        yield stage


def app(stage: Stage, name: str) -> Fleet:
    """A service of one instance that is to be discovered."""
    fleet = Fleet(stage, name, tags=("app",))
    fleet.add()
    return fleet


def wait_gone(stage: Stage, name: str) -> None:
    wait_until(lambda: name not in backends(stage.haproxy), 20, f"{name} to be gone")


def test_services_that_appear_are_served_and_those_that_vanish_are_forgotten_without_a_reload_or_by_one() -> None:
    with discovering() as stage:
        before, worker = stage.reloads(), stage.haproxy.worker_pid()
        load = stage.load(clients=8, closing=4, rate=200)
        load.start()
        fleets = [app(stage, name) for name in ("api", "shop", "mail")]
        other = Fleet(stage, "untagged")
        other.add()
        for fleet in fleets:
            wait_serves(stage, fleet)
        wait_in_step(stage)
        assert stage.reloads() - before <= (0 if adds_backends() else 2)
        assert not {one for one in backends(stage.haproxy) if "untagged" in one}

        gone = fleets[0]
        gone.remove(*gone.members)
        if adds_backends():
            wait_gone(stage, "app-api")
        else:  # nothing is reloaded only to be rid of it
            time.sleep(5)
            assert "app-api" in backends(stage.haproxy)
        late = app(stage, "late")
        wait_serves(stage, late)
        wait_in_step(stage)
        wait_gone(stage, "app-api")

        assert not load.stop().failed
        assert stage.reloads() - before <= (0 if adds_backends() else 3)
        assert (stage.haproxy.worker_pid() == worker) == adds_backends()
        text = stage.haproxy.config.read_text(encoding="utf-8")
        assert "backend app-late from apps" in text
        assert "app-api" not in text


def test_what_was_discovered_outlives_agent_and_haproxy_while_consul_is_away() -> None:
    with discovering(forget_seconds=1) as stage:
        api = app(stage, "api")
        wait_serves(stage, api)
        wait_in_step(stage)
        before = stage.reloads()
        stage.stop_agent()
        stage.consul.stop()
        stage.start_agent()
        time.sleep(6)  # far longer than it takes to forget one that is known to be gone
        wait_serves(stage, api, 1)
        assert stage.reloads() == before

        stage.haproxy.kill()
        stage.haproxy.start()
        wait_serves(stage, api, 5)
        time.sleep(4)
        wait_serves(stage, api, 1)


def test_a_service_without_its_tag_or_whose_instances_fail_keeps_its_backend_until_it_is_known_to_be_gone() -> None:
    with discovering(forget_seconds=8) as stage:
        api = app(stage, "api")
        wait_serves(stage, api)
        [member] = api.members.values()
        api.tags = ()
        api.put(member)
        time.sleep(1.5)
        wait_serves(stage, api, 1)  # held: a whole service is not taken away on a word
        api.tags = ("app",)
        api.put(member)
        time.sleep(9)
        wait_serves(stage, api, 1)
        api.tags = ()
        api.put(member)
        if adds_backends():
            wait_gone(stage, "app-api")


def test_services_that_are_all_gone_at_once_keep_their_backends() -> None:
    with discovering(forget_seconds=1) as stage:
        fleets = [app(stage, name) for name in ("api", "shop")]
        for fleet in fleets:
            wait_serves(stage, fleet)
        for fleet in fleets:
            fleet.vanish()
        wait_until(lambda: stage.status()["agent"]["discovery_error"], 15, "the doubt")
        time.sleep(3)

        assert "2 of 2 services of discover.apps are gone at once" in stage.hapsync("status").stdout
        for fleet in fleets:
            wait_serves(stage, fleet, 1)
        for fleet in fleets:
            for member in list(fleet.members.values()):
                fleet.put(member)
        wait_until(lambda: not stage.status()["agent"]["discovery_error"], 15, "the end of the doubt")


def test_a_released_backend_is_forgotten_at_once() -> None:
    with discovering(forget_seconds=600) as stage:
        api = app(stage, "api")
        wait_serves(stage, api)
        api.remove(*api.members)
        wait_until(lambda: stage.status()["deferred"], 20, "it to be held")
        assert stage.hapsync("release", "app-api").returncode in (0, 2)
        if adds_backends():
            wait_gone(stage, "app-api")


def test_names_that_haproxy_does_not_take_and_more_than_so_many_get_no_backend_and_status_says_so() -> None:
    with discovering(max_backends=2) as stage:
        first = app(stage, "one")
        wait_serves(stage, first)
        bad = app(stage, "a b\nbackend evil")
        second = app(stage, "two")
        wait_serves(stage, second)
        third = app(stage, "a-third")  # first by name, but last to come
        wait_until(lambda: stage.status()["agent"]["discovery_error"], 15, "the report")
        wait_until(lambda: "a-third" in stage.status()["agent"]["discovery_error"], 25, "the third in the report")
        told = stage.hapsync("status").stdout

        assert {"app-one", "app-two"} <= backends(stage.haproxy)
        assert "app-a-third" not in backends(stage.haproxy)
        assert "evil" not in stage.haproxy.config.read_text(encoding="utf-8")
        assert "max_backends is 2" in told
        assert json.dumps("a b\nbackend evil")[1:-1] in stage.status()["agent"]["discovery_error"]
        log = (stage.work / "agent.log").read_text(encoding="utf-8")
        assert log.count("backend evil") == 1  # though the list has changed since
        assert bad.members
        assert third.members


def test_reloads_that_registering_services_asks_for_have_a_budget_and_what_waits_is_told() -> None:
    with discovering(haproxy_options="discover_reloads_per_hour = 1\nreload_gap_seconds = 0") as stage:
        before = stage.reloads()
        for number in range(BURST):
            wait_serves(stage, app(stage, f"s{number}"))
        late = [app(stage, name) for name in ("late1", "late2")]
        if not adds_backends():
            told = "app-late1, app-late2 wait: haproxy.discover_reloads_per_hour is 1, and each costs a reload"
            wait_until(lambda: told in (stage.status()["agent"]["discovery_error"] or ""), 30, "it to be told")
            assert stage.reloads() - before == BURST
            template = stage.work / "haproxy.cfg.j2"  # the operator's own reload brings what waits
            text = template.read_text(encoding="utf-8")
            template.write_text(text.replace("    retries 3\n", "    retries 2\n"), encoding="utf-8")
            assert template.read_text(encoding="utf-8") != text
            stage.agent.signal(signal.SIGHUP)
        for fleet in late:
            wait_serves(stage, fleet)
        assert stage.reloads() - before == (0 if adds_backends() else BURST + 1)
        wait_until(lambda: stage.status()["agent"]["discovery_error"] is None, 20, "nothing to wait")


def test_a_group_that_haproxy_refuses_is_tried_once_costs_nothing_else_and_is_tried_again_when_asked() -> None:
    with discovering() as stage:
        good = stage.config_path.read_text(encoding="utf-8")
        stage.config_path.write_text(good.replace("check inter 300ms", "check resolvers nowhere"), encoding="utf-8")
        stage.agent.signal(signal.SIGHUP)
        wait_until(lambda: "settings taken" in (stage.work / "agent.log").read_text(), 20, "the settings")
        before = stage.reloads()
        api = app(stage, "api")
        wait_until(lambda: stage.status()["agent"]["settings_error"], 15, "the refusal")
        web = Fleet(stage)
        newcomer = web.add()
        wait_until(lambda: sum(one.running for one in stage.haproxy.servers("web").values()) == 2, 20, "web to go on")
        wait_until(
            lambda: newcomer.address in stage.haproxy.config.read_text(encoding="utf-8"), 20, "the file to follow"
        )
        time.sleep(4)

        assert stage.status()["agent"]["counters"]["failed_reloads"] == 1
        assert stage.reloads() == before
        assert "nowhere" in stage.hapsync("status").stdout
        stage.config_path.write_text(good, encoding="utf-8")
        stage.agent.signal(signal.SIGHUP)
        wait_serves(stage, api)


def test_without_an_agent_apply_discovers_too() -> None:
    with discovering() as stage:
        stage.stop_agent()
        api = app(stage, "api")
        applied = stage.hapsync("apply")
        assert applied.returncode == 0, applied
        wait_serves(stage, api, 10)
        assert stage.hapsync("plan").returncode == 0
        checked = stage.hapsync("check")
        assert checked.returncode == 0, checked
        assert 'discover.apps: 1 service with tag "app", 1 backend' in checked.stdout
        assert "app-api" in stage.hapsync("status").stdout


def test_a_template_without_the_sections_of_what_is_discovered_or_with_one_of_their_names_is_refused() -> None:
    with discovering() as stage:
        template = stage.work / "haproxy.cfg.j2"
        good = template.read_text(encoding="utf-8")
        template.write_text(good.replace(SECTIONS, ""), encoding="utf-8")
        lacking = stage.hapsync("check")
        template.write_text(good + "\nbackend app-mine from apps\n    server mine 127.0.0.1:1\n", encoding="utf-8")
        clashing = stage.hapsync("check")
        template.write_text(good.replace('backends("apps")', 'backends("nope")'), encoding="utf-8")
        unknown = stage.hapsync("check")

        assert {one.returncode for one in (lacking, clashing, unknown)} == {78}
        assert "app-example" in lacking.stderr + lacking.stdout
        assert "backend app-mine begins with discover.apps.prefix" in clashing.stderr + clashing.stdout
        assert "no such [discover]; it has apps" in unknown.stderr + unknown.stdout

"""Backends that come and go with the settings: live where HAProxy adds and deletes them (3.4), else by one reload.

Which of the two a test sees depends on the HAProxy that it runs with; what a client sees may not.
"""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

from tests.demo.fleet import Fleet
from tests.demo.routed import adds_backends, backends, name_defaults, wait_in_step, wait_serves, who_answers
from tests.demo.stage import Stage
from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT
from tests.lab.certificate import CERTIFICATE, make_certificate

OPTIONS = "check inter 300ms"


@contextmanager
def stage_with_named_defaults() -> Iterator[tuple[Stage, Fleet]]:
    """A stage that serves `web`; its template has named defaults, and rules that find a backend by the path."""
    with Stage({"web": 4}, agent=False) as stage, Fleet(stage) as fleet:
        name_defaults(stage)
        stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout, encoding="utf-8")
        stage.haproxy.reload()
        fleet.add()
        stage.start_agent()
        stage.wait_equal()
        yield stage, fleet


def let_settings_name(stage: Stage, *names: str, section: str = "", options: str = OPTIONS) -> None:
    """Let the settings name backends beside `web`, plain ones unless `section` says more of them; tell the agent."""
    config, template = stage.config_path, stage.work / "haproxy.cfg.j2"
    for path, mark in ((config, "\n# more"), (template, "\n# more")):
        path.write_text(path.read_text(encoding="utf-8").partition(mark)[0], encoding="utf-8")
    with config.open("a", encoding="utf-8") as file:
        file.write("\n# more\n")
        for name in names:
            file.write(f'\n[backends.{name}]\nservice = "{name}"\nslots = 2\nserver_options = "{options}"\n')
    with template.open("a", encoding="utf-8") as file:
        file.write("\n# more\n")
        for name in names:
            file.write(f'\nbackend {name} from apps\n{section}    {{{{ servers("{name}") }}}}\n')
    if stage.agent.running:
        stage.agent.signal(signal.SIGHUP)


@contextmanager
def stage_with_api() -> Iterator[tuple[Stage, Fleet]]:
    """The same, with a plain backend `api` beside `web`, which serves and is in the file."""
    with stage_with_named_defaults() as (stage, _), Fleet(stage, "api", linger_seconds=20) as api:
        api.add()
        let_settings_name(stage, "api")
        wait_serves(stage, api)
        wait_in_step(stage)
        yield stage, api


def test_new_backends_serve_without_a_reload_where_haproxy_adds_backends_and_by_one_reload_elsewhere() -> None:
    with stage_with_named_defaults() as (stage, _):
        before, worker = stage.reloads(), stage.haproxy.worker_pid()
        load = stage.load(clients=8, closing=4, rate=200)
        load.start()
        fleets = [Fleet(stage, name) for name in ("api", "shop")]
        for fleet in fleets:
            fleet.add()
        let_settings_name(stage, "api", "shop")
        for fleet in fleets:
            wait_serves(stage, fleet)
            stage.wait_equal(fleet.service)
        wait_in_step(stage)

        assert not load.stop().failed
        assert stage.reloads() - before == (0 if adds_backends() else 1)
        assert (stage.haproxy.worker_pid() == worker) == adds_backends()

        stage.haproxy.kill()  # the file has them, too
        stage.haproxy.start()
        for fleet in fleets:
            wait_serves(stage, fleet)


def test_a_backend_that_the_settings_do_not_name_any_more_ends_once_nothing_is_left_on_it() -> None:
    with stage_with_api() as (stage, api):
        before = stage.reloads()
        load = stage.load(clients=8, closing=4, rate=200)
        load.start()
        let_settings_name(stage)
        wait_until(lambda: "api" not in backends(stage.haproxy), 15, "api to be gone")
        wait_in_step(stage)

        assert not load.stop().failed
        assert stage.reloads() - before == (0 if adds_backends() else 1)
        assert "backend api " not in stage.haproxy.config.read_text(encoding="utf-8")
        told = stage.hapsync("status").stdout
        assert ("backend api is deleted" in told) == adds_backends()
        assert "deleted once nothing is left" not in told

        let_settings_name(stage, "api")  # it may come back
        wait_serves(stage, api)
        assert stage.reloads() - before == (0 if adds_backends() else 2)


def test_a_backend_that_comes_back_while_it_is_still_leaving_serves_again() -> None:
    with stage_with_api() as (stage, api):
        before = stage.reloads()
        for _ in range(3):
            let_settings_name(stage)
            time.sleep(0.7)
            let_settings_name(stage, "api")
            time.sleep(0.7)
        wait_serves(stage, api)
        wait_in_step(stage)
        time.sleep(1)

        wait_serves(stage, api)
        assert not adds_backends() or stage.reloads() == before


def test_what_is_said_of_a_backend_beside_its_servers_is_in_force_too() -> None:
    with stage_with_named_defaults() as (stage, _), Fleet(stage, "api") as api:
        api.add()
        before = stage.reloads()
        let_settings_name(stage, "api", section='    http-response set-header X-Said "by its own section"\n')
        wait_serves(stage, api)
        connection = HTTPConnection("127.0.0.1", stage.frontend_port, timeout=5)
        connection.request("GET", "/api/")
        said = connection.getresponse().getheader("X-Said")
        connection.close()

        assert said == "by its own section"
        assert stage.reloads() == before + 1


def test_server_options_that_no_live_backend_takes_cost_a_reload_and_leave_nothing_half_done() -> None:
    with stage_with_named_defaults() as (stage, _), Fleet(stage, "api") as api, Fleet(stage, "shop") as shop:
        api.add()
        shop.add()
        before = stage.reloads()
        let_settings_name(stage, "api", "shop", options=f"{OPTIONS} init-addr none")
        wait_serves(stage, api)
        wait_serves(stage, shop)
        wait_in_step(stage)

        assert stage.reloads() == before + 1


def test_a_backend_of_that_name_which_somebody_else_added_is_left_alone_until_a_reload_replaces_it() -> None:
    with stage_with_named_defaults() as (stage, _), Fleet(stage, "api") as api:
        api.add()
        before = stage.reloads()
        stage.haproxy.ask("add backend api from apps")  # where HAProxy knows that
        stage.haproxy.ask("add server api/srv1 127.0.0.1:9")
        let_settings_name(stage, "api")
        wait_serves(stage, api)
        wait_in_step(stage)

        assert stage.reloads() == before + 1
        log = (stage.work / "agent.log").read_text(encoding="utf-8")
        assert ("name is already used" in log) == adds_backends()


def test_a_backend_that_is_written_by_hand_while_one_of_its_name_is_still_leaving_is_not_hapsyncs_to_close() -> None:
    with stage_with_api() as (stage, api):
        [member] = api.members.values()
        with slow_request(stage, "/api/slow?ms=25000"):
            let_settings_name(stage)  # it is leaving while the request runs
            wait_until(lambda: who_answers(stage, "/api/") != member.address, 10, "api to get no new requests")
            if adds_backends():
                wait_until(
                    lambda: "backend api is leaving" in stage.hapsync("status").stdout,
                    15,
                    "status to say that it leaves",
                )
            with (stage.work / "haproxy.cfg.j2").open("a", encoding="utf-8") as template:
                template.write(f"backend api from apps\n    server mine {member.address}\n")
            stage.agent.signal(signal.SIGHUP)
            wait_serves(stage, api)
            wait_in_step(stage)
            time.sleep(3)

            wait_serves(stage, api)


@contextmanager
def slow_request(stage: Stage, path: str) -> Iterator[None]:
    """A request that runs meanwhile."""
    connection = HTTPConnection("127.0.0.1", stage.frontend_port, timeout=30)
    connection.request("GET", path)
    wait_until(lambda: int(stage.haproxy.stat("api")["BACKEND"]["scur"]), 10, "the request to run")
    try:
        yield
    finally:
        connection.close()


def test_a_comment_in_the_template_costs_no_reload() -> None:
    with stage_with_named_defaults() as (stage, _):
        before = stage.reloads()
        with (stage.work / "haproxy.cfg.j2").open("a", encoding="utf-8") as template:
            template.write("\n# nothing but a word to whoever reads this\n")
        stage.agent.signal(signal.SIGHUP)
        wait_until(lambda: "a word to whoever" in stage.haproxy.config.read_text(encoding="utf-8"), 10, "the file")
        wait_in_step(stage)

        assert stage.reloads() == before


def an_agent_is_killed_before(stage: Stage, act: str) -> None:
    """Run an agent that is killed just before the first act that begins like this, where it comes so far."""
    words = (sys.executable, "-m", "tests.faults.crashing", act, str(stage.work / "acts.log"), "agent")
    dying = Process((*words, "--config", str(stage.config_path)), stage.work / "dying.log", folder=ROOT)
    try:
        if adds_backends():
            wait_until(lambda: not dying.running, 20, f"the agent to be killed before {act}")
        else:
            wait_until(lambda: json.loads((stage.work / "run" / "status.json").read_text())["in_sync"], 20, "it")
    finally:
        dying.kill()


ADDING = ("add backend api", "add server api/srv2", "set server api/srv1 addr", "publish backend api", "replace ")


@pytest.mark.parametrize("act", ADDING)
def test_an_agent_that_is_killed_while_it_adds_a_backend_has_a_successor_that_goes_on_without_a_reload(
    act: str,
) -> None:
    with stage_with_named_defaults() as (stage, _), Fleet(stage, "api") as api:
        wait_in_step(stage)
        before = stage.reloads()
        stage.stop_agent()
        api.add()
        let_settings_name(stage, "api")
        an_agent_is_killed_before(stage, act)
        stage.start_agent()
        wait_serves(stage, api)
        wait_in_step(stage)

        assert stage.reloads() == before + (0 if adds_backends() else 1)
        assert "backend api " in stage.haproxy.config.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "act", ["unpublish backend api", "set server api/srv1 state", "del server api", "del backend"]
)
def test_an_agent_that_is_killed_while_it_deletes_a_backend_has_a_successor_that_goes_on_without_a_reload(
    act: str,
) -> None:
    with stage_with_api() as (stage, _):
        before = stage.reloads()
        stage.stop_agent()
        let_settings_name(stage)
        an_agent_is_killed_before(stage, act)
        stage.start_agent()
        wait_until(lambda: "api" not in backends(stage.haproxy), 15, "api to be gone")
        wait_in_step(stage)

        assert stage.reloads() == before + (0 if adds_backends() else 1)


def test_a_haproxy_that_is_restarted_before_the_file_names_its_backend_has_it_again() -> None:
    with stage_with_named_defaults() as (stage, _), Fleet(stage, "api") as api:
        api.add()
        let_settings_name(stage, "api")
        wait_serves(stage, api)
        stage.haproxy.kill()
        stage.haproxy.start()
        wait_serves(stage, api)
        wait_in_step(stage)


def test_servers_of_a_new_backend_are_checked_as_lines_of_the_file_are() -> None:
    with stage_with_named_defaults() as (stage, _), Fleet(stage, "api") as api:
        make_certificate(stage.work, "127.0.0.1")
        stage.origins.certificate = stage.work / CERTIFICATE
        api.add()
        let_settings_name(stage, "api", options="check inter 300ms ssl verify none")
        wait_serves(stage, api)

        def is_checked() -> bool:
            row = stage.haproxy.stat("api")["srv1"]
            return (row["check_status"], row["status"]) == ("L6OK", "UP")

        wait_until(is_checked, 20, "its check to pass")

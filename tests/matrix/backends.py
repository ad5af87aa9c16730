"""The stories of whole backends: one that the settings name, and services that appear and vanish by themselves."""

import signal

from tests.demo.fleet import Fleet
from tests.demo.routed import backends, discover, name_defaults, wait_in_step, wait_serves
from tests.demo.stage import Stage
from tests.harness.processes import wait_until
from tests.matrix.playing import Told, must, story

ADDS_BACKENDS = (3, 4)


def _adds_backends(version: str) -> bool:
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= ADDS_BACKENDS


def a_backend_is_new(version: str) -> Told:
    """Template and hapsync.toml name one more, and requests that name it by their path reach it."""
    with story(version, prepare=name_defaults) as it, Fleet(it.stage, "api") as api:
        api.add()
        with (it.stage.work / "haproxy.cfg.j2").open("a") as template:
            template.write('\nbackend api from apps\n    {{ servers("api") }}\n')
        with it.stage.config_path.open("a") as settings:
            settings.write('\n[backends.api]\nservice = "api"\n')
        it.stage.agent.signal(signal.SIGHUP)
        wait_serves(it.stage, api)
        it.settle("api")
        with it.stage.load(path="/api/", clients=4, closing=1, rate=100) as load:
            wait_in_step(it.stage)
            result = load.stop()
        must(not result.failed, f"the new backend lost {result.failed} of {result.requests}")
        return it.end(0, "added live") if _adds_backends(version) else it.end(1, "1 reload")


def services_appear_and_vanish(version: str) -> Told:
    """Two services with the tag are registered; one of them is deregistered again, and a third comes."""

    def prepare(stage: Stage) -> None:
        name_defaults(stage, prefix="app-")
        discover(stage, forget_seconds=1)

    with story(version, prepare=prepare) as it:
        fleets = [Fleet(it.stage, name, tags=("app",)) for name in ("one", "two")]
        for fleet in fleets:
            fleet.add()
        for fleet in fleets:
            wait_serves(it.stage, fleet)
        with it.stage.load(path="/two/", clients=4, closing=1, rate=100) as load:
            gone, _ = fleets
            gone.remove(*gone.members)
            third = Fleet(it.stage, "three", tags=("app",))
            third.add()
            wait_serves(it.stage, third)
            if _adds_backends(version):
                wait_until(lambda: "app-one" not in backends(it.stage.haproxy), 20, "the first to be gone")
            wait_in_step(it.stage)
            result = load.stop()
        must(not result.failed, f"a discovered backend lost {result.failed} of {result.requests}")
        if _adds_backends(version):
            return it.end(0, "3 added and 1 deleted live")
        made = it.reloads
        must(made <= len(fleets) + 1, f"{made} reloads for three services")
        return it.end(made, f"{made} reloads for 3 services")

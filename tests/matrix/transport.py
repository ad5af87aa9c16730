"""The stories of servers that speak more than plain HTTP, and of those that a program checks."""

from tests.demo.stage import Stage
from tests.harness.processes import wait_until
from tests.lab.certificate import CERTIFICATE, make_certificate
from tests.matrix.playing import SETTLED_SECONDS, Story, Told, must, story
from tests.versions.programs import let_programs_check

_SERVERS = 3


def servers_speak_tls(version: str) -> Told:
    """Three find a slot and three more do not; all speak TLS only, to their checks, too."""

    def prepare(stage: Stage) -> None:
        make_certificate(stage.work, "127.0.0.1")
        stage.origins.certificate = stage.work / CERTIFICATE

    with story(version, slots=3, server_options="check inter 500ms ssl verify none", prepare=prepare) as it:
        return _more_come(it)


def servers_are_told_by_proxy_lines(version: str) -> Told:
    """The same with servers that answer nobody without a line of the PROXY protocol."""

    def prepare(stage: Stage) -> None:
        stage.origins.is_behind_proxy = True

    with story(version, slots=3, server_options="check inter 500ms send-proxy", prepare=prepare) as it:
        return _more_come(it)


def a_program_checks_the_servers(version: str) -> Told:
    """HAProxy would die of a server that is added there, so one reload grows the slots, on every version."""

    def prepare(stage: Stage) -> None:
        let_programs_check(stage, after="defaults")

    with story(version, slots=3, prepare=prepare) as it:
        for _ in range(_SERVERS):
            it.fleet.add()
        it.settle()
        it.wait_requests(200)
        must(it.dynamic == 0, f"{it.dynamic} were added live")
        must(_running(it) == 2 * _SERVERS, f"{_running(it)} of {2 * _SERVERS} servers are up")
        return it.end(1, "1 reload grows the slots")


def _more_come(it: Story) -> Told:
    for _ in range(_SERVERS):
        it.fleet.add()
    it.settle()
    live = _SERVERS if it.adds_live else 0
    must(it.dynamic == live, f"{it.dynamic} were added live, not {live}")
    wait_until(lambda: _are_checked(it), SETTLED_SECONDS, "each server's checks to have passed")
    it.wait_requests(300)
    counts = it.stage.origins.counts()
    idle = [one.address for one in it.fleet.members.values() if not counts.get(one.address)]
    must(not idle, f"no request came to {idle}")
    return it.end(0, f"{live} added live") if live else it.end(1, "1 reload grows the slots")


def _are_checked(it: Story) -> bool:
    """Whether every server that has an instance is up by a check of its own, which has had time to fail."""
    stats = [it.stage.haproxy.stat("web")[it.server_of(one)] for one in it.fleet.members.values()]
    return all(one["status"] == "UP" and one["check_status"] in {"L7OK", "* L7OK"} for one in stats)


def _running(it: Story) -> int:
    return sum(one.running for one in it.stage.haproxy.servers("web").values())

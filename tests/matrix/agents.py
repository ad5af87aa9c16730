"""The story of servers whose agents HAProxy asks."""

from tests.demo.fleet import Fleet
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.agents import agents
from tests.harness.processes import wait_until
from tests.matrix.playing import SETTLED_SECONDS, Told, must, story


def agents_lead_the_servers_that_serve(version: str) -> Told:
    """Agents say `up ready 50%` of all; one after the other leaves, and another takes its slot."""
    with agents() as (told, port):
        told.says = "up ready 50%"
        options = f"check inter 500ms agent-check agent-addr 127.0.0.1 agent-port {port} agent-inter 200ms"
        with story(version, options=NO_GUARD, server_options=options, serves=_serve) as it:
            members = list(it.fleet.members.values())
            for member in members:
                it.fleet.remove(member.name)
                it.fleet.add()
                wait_until(lambda: _serve(it.stage, it.fleet), SETTLED_SECONDS, "one to come and one to go")
                it.wait_requests(100)
            weights = sorted(one.weight for one in it.stage.haproxy.servers("web").values() if one.running)
            must(weights == [50] * len(members), f"the weights are {weights}")
            return it.end(0, f"{len(members)} went, none came back; weights by the agents")


def _serve(stage: Stage, fleet: Fleet) -> bool:
    """Whether just the instances of the fleet may get requests, and the agents of all of them are asked."""
    servers = [one for one in stage.haproxy.servers("web").values() if one.running]
    are_asked = all(int(one.fields["srv_agent_state"]) & 0x04 for one in servers)
    return are_asked and {one.port for one in servers} == {one.port for one in fleet.members.values()}

"""What one entry of Consul's answer means: an odd one costs itself, other tags are no absence, a name is exact."""

from http.client import HTTPConnection

from tests.demo.fleet import HOST, Fleet
from tests.demo.routed import discover, name_defaults, wait_serves
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.processes import wait_until

CHECKS = "check inter 200ms"


def serving(stage: Stage, backend: str = "web") -> set[int]:
    """The ports of the servers that HAProxy sends to."""
    servers = stage.haproxy.servers(backend).values()
    return {one.port for one in servers if one.running and not one.in_maintenance and one.weight > 0}


def wait_serving(stage: Stage, *ports: int, backend: str = "web") -> None:
    wait_until(lambda: serving(stage, backend) == set(ports), 20, f"{ports} alone to serve {backend}")


def capacity(stage: Stage) -> int:
    found: int = stage.status()["backends"]["web"]["capacity"]
    return found


def register_raw(stage: Stage, body: str) -> None:
    """Register what no JSON writer of Python's would write."""
    connection = HTTPConnection(stage.consul.host, stage.consul.port, timeout=30)
    connection.request("PUT", "/v1/catalog/register", body)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


LEVELS = 1_100
NESTED = '{"x":' * LEVELS + "1" + "}" * LEVELS


def test_registrations_that_cannot_be_served_freeze_nobody() -> None:
    with Stage(server_options=CHECKS) as stage, Fleet(stage) as fleet:
        first = fleet.add()
        wait_serving(stage, first.port)
        stage.consul.put("web", "no-port", node="a-stranger", address=HOST, port=0)
        register_raw(
            stage,
            '{"Node": "a-stranger", "Address": "127.0.0.1", "Service": {"Service": "web", "ID": "nested", '
            f'"Address": "web.local", "Port": 80, "Kind": "connect-proxy", '
            f'"Proxy": {{"DestinationServiceName": "web", "Config": {NESTED}}}}}}}',
        )
        stage.consul.put("web", "metadata", node="a-stranger", address="100.100.100.200", port=80)
        second = fleet.add()

        wait_serving(stage, first.port, second.port)
        # HAProxy has a server a moment before the agent shows what that pass was of.
        wait_until(lambda: stage.status()["counts"]["quarantined"] == 3, 20, "the quarantine to be shown")
        backend = stage.status()["backends"]["web"]
        assert {one["service_id"]: one["reason"] for one in backend["quarantined"]} == {
            "no-port": "it has no port",
            "metadata": "its address 100.100.100.200 is where a cloud serves its metadata",
            "nested": 'its address "web.local" is not an IP address',
        }
        assert backend["doubt"] is None


def test_a_living_server_whose_registration_cannot_be_used_any_more_leaves_like_any_other() -> None:
    with Stage(server_options=CHECKS, backend_options="min_ready = 0\nmax_loss_fraction = 1.0") as stage:
        port = Fleet(stage).add().port
        wait_serving(stage, port)
        stage.consul.put("web", "web-1", node="node-a", address=HOST, port=0)

        wait_serving(stage)
        stage.wait_deferred()


def put_role(stage: Stage, name: str, port: int, *tags: str) -> None:
    stage.consul.put("web", name, node=name, address=HOST, port=port, tags=tags)


def test_a_role_that_moves_to_another_instance_is_followed_there_and_back() -> None:
    with Stage(server_options=CHECKS, backend_options='tags = ["primary"]') as stage:
        fleet = Fleet(stage)
        one, other = fleet.start_server().port, fleet.start_server().port
        put_role(stage, "one", one, "primary")
        put_role(stage, "other", other, "replica")
        wait_serving(stage, one)
        wait_until(lambda: capacity(stage) == 1, 20, "the first check")

        put_role(stage, "one", one, "replica")  # nobody is primary for a moment
        stage.wait_deferred("fewer than min_ready would be left", count=1)
        [deferred] = stage.status()["deferred"]
        assert "it has other tags in Consul" in deferred["change"]
        assert not [reason for reason in stage.status()["sync"]["reasons"] if "gone" in reason]

        for primary, replica in (("other", "one"), ("one", "other")) * 3:
            ports = {"one": one, "other": other}
            put_role(stage, replica, ports[replica], "replica")
            put_role(stage, primary, ports[primary], "primary")
            wait_serving(stage, ports[primary])
        log = (stage.work / "agent.log").read_text()
        assert "comes and goes" not in log
        assert "the whole service is gone" not in log


def test_a_canary_that_becomes_live_leaves_the_backend_of_the_canaries() -> None:
    with Stage({"web": 4, "canary": 4}, server_options=CHECKS, backend_options=NO_GUARD, agent=False) as stage:
        text = stage.config_path.read_text()
        text = text.replace('[backends.web]\nservice = "web"\n', '[backends.web]\nservice = "web"\ntags = ["live"]\n')
        text = text.replace('service = "canary"\n', 'service = "web"\ntags = ["canary"]\n')
        stage.config_path.write_text(text)
        stage.start_agent()
        fleet = Fleet(stage)
        old, new = fleet.start_server().port, fleet.start_server().port
        put_role(stage, "old", old, "live")
        put_role(stage, "new", new, "canary")
        wait_serving(stage, old)
        wait_serving(stage, new, backend="canary")

        put_role(stage, "new", new, "live")
        wait_serving(stage, old, new)
        wait_serving(stage, backend="canary")
        stage.wait_deferred()


def test_a_held_server_whose_address_another_service_gets_leaves_and_one_that_was_in_both_stays() -> None:
    with Stage({"web": 8, "api": 8}, server_options=CHECKS) as stage:
        fleet, api = Fleet(stage), Fleet(stage, "api")
        ports = [fleet.add().port for _ in range(4)]
        own = api.add().port
        both = ports[3]
        stage.consul.put("api", "both", node="node-z", address=HOST, port=both)
        wait_serving(stage, *ports)
        wait_serving(stage, own, both, backend="api")
        wait_until(lambda: capacity(stage) == 4, 20, "the first checks")
        fleet.vanish()
        wait_until(lambda: len(stage.status()["deferred"]) == 4, 10, "the whole service to be held")
        stage.kill_agent()
        stage.start_agent()

        stage.consul.put("api", "newcomer", node="node-z", address=HOST, port=ports[0])
        wait_serving(stage, own, both, ports[0], backend="api")
        wait_serving(stage, *ports[1:])
        # The agent confirms the empty answer after its restart; only then does it know why it holds the servers.
        stage.wait_deferred("the whole service is gone from Consul")
        assert set(ports[1:]) <= serving(stage)


def test_services_whose_names_differ_only_in_case_are_not_mixed() -> None:
    with Stage({"web": 4, "WEB": 4}, server_options=CHECKS) as stage:
        ports = [Fleet(stage).start_server().port for _ in range(3)]
        stage.consul.put("web", "lower", node="n1", address=HOST, port=ports[0])
        stage.consul.put("WEB", "upper", node="n2", address=HOST, port=ports[1])
        wait_serving(stage, ports[0])
        wait_serving(stage, ports[1], backend="WEB")
        stage.consul.put("web", "lower-2", node="n1", address=HOST, port=ports[2])
        wait_serving(stage, ports[0], ports[2])
        assert serving(stage, "WEB") == {ports[1]}


def test_discovered_services_whose_names_differ_only_in_case_are_not_mixed() -> None:
    with Stage({"web": 4}, agent=False) as stage:
        name_defaults(stage, prefix="app-")
        discover(stage, forget_seconds=2, max_backends=9)
        stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout, encoding="utf-8")
        stage.haproxy.reload()
        stage.start_agent()
        # On one node Consul takes "shop-1" and "SHOP-1" for the same service id.
        fleets = [Fleet(stage, name, nodes=(node,), tags=("app",)) for name, node in (("shop", "n1"), ("SHOP", "n2"))]
        ports = [fleet.add().port for fleet in fleets]
        for fleet in fleets:
            wait_serves(stage, fleet)
        wait_serving(stage, ports[0], backend="app-shop")
        wait_serving(stage, ports[1], backend="app-SHOP")


def test_a_name_that_is_written_in_another_case_is_said_by_status_and_check() -> None:
    with Stage({"Web": 4}, server_options=CHECKS) as stage:
        stage.consul.put("web", "one", node="n1", address=HOST, port=Fleet(stage).start_server().port)
        words = 'service "Web": Consul has "web" instead; write the name exactly so'

        wait_until(lambda: words in stage.status()["sync"]["reasons"], 20, "status to say it")
        checked = stage.hapsync("check")
        assert "backends.Web: set `networks`" in checked.stdout
        assert checked.returncode != 0
        assert words in checked.stdout + checked.stderr

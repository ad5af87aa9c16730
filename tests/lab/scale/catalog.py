"""The catalog that is watched: services whose instances look like a real fleet's, and one change of one of them."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from tests.harness.consul import Agent

INSTANCES = 20
INSTANCES_OF_A_NODE = 5
WEIGHTS = 97
"""A prime, so that an instance's next version has another weight: hapsync passes over what HAProxy cannot see."""


def service_name(number: int) -> str:
    return f"web-{number:03d}"


def registration(service: int, instance: int, version: int = 0) -> Mapping[str, object]:
    """The body that registers one instance on its node, with a check of each; `version` makes it another.

    About 1.2 KB in an answer of `/v1/health/service`, which is what an instance with a node's and its own check has.
    """
    ordinal = service * INSTANCES + instance
    node = f"node-{ordinal // INSTANCES_OF_A_NODE:05d}"
    address = f"10.{ordinal >> 16 & 255}.{ordinal >> 8 & 255}.{ordinal & 255}"
    name, instance_id = service_name(service), f"{service_name(service)}-{instance}"
    checks = [
        {
            "Node": node,
            "CheckID": "alive",
            "Name": "The node is alive",
            "Status": "passing",
            "Output": "Agent alive and reachable",
        },
        {
            "Node": node,
            "CheckID": f"service:{instance_id}",
            "ServiceID": instance_id,
            "Name": f"Service '{name}' check",
            "Status": "passing",
            "Output": f"HTTP GET http://{address}:8080/health: 200 OK Output: ok",
        },
    ]
    return {
        "Node": node,
        "Address": f"10.200.{ordinal // INSTANCES_OF_A_NODE >> 8 & 255}.{ordinal // INSTANCES_OF_A_NODE & 255}",
        "NodeMeta": {"rack": f"r{ordinal % 7}", "consul-network-segment": ""},
        "Service": {
            "Service": name,
            "ID": instance_id,
            "Address": address,
            "Port": 8080,
            "Tags": ["http", "production"],
            "Meta": {"version": f"1.{version}", "team": "web"},
            "Weights": {"Passing": 1 + version % WEIGHTS, "Warning": 1},
        },
        "Checks": checks,
    }


def load(agent: Agent, services: int) -> None:
    """Register all instances of so many services."""

    def put(ordinal: int) -> None:
        agent.request("PUT", "/v1/catalog/register", registration(*divmod(ordinal, INSTANCES)))

    with ThreadPoolExecutor(max_workers=8) as threads:
        list(threads.map(put, range(services * INSTANCES)))


def change(agent: Agent, service: int, version: int) -> None:
    """Change one instance of one service; a `version` never used before makes it a change."""
    agent.request("PUT", "/v1/catalog/register", registration(service, version % INSTANCES, version))

"""What a way asks of Consul: counted by its local agent, which nobody else asks, and by the links to and from it."""

import re
import subprocess
import sys
from typing import Self

from attrs import frozen

from tests.lab.network import ASKING, Network
from tests.lab.programs import SpacedCluster

_READ = (
    "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
)
_PATH = "/v1/agent/metrics?format=prometheus"
_MODERN_HTTP = "consul_api_http_count"
"""From 1.9 on, with method and path as labels; before, each method and path has a metric of its own."""
_HTTP = re.compile(r"consul_http_[A-Z]+_v1_(?!agent_metrics)\w+_count")
_DNS = re.compile(r"consul_dns_(ptr|domain)_query_count")
_CALLS = "consul_client_rpc"
_LINE = re.compile(r"(\w+)(?:\{([^}]*)\})? (\S+)")


@frozen
class Asked:
    """What was asked in some time; requests count once they are answered, a watch with each of its answers."""

    requests: int
    """Of the local agent, over HTTP and DNS."""
    bytes: int
    """Between balancer and agent, both directions, headers of all layers included."""
    server_requests: int
    """Calls of the agent to Consul's servers, those for its own ends (one in a minute or two) included."""
    server_bytes: int
    """Between agent and servers, both directions, gossip included."""

    @classmethod
    def of(cls, network: Network, cluster: SpacedCluster) -> Self:
        """All since the agent began; `CalledProcessError` where it does not answer."""
        # Asked from the agent's own machine, so that this passes over neither link.
        command = network.agent.command(sys.executable, "-c", _READ, f"{cluster.client.url}{_PATH}")
        metrics = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        requests, calls = counted(metrics)
        return cls(requests, network.balancer.carried_bytes(ASKING), calls, network.agent.carried_bytes("eth0"))

    def since(self, before: "Asked") -> "Asked":
        return Asked(
            self.requests - before.requests,
            self.bytes - before.bytes,
            self.server_requests - before.server_requests,
            self.server_bytes - before.server_bytes,
        )


def counted(metrics: str) -> tuple[int, int]:
    """Requests and calls to the servers, of metrics in the words of Prometheus."""
    legacy = modern = dns = calls = 0
    for line in metrics.splitlines():
        if (match := _LINE.fullmatch(line)) is None or match[3] == "NaN":
            continue
        name, labels, value = match[1], match[2] or "", int(float(match[3]))
        if name == _MODERN_HTTP and "agent_metrics" not in labels:
            modern += value
        elif _HTTP.fullmatch(name):
            legacy += value
        elif _DNS.fullmatch(name):
            dns += value
        elif name == _CALLS:
            calls += value
    return (modern or legacy) + dns, calls

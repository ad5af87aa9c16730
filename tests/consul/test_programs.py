"""The Consul of this folder is 1.14.11, and the harness starts it in each of its forms."""

import http.client
from pathlib import Path

from tests.harness.cluster import Cluster
from tests.harness.consul import Agent, Consul, acl_consul
from tests.harness.tools import consul_path


def headers_of(consul: Agent, path: str, token: str = "") -> dict[str, str]:
    connection = http.client.HTTPConnection(consul.host, consul.port, timeout=10)
    try:
        connection.request("GET", path, headers={"X-Consul-Token": token} if token else {})
        response = connection.getresponse()
        response.read()
        return {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def test_a_consul_of_this_folder_is_1_14_11_and_streams(shared_consul: Consul, modern_consul: str) -> None:
    assert consul_path() == modern_consul
    assert shared_consul.request("GET", "/v1/agent/self")["Config"]["Version"] == "1.14.11"

    streamed = headers_of(shared_consul, "/v1/health/service/web?cached")

    assert streamed["x-consul-query-backend"] == "streaming"


def test_two_consuls_and_a_cluster_run_beside_each_other(shared_consul: Consul, work: Path) -> None:
    with Consul(work) as consul, Cluster(work, servers=1) as cluster:
        consul.put("web", "w1", node="n1", address="10.0.0.1", port=80)
        cluster.client.put("web", "w2", node="n2", address="10.0.0.2", port=80)

        assert [entry["Service"]["ID"] for entry in consul.health("web")] == ["w1"]
        assert [entry["Service"]["ID"] for entry in cluster.client.health("web")] == ["w2"]
        assert shared_consul.health("web") == []


def test_a_plain_answer_says_what_rights_have_filtered_and_a_streamed_one_does_not(work: Path) -> None:
    with acl_consul(work) as consul:
        consul.put("web", "w1", node="n1", address="10.0.0.1", port=80)
        consul.set_policy("little", 'service_prefix "" { policy = "read" }')
        token = consul.token("little")

        plain = headers_of(consul, "/v1/health/service/web?stale", token)
        streamed = headers_of(consul, "/v1/health/service/web?cached", token)
        consul.delete_token(token)

        assert plain["x-consul-results-filtered-by-acls"] == "true"
        assert "x-consul-results-filtered-by-acls" not in streamed

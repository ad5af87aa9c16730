"""What a way takes of the machine and asks of Consul is counted as it is."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.harness.processes import wait_until
from tests.lab.asked import counted
from tests.lab.costs import Counter, cpu_seconds, memory_bytes
from tests.lab.network import ASKING, open_network

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
REST = "print(flush=True); time.sleep(60)"
CHILD = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {BURN!r}]); {REST}"
HOLD = "import time; held = bytes(50 * 2**20).replace(b'\\0', b'x'); " + REST


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


USED_SECONDS = 0.28
"""What a child has used at least that goes on for 0.3 s: the kernel counts ticks of 0.01 s, of user and of system."""


def start(code: str, started: list[subprocess.Popen[str]]) -> int:
    """Start it, and wait until it has written a line."""
    process = subprocess.Popen((sys.executable, "-c", code), stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout is not None
    process.stdout.readline()
    return process.pid


def test_what_a_child_that_has_ended_used_is_its_parents(started: list[subprocess.Popen[str]]) -> None:
    pid = start(CHILD, started)

    assert USED_SECONDS <= cpu_seconds([pid]) < 1
    assert cpu_seconds([]) == 0


def test_memory_is_what_is_held(started: list[subprocess.Popen[str]]) -> None:
    holder, other = start(HOLD, started), start(f"import time; {REST}", started)

    assert 45 * 2**20 < memory_bytes([holder]) - memory_bytes([other]) < 55 * 2**20
    assert memory_bytes([holder, other]) > memory_bytes([holder])
    assert memory_bytes([2**22 + 1]) == 0


def test_a_counter_sees_workers_come_and_go_and_what_the_tool_used_meanwhile(
    started: list[subprocess.Popen[str]],
) -> None:
    holder = start(HOLD, started)
    workers, tools = {holder}, {start(CHILD, started)}
    before = cpu_seconds(tools)
    with Counter(lambda: frozenset(workers), lambda: frozenset(tools)) as counter:
        workers.add(1)
        tools.add(start(CHILD, started))
        time.sleep(0.5)
        workers.remove(1)
        costs = counter.stop()

    assert (costs.workers_peak, costs.workers_replaced, costs.workers_end) == (2, 1, 1)
    assert USED_SECONDS <= costs.tool_cpu_seconds < cpu_seconds(tools) - before + 0.1
    assert costs.workers_peak_bytes > 50 * 2**20


def test_requests_are_counted_in_the_words_of_old_and_new_consuls() -> None:
    old = (
        "# TYPE consul_http_GET_v1_health_service__ summary\n"
        'consul_http_GET_v1_health_service__{quantile="0.5"} NaN\n'
        "consul_http_GET_v1_health_service___sum 7.5\n"
        "consul_http_GET_v1_health_service___count 5\n"
        "consul_http_GET_v1_catalog_services_count 2\n"
        "consul_http_GET_v1_agent_metrics_count 90\n"
        "consul_client_rpc 11\n"
    )
    new = (
        'consul_api_http_count{method="GET",path="v1_health_service_"} 4\n'
        'consul_api_http_count{method="GET",path="v1_agent_metrics"} 90\n'
        'consul_dns_domain_query_count{node="client"} 3\n'
        "consul_client_rpc 1e+01\n"
    )

    assert counted(old) == (7, 11)
    assert counted(new) == (7, 10)


def test_the_link_between_balancer_and_agent_carries_what_they_say_and_nothing_else() -> None:
    serve = "import socket; s = socket.create_server(('10.78.0.2', 80)); s.accept()[0].recv(1); time.sleep(9)"
    send = "import socket; socket.create_connection(('10.78.0.2', 80)).sendall(bytes(100_000))"
    with open_network() as network:
        command = network.agent.command(sys.executable, "-c", f"import time; {serve}")
        with subprocess.Popen(command) as server:
            wait_until(
                lambda: b" 0A " in subprocess.check_output(network.agent.command("cat", "/proc/net/tcp")), 10, "it"
            )
            before = network.balancer.carried_bytes(ASKING)
            wired = network.balancer.carried_bytes("eth0")
            subprocess.run(network.balancer.command(sys.executable, "-c", send), check=True)
            carried = network.balancer.carried_bytes(ASKING) - before
            server.kill()
        assert 50_000 < carried < 120_000
        assert network.balancer.carried_bytes("eth0") - wired < 1000
        with pytest.raises(LookupError):
            network.balancer.carried_bytes("eth9")

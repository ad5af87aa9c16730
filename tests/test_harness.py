"""The harness itself, against the real programs: what the other tests rest on."""

import contextlib
import functools
import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.consul import Consul, ConsulError
from tests.harness.haproxy import HAProxy, ReloadFailedError, minimal_config
from tests.harness.load import Load
from tests.harness.origin import origin_name
from tests.harness.origins import Origins
from tests.harness.ports import free_port, free_ports
from tests.harness.processes import Process, short_folder, wait_until
from tests.harness.procfs import has_ended
from tests.harness.tools import ROOT

LOOPBACK = "127.0.0.1"


@pytest.fixture
def work() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def origins(work: Path) -> Iterator[Origins]:
    with Origins(work) as running:
        yield running


def haproxy_before(work: Path, frontend_port: int, ports: tuple[int, ...]) -> HAProxy:
    config = work / "haproxy.cfg"
    servers = [f"server s{number} {LOOPBACK}:{port}" for number, port in enumerate(ports, 1)]
    config.write_text(minimal_config(work / "admin.sock", frontend_port, {"app": servers}))
    return HAProxy(config, work)


def statuses(consul: Consul, service: str) -> dict[str, str]:
    return {check["CheckID"]: check["Status"] for entry in consul.health(service) for check in entry["Checks"]}


def test_consul_holds_what_was_put_until_it_is_removed(work: Path) -> None:
    with Consul(work) as consul:
        hostile = 'a b/c;"\\é'
        consul.put(hostile, "i-1", node="n 1", address="::1", port=8080, tags=["t"], meta={"k": hostile})
        consul.put("app", "i-2", node="n2", address="", port=1, node_address="127.0.0.9", weights=(7, 2))
        [first], [second] = consul.health(hostile), consul.health("app")

        assert (first["Service"]["Address"], first["Service"]["Meta"]) == ("::1", {"k": hostile})
        assert (second["Service"]["Address"], second["Node"]["Address"]) == ("", "127.0.0.9")
        assert second["Service"]["Weights"] == {"Passing": 7, "Warning": 2}

        consul.remove("n 1", "i-1")
        consul.remove_node("n2")

        assert (consul.health(hostile), consul.health("app")) == ([], [])


def test_consul_tells_maintenance_and_status_as_they_were_put_last(work: Path) -> None:
    with Consul(work) as consul:

        def put(**how: object) -> dict[str, str]:
            consul.put("app", "i", node="n", address=LOOPBACK, port=1, **how)  # type: ignore[arg-type]
            return statuses(consul, "app")

        assert put(status="warning") == {"service:i": "warning"}
        assert put(service_maintenance=True, node_maintenance=True) == {
            "service:i": "passing",
            "_service_maintenance:i": "critical",
            "_node_maintenance": "critical",
        }
        assert put(status="critical") == {"service:i": "critical"}


def test_consul_registers_through_its_agent_and_forgets_all_when_restarted(work: Path) -> None:
    with Consul(work, config={"limits": {"http_max_conns_per_client": 50}}) as consul:
        check = {"Name": "ttl", "TTL": "1h", "Status": "passing"}
        consul.register("app", "i", LOOPBACK, 8080, weights=(3, 1), checks=[check])
        [entry] = consul.health("app")

        assert entry["Service"]["Weights"] == {"Passing": 3, "Warning": 1}

        consul.deregister("i")

        assert consul.health("app") == []
        with pytest.raises(ConsulError, match="400"):
            consul.request("GET", "/v1/health/service/app?index=nonsense")

        consul.register("app", "i", LOOPBACK, 8080)
        consul.kill()
        with pytest.raises(OSError, match="refused"):
            consul.health("app")
        consul.start()

        assert consul.health("app") == []


def test_consul_takes_a_change_once_its_limit_of_connections_leaves_room(work: Path) -> None:
    with Consul(work, config={"limits": {"http_max_conns_per_client": 2}}) as consul, ThreadPoolExecutor(1) as pool:
        pool.submit(consul.health, "web").result()  # each thread keeps a connection of its own
        other = http.client.HTTPConnection(consul.host, consul.port, timeout=30)
        with contextlib.closing(other):
            consul.hang_up()
            pool.submit(consul.health, "web").result()
            wait_until(lambda: _answers(other), 10, "the second connection to be taken")
            room = threading.Timer(1, other.close)
            room.start()

            consul.put("web", "w1", node="n1", address="10.0.0.1", port=1)

            assert other.sock is None, "the change was taken beyond the limit"
        assert [entry["Service"]["ID"] for entry in consul.health("web")] == ["w1"]


def _answers(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/v1/status/leader")
        response = connection.getresponse()
        response.read()
    except (http.client.HTTPException, OSError):
        connection.close()
        return False
    return response.status == http.client.OK


def test_haproxy_is_reloaded_killed_and_started_again(work: Path) -> None:
    with haproxy_before(work, free_port(), free_ports(2)) as haproxy:
        first = haproxy.worker_pid()
        haproxy.ask("set server app/s2 state maint")
        haproxy.ask("set server app/s1 addr 127.0.0.7 port 99")
        haproxy.ask("set server app/s1 weight 0")
        servers = haproxy.servers("app")

        assert list(servers) == ["s1", "s2"]
        assert (servers["s1"].address, servers["s1"].port, servers["s1"].weight) == ("127.0.0.7", 99, 0)
        assert (servers["s2"].in_maintenance, servers["s2"].running) == (True, False)
        assert haproxy.stat("app")["s2"]["status"] == "MAINT"
        with pytest.raises(LookupError):
            haproxy.servers("nosuch")

        second = haproxy.reload()

        assert second != first
        assert not haproxy.servers("app")["s2"].in_maintenance

        haproxy.kill()
        with pytest.raises(OSError, match="refused"):
            haproxy.ask("show info")
        haproxy.start()

        assert haproxy.worker_pid() not in {None, first, second}


def test_haproxy_keeps_its_worker_when_it_refuses_a_configuration(work: Path) -> None:
    with haproxy_before(work, free_port(), free_ports(1)) as haproxy:
        good, worker = haproxy.config.read_text(), haproxy.worker_pid()
        haproxy.config.write_text(good.replace("default_backend app", "default_backend nosuch"))
        with pytest.raises(ReloadFailedError, match="nosuch"):
            haproxy.reload()

        assert haproxy.worker_pid() == worker

        haproxy.config.write_text(good)

        assert haproxy.reload() != worker


def has_more(load: Load, count: int) -> bool:
    return load.snapshot().requests > count


def is_over(haproxy: HAProxy, load: Load, origins: Origins, name: str) -> bool:
    """Whether nothing runs on the server `s1` any more, and all that its origin `name` answered is counted."""
    return haproxy.stat("app")["s1"]["scur"] == "0" and load.snapshot().by_origin[name] == origins.counts()[name]


def test_no_request_is_lost_when_an_origin_is_put_in_maintenance_before_it_closes(
    work: Path, origins: Origins
) -> None:
    frontend, *ports = free_ports(4)
    names = [origins.open(LOOPBACK, port) for port in ports]
    with (
        haproxy_before(work, frontend, tuple(ports)) as haproxy,
        Load(work, frontend, clients=8, closing=2, rate=400, seconds=30) as load,
    ):
        wait_until(lambda: load.snapshot().requests >= 200, 20, "the load to be under way")
        haproxy.ask("set server app/s1 state maint")
        wait_until(lambda: is_over(haproxy, load, origins, names[0]), 20, "the last request of the one that leaves")
        origins.close(LOOPBACK, ports[0])
        before = load.snapshot()
        wait_until(lambda: load.snapshot().requests >= before.requests + 200, 20, "more requests")
        result = load.stop()

    assert (result.failed, result.failures) == (0, ())
    assert set(result.by_origin) == set(names)
    assert result.by_origin[names[0]] == before.by_origin[names[0]]
    assert sum(result.by_origin.values()) == result.requests
    assert origins.counts() == result.by_origin
    assert 0 < result.p50_ms <= result.p99_ms <= result.max_ms


def test_no_request_is_lost_at_a_reload(work: Path, origins: Origins) -> None:
    frontend, port = free_ports(2)
    origins.open(LOOPBACK, port)
    with (
        haproxy_before(work, frontend, (port,)) as haproxy,
        Load(work, frontend, clients=8, rate=400, seconds=30) as load,
    ):
        for _ in range(2):
            haproxy.reload()
            before = load.snapshot().requests
            wait_until(functools.partial(has_more, load, before + 60), 20, "requests after the reload")
        result = load.stop()

    assert (result.failed, result.failures) == (0, ())


def test_load_counts_what_is_lost_when_all_origins_are_aborted(work: Path, origins: Origins) -> None:
    frontend, port = free_ports(2)
    origins.open(LOOPBACK, port)
    with (
        haproxy_before(work, frontend, (port,)),
        Load(work, frontend, clients=4, rate=200, seconds=30) as load,
    ):
        wait_until(lambda: load.snapshot().requests >= 50, 20, "the load to be under way")
        origins.abort(LOOPBACK, port)
        wait_until(lambda: load.snapshot().failed, 20, "a lost request")
        result = load.stop()

    assert result.by_origin[origin_name(LOOPBACK, port)] >= 50
    assert result.failed == sum(result.by_reason.values()) >= 1
    # HAProxy only closes, as if it had been idle, when a kept connection to the origin fails it.
    assert set(result.by_reason) <= {"status 502", "status 503", "closed before a response"}
    assert result.failures[0].endswith(tuple(result.by_reason))


def test_load_counts_connections_that_are_refused_and_reset(work: Path, origins: Origins) -> None:
    port = free_port()
    origins.open(LOOPBACK, port)
    with Load(work, port, path="/slow?ms=200", clients=2, rate=20, seconds=30) as load:
        wait_until(lambda: load.snapshot().requests >= 2, 20, "the load to be under way")
        origins.abort(LOOPBACK, port)
        wait_until(lambda: load.snapshot().failed >= 4, 20, "lost requests")
        result = load.stop()

    assert set(result.by_reason) == {"ECONNRESET before a response", "cannot connect: ECONNREFUSED"}


def test_load_keeps_to_its_rate_and_its_time(work: Path, origins: Origins) -> None:
    port = free_port()
    origins.open(LOOPBACK, port)
    with Load(work, port, clients=5, rate=20, seconds=3) as load:
        time.sleep(4.5)
        result = load.stop()

    assert 48 <= result.requests <= 60
    assert result.failed == 0


def test_an_origin_that_closes_finishes_the_request_it_is_at(work: Path, origins: Origins) -> None:
    port = free_port()
    name = origins.open("::1", port)
    with Load(work, port, host="::1", path="/slow?ms=500", clients=1, rate=1, seconds=30) as load:
        wait_until(lambda: origins.counts()[name], 20, "a request to be under way")
        origins.close("::1", port)
        wait_until(lambda: load.snapshot().requests, 20, "its answer")
        result = load.snapshot()

    assert (result.failed, result.by_origin) == (0, {f"[::1]:{port}": 1})


def test_haproxy_follows_the_health_an_origin_tells(work: Path, origins: Origins) -> None:
    frontend, port = free_ports(2)
    origins.open(LOOPBACK, port)
    config = work / "haproxy.cfg"
    lines = ["option httpchk GET /healthcheck", f"server s1 {LOOPBACK}:{port} check inter 50ms rise 1 fall 1"]
    config.write_text(minimal_config(work / "admin.sock", frontend, {"app": lines}))
    with HAProxy(config, work) as haproxy:
        wait_until(lambda: haproxy.servers("app")["s1"].running, 20, "the server to be up")
        origins.set_health(LOOPBACK, port, False)
        wait_until(lambda: not haproxy.servers("app")["s1"].running, 20, "the server to be down")

    assert origins.counts() == {origin_name(LOOPBACK, port): 0}


def test_a_program_dies_with_the_process_that_started_it(work: Path) -> None:
    script = f"""
import pathlib, time
from tests.harness.processes import Process

Process(("sh", "-c", "echo $$; exec sleep 600"), pathlib.Path({str(work)!r}, "log"))
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as parent:
        child = int(wait_until(lambda: (work / "log").read_text().strip(), 20, "the program's id"))
        parent.kill()
    wait_until(lambda: has_ended(child), 20, "the program to die")


def test_stopping_a_program_ends_its_children_too(work: Path) -> None:
    process = Process(("sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait; wait"), work / "log")
    child = int(wait_until(lambda: process.log.read_text().strip(), 20, "the child's id"))
    process.stop(timeout_seconds=0.1)

    assert has_ended(child)
    assert not process.running


def test_ports_are_never_handed_out_twice() -> None:
    script = "from tests.harness.ports import free_ports; print(*free_ports(300))"
    own = free_ports(300)
    other = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    ports = (*own, *map(int, other.split()))

    assert len(set(ports)) == 600
    assert all(1024 < port < 32768 for port in ports)

"""What breaks things for the fault suite does break them, each in the way it says, and mends them again."""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest

from tests.faults.naive import Naive
from tests.harness.chaos import HEALTH, Chaos, SocketChaos, http_answer
from tests.harness.cluster import Cluster
from tests.harness.consul import AclConsul, Agent, Consul, ConsulError, acl_consul
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.ports import free_port
from tests.harness.processes import short_folder, wait_until
from tests.harness.tools import ROOT

LOOPBACK = "127.0.0.1"
LONG = 4.0
"""Seconds of silence after which nothing will come."""


# A Consul cluster


PATIENCE_SECONDS = 45.0
"""Members that gave each other up while one was paused may need half a minute to meet again."""


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    with short_folder() as folder, Cluster(folder) as running:
        yield running


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """A cluster that is whole, whatever the test before left behind."""
    for server in shared_cluster.servers.values():
        server.resume()
    shared_cluster.start_all_servers()
    return shared_cluster


def put(consul: Agent, service: str, count: int = 1) -> None:
    for number in range(count):
        consul.put(service, f"{service}-{number}", node=f"n-{service}", address="127.0.0.9", port=8000 + number)


def test_a_cluster_goes_on_under_another_leader_when_its_leader_is_killed(cluster: Cluster) -> None:
    put(cluster.client, "kept")
    first = cluster.leader()
    assert first is not None
    cluster.kill_server(first)
    second = cluster.wait_for_leader()

    assert second != first
    assert len(cluster.client.health("kept")) == 1

    put(cluster.client, "put-by-two")
    cluster.start_server(first)
    server = cluster.servers[first]
    wait_until(
        lambda: server.request("GET", f"{HEALTH}put-by-two?stale"), PATIENCE_SECONDS, "the third server to catch up"
    )


def test_a_cluster_without_a_majority_has_no_leader_and_answers_stale_reads(cluster: Cluster) -> None:
    put(cluster.client, "alone")
    leader = cluster.leader()
    for number in cluster.servers:
        if number != leader:
            cluster.kill_server(number)
    wait_until(lambda: cluster.leader() is None, PATIENCE_SECONDS, "the leader to step down")

    # It may try a server that was killed before it has noticed.
    wait_until(
        lambda: cluster.client.request("GET", f"{HEALTH}alone?stale"), PATIENCE_SECONDS, "an answer of the last one"
    )

    assert cluster.client.request("GET", "/v1/status/leader") == ""

    cluster.start_all_servers()

    assert len(cluster.client.health("alone")) == 1


def test_a_cluster_keeps_its_data_when_killed_and_loses_it_when_wiped(cluster: Cluster) -> None:
    put(cluster.client, "held")
    cluster.kill_all_servers()

    assert cluster.leader() is None
    with pytest.raises(ConsulError, match="500"):
        cluster.client.health("held")

    cluster.start_all_servers()

    assert len(cluster.client.health("held")) == 1

    cluster.wipe_all_servers()
    cluster.start_all_servers()

    assert cluster.client.health("held") == []
    assert wait_until(lambda: cluster.client.health("consul"), PATIENCE_SECONDS, "the servers to be in the catalog")


def test_a_paused_leader_is_replaced_and_comes_back(work: Path) -> None:
    with Cluster(work) as cluster:
        first = cluster.wait_for_leader()
        server = cluster.servers[first]
        server.pause()
        wait_until(lambda: cluster.leader() not in {None, first}, PATIENCE_SECONDS, "another leader")

        assert server.is_running
        assert server.is_paused

        server.resume()
        wait_until(
            lambda: server.request("GET", "/v1/status/leader"), PATIENCE_SECONDS, "an answer of the paused one"
        )


def test_a_paused_agent_takes_connections_and_answers_when_resumed(work: Path) -> None:
    with Consul(work) as consul, ThreadPoolExecutor(1) as threads:
        consul.pause()
        answer = threads.submit(consul.health, "consul")
        time.sleep(0.5)

        assert not answer.done()

        consul.resume()

        assert len(answer.result(10)) == 1

        consul.pause()
    assert not consul.is_running


def test_nothing_of_a_cluster_is_left_when_it_ends(work: Path) -> None:
    with Cluster(work, 1) as cluster:
        pids = [member.process.pid for member in cluster.members]
        cluster.servers[1].pause()

        assert all(Path(f"/proc/{pid}").exists() for pid in pids)

    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


# A Consul with access control


@pytest.fixture(scope="module")
def guarded() -> Iterator[AclConsul]:
    with short_folder() as folder, acl_consul(folder) as running:
        yield running


def test_a_token_may_read_what_its_policy_says_at_that_moment(guarded: AclConsul) -> None:
    put(guarded, "secret")
    guarded.set_policy("readers", 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }')
    token = guarded.token("readers")

    def read(secret: str) -> tuple[int, int]:
        status, _, body = get(guarded.port, HEALTH + "secret", headers={"X-Consul-Token": secret})
        return status, len(json.loads(body)) if status == 200 else 0

    assert (read(token), read("")) == ((200, 1), (200, 0))

    guarded.set_policy("readers", "")
    wait_until(lambda: read(token) == (200, 0), 20, "the token to have lost its rights")
    guarded.delete_token(token)
    wait_until(lambda: read(token) == (403, 0), 20, "the token to be gone")
    with pytest.raises(LookupError):
        guarded.delete_token(token)


# Between a program and Consul


@pytest.fixture
def chaos(work: Path, shared_consul: Consul) -> Iterator[Chaos]:
    with Chaos(work, shared_consul.host, shared_consul.port) as running:
        yield running


Answer = tuple[int, dict[str, str], bytes]


def get(
    port: int,
    path: str,
    *,
    timeout: float = 10.0,
    headers: dict[str, str] | None = None,
    kept: http.client.HTTPConnection | None = None,
) -> Answer:
    connection = kept or http.client.HTTPConnection(LOOPBACK, port, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        if kept is None:
            connection.close()


def blocked(threads: ThreadPoolExecutor, chaos: Chaos, service: str, *, timeout: float = 20.0) -> Future[Answer]:
    """A blocking query that Consul holds by now."""
    index = get(chaos.port, HEALTH + service)[1]["x-consul-index"]
    before = chaos.seen().asked[HEALTH + service]
    query = threads.submit(get, chaos.port, f"{HEALTH}{service}?index={index}&wait=60s", timeout=timeout)
    wait_until(lambda: chaos.seen().asked[HEALTH + service] > before, 20, "the query to be sent")
    time.sleep(0.2)
    assert not query.done()
    return query


def test_a_proxy_that_passes_changes_no_byte_of_small_and_large_answers(chaos: Chaos, shared_consul: Consul) -> None:
    put(shared_consul, "large", 40)
    body = b""
    with closing(http.client.HTTPConnection(LOOPBACK, chaos.port, timeout=10)) as kept:
        for path in (HEALTH + "large", HEALTH + "nosuch", HEALTH + "large"):
            _, headers, body = get(chaos.port, path, kept=kept)
            _, own_headers, own_body = get(shared_consul.port, path)

            assert body == own_body
            assert headers.keys() == own_headers.keys()

        assert len(body) > 30_000

        gzip = {"Accept-Encoding": "gzip"}

        assert get(chaos.port, HEALTH + "large", headers=gzip)[1]["content-encoding"] == "gzip"
    assert chaos.seen().asked == {HEALTH + "large": 3, HEALTH + "nosuch": 1}
    assert chaos.seen().accepted == 2


def test_a_blocking_query_blocks_through_a_proxy_and_ends_with_either_side(work: Path) -> None:
    with (
        Consul(work) as consul,
        Chaos(work, consul.host, consul.port) as chaos,
        ThreadPoolExecutor(2) as threads,
    ):
        query = blocked(threads, chaos, "waited")
        put(consul, "waited")

        assert len(json.loads(query.result(10)[2])) == 1

        given_up = blocked(threads, chaos, "waited", timeout=3)
        with pytest.raises(TimeoutError):
            given_up.result(10)
        wait_until(lambda: chaos.seen().open == 0, 20, "the proxy to hang up, too")

        query = blocked(threads, chaos, "waited")
        consul.kill()
        with pytest.raises((http.client.HTTPException, OSError)):
            query.result(10)
        with pytest.raises(ConnectionError):
            get(chaos.port, HEALTH + "waited")


def test_a_proxy_refuses_until_it_passes_again(chaos: Chaos) -> None:
    with ThreadPoolExecutor(1) as threads:
        query = blocked(threads, chaos, "refused")
        chaos.refuse()
        with pytest.raises(ConnectionResetError):
            query.result(10)
    with pytest.raises(ConnectionRefusedError):
        get(chaos.port, HEALTH + "refused")
    chaos.pass_through()

    assert get(chaos.port, HEALTH + "refused")[0] == 200


def test_a_proxy_resets_new_connections_and_leaves_those_there_are(chaos: Chaos, shared_consul: Consul) -> None:
    with ThreadPoolExecutor(1) as threads:
        query = blocked(threads, chaos, "older")
        chaos.reset_new()
        with pytest.raises(ConnectionResetError):
            get(chaos.port, HEALTH + "older")
        put(shared_consul, "older")

        assert query.result(10)[0] == 200


def test_a_half_open_connection_never_comes_back_to_life(chaos: Chaos, shared_consul: Consul) -> None:
    with ThreadPoolExecutor(2) as threads:
        query = blocked(threads, chaos, "silent", timeout=LONG)
        chaos.half_open()
        fresh = threads.submit(get, chaos.port, HEALTH + "silent", timeout=LONG)
        wait_until(lambda: chaos.seen().accepted >= 3, 20, "the new connection to be taken")
        put(shared_consul, "silent")
        chaos.pass_through()

        assert get(chaos.port, HEALTH + "silent")[0] == 200
        for dead in (query, fresh):
            with pytest.raises(TimeoutError):
                dead.result(LONG + 5)

        query = blocked(threads, chaos, "silent")
        chaos.half_open()
        chaos.reset_all()
        with pytest.raises(ConnectionResetError):
            query.result(10)


def test_what_stalls_goes_on_and_nothing_is_lost(chaos: Chaos, shared_consul: Consul) -> None:
    with ThreadPoolExecutor(2) as threads:
        query = blocked(threads, chaos, "stalled")
        chaos.stall()
        put(shared_consul, "stalled")
        fresh = threads.submit(get, chaos.port, HEALTH + "stalled")
        time.sleep(0.5)

        assert not query.done()
        assert not fresh.done()

        chaos.pass_through()

        assert [len(json.loads(answer.result(10)[2])) for answer in (query, fresh)] == [1, 1]


def test_nobody_can_connect_to_a_port_that_is_full_until_it_passes_again(chaos: Chaos) -> None:
    chaos.full()
    with pytest.raises(TimeoutError):
        get(chaos.port, HEALTH + "full", timeout=0.5)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(get, chaos.port, HEALTH + "full", timeout=20)
        time.sleep(0.3)
        chaos.pass_through()

        assert waiting.result(20)[0] == 200
    assert chaos.seen().accepted == 1


@pytest.mark.parametrize("error", [http.client.IncompleteRead, ConnectionResetError])
def test_an_answer_is_cut_where_it_was_told(chaos: Chaos, shared_consul: Consul, error: type[Exception]) -> None:
    is_reset = error is ConnectionResetError
    put(shared_consul, "cut", 3)
    chaos.cut_after(900, is_reset=is_reset, times=1)
    with closing(socket.create_connection((LOOPBACK, chaos.port), timeout=5)) as client:
        client.sendall(f"GET {HEALTH}cut HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = b""
        try:
            while data := client.recv(65536):
                received += data
        except ConnectionResetError:
            assert is_reset
        else:
            assert not is_reset
    # A reset may overtake what was sent before it.
    assert len(received) <= 900 if is_reset else len(received) == 900
    assert get(chaos.port, HEALTH + "cut")[0] == 200

    chaos.cut_after(900, is_reset=is_reset)
    with pytest.raises(error):
        get(chaos.port, HEALTH + "cut")


def test_a_slow_answer_takes_as_long_as_its_size_says(chaos: Chaos, shared_consul: Consul) -> None:
    put(shared_consul, "slow", 5)
    size = len(get(chaos.port, HEALTH + "slow")[2])
    chaos.slow(size)
    began = time.monotonic()
    whole = get(chaos.port, HEALTH + "slow")[2]

    assert len(whole) == size
    assert time.monotonic() - began >= 0.9


def test_a_proxy_answers_in_place_of_consul_as_often_as_it_was_told(chaos: Chaos) -> None:
    text = "Your IP is issuing too many concurrent connections, please rate limit your calls\n"
    chaos.answer(http_answer(429, text, {"Retry-After": "1"}), only=HEALTH, times=2)
    with closing(http.client.HTTPConnection(LOOPBACK, chaos.port, timeout=5)) as kept:
        answers = [get(chaos.port, HEALTH + "many", kept=kept) for _ in range(3)]

    assert [status for status, _, _ in answers] == [429, 429, 200]
    assert answers[0][1]["retry-after"] == "1"
    assert answers[0][2] == text.encode()

    chaos.answer(b"\x00\xffno HTTP at all")
    with pytest.raises(http.client.BadStatusLine):
        get(chaos.port, "/v1/status/leader")
    chaos.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[]")
    with pytest.raises(http.client.IncompleteRead):
        get(chaos.port, "/v1/status/leader")


def test_an_answer_is_rewritten_as_told_and_others_are_not(chaos: Chaos, shared_consul: Consul) -> None:
    put(shared_consul, "changed", 20)

    def read(path: str = HEALTH + "changed", **headers: str) -> tuple[int, dict[str, str], Any]:
        status, found, body = get(chaos.port, path, headers=headers)
        return status, found, json.loads(body)

    chaos.rewrite(headers={"X-Consul-KnownLeader": "false", "Age": "45", "X-Consul-LastContact": None})
    _, headers, entries = read()

    assert (headers["x-consul-knownleader"], headers["age"]) == ("false", "45")
    assert "x-consul-lastcontact" not in headers
    assert "x-consul-index" in headers
    assert len(entries) == 20
    assert "age" not in read("/v1/catalog/services")[1]

    chaos.rewrite(body="[]", only=HEALTH + "changed")

    assert read()[2] == []
    assert len(read(HEALTH + "consul")[2]) == 1

    chaos.rewrite(keep=7, times=1)

    assert len(read(**{"Accept-Encoding": "gzip"})[2]) == 7
    assert len(read()[2]) == 20

    chaos.rewrite(status=500, body='"rpc error"')

    assert read()[0::2] == (500, "rpc error")


def test_a_query_that_blocked_before_is_rewritten_too(chaos: Chaos, shared_consul: Consul) -> None:
    with ThreadPoolExecutor(1) as threads:
        query = blocked(threads, chaos, "late")
        chaos.rewrite(body="[]")
        put(shared_consul, "late")

        assert query.result(10)[2] == b"[]"


# Between a program and HAProxy


@pytest.fixture
def haproxy(work: Path) -> Iterator[HAProxy]:
    config = work / "haproxy.cfg"
    lines = [f"server srv{number} 127.0.0.1:1 disabled" for number in range(1, 5)]
    config.write_text(minimal_config(work / "admin.sock", free_port(), {"web": lines}))
    with HAProxy(config, work) as running:
        yield running


@pytest.fixture
def admin(work: Path, haproxy: HAProxy) -> Iterator[SocketChaos]:
    with SocketChaos(work, work / "chaos.sock", haproxy.socket_path) as running:
        yield running


class Prompt:
    """A conversation in prompt mode."""

    def __init__(self, path: Path, *, timeout: float | None = 5.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.opening = ["prompt"]
        try:
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, *commands: str) -> list[str]:
        """Replies, in order; fewer when HAProxy closes."""
        opening, self.opening = self.opening, []
        self.socket.sendall("".join(f"{line}\n" for line in (*opening, *commands)).encode())
        received = b""
        while received.count(b"\n> ") < len(opening) + len(commands) and (data := self.socket.recv(65536)):
            received += data
        return received.decode().split("\n> ")[len(opening) : -1]


def weights(haproxy: HAProxy) -> list[int]:
    return [server.weight for server in haproxy.servers("web").values()]


def weigh(number: int) -> str:
    return f"set server web/srv{number} weight 7"


def test_commands_pass_in_order_and_each_gets_its_reply(admin: SocketChaos, haproxy: HAProxy) -> None:
    with Prompt(admin.path) as through, Prompt(haproxy.socket_path) as direct:
        assert through.ask(weigh(1), "show servers state web") == direct.ask(weigh(1), "show servers state web")
        assert through.ask("show servers state nosuch", "help")[0].strip() == "Can't find backend."
    with closing(socket.socket(socket.AF_UNIX)) as plain:
        plain.connect(str(admin.path))
        plain.sendall(b"show info\n")

        assert b"Pid: " in b"".join(iter(lambda: plain.recv(65536), b""))
    assert weights(haproxy) == [7, 1, 1, 1]
    assert admin.seen().told[:2] == (weigh(1), "show servers state web")


def test_a_full_socket_is_full_and_takes_connections_again(admin: SocketChaos) -> None:
    admin.full()
    with closing(socket.socket(socket.AF_UNIX)) as impatient:
        impatient.setblocking(False)
        with pytest.raises(BlockingIOError):
            impatient.connect(str(admin.path))
    # A timeout makes a socket of Python's one that does not block.
    with pytest.raises(BlockingIOError):
        Prompt(admin.path, timeout=5)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(Prompt, admin.path, timeout=None)
        time.sleep(0.3)

        assert not waiting.done()

        admin.pass_through()
        with waiting.result(10) as patient:
            assert "Pid: " in patient.ask("show info")[0]


def test_a_socket_hangs_and_refuses(admin: SocketChaos) -> None:
    with Prompt(admin.path, timeout=3) as before:
        assert before.ask("show info")

        admin.half_open()
        with pytest.raises(TimeoutError):
            before.ask("show info")
    with Prompt(admin.path, timeout=3) as after, pytest.raises(TimeoutError):
        after.ask("show info")
    admin.refuse()
    with pytest.raises(ConnectionRefusedError):
        Prompt(admin.path)
    admin.pass_through()
    with Prompt(admin.path) as healed:
        assert "Pid: " in healed.ask("show info")[0]


def test_a_reply_is_put_in_place_of_haproxys_own(admin: SocketChaos, haproxy: HAProxy) -> None:
    admin.reply_with("No such server.\n", command="set server web/srv2", times=1)
    with Prompt(admin.path) as client:
        assert client.ask(weigh(1), weigh(2), weigh(3)) == ["", "No such server.\n", ""]
        assert weights(haproxy) == [7, 1, 7, 1]
        assert client.ask(weigh(2))[0] == ""
    assert weights(haproxy) == [7, 7, 7, 1]


def test_a_connection_is_dropped_after_a_command_was_carried_out(admin: SocketChaos, haproxy: HAProxy) -> None:
    admin.drop_after_command(2, command="set server")
    with Prompt(admin.path) as client:
        assert client.ask("show info", weigh(1), weigh(2), weigh(3))[1:] == [""]
    assert weights(haproxy) == [7, 7, 1, 1]


# The naive follower


def serving(haproxy: HAProxy) -> list[int]:
    return sorted(server.port for server in haproxy.servers("web").values() if not server.in_maintenance)


def test_the_naive_follower_follows_and_believes_an_empty_answer(work: Path, haproxy: HAProxy) -> None:
    def shows(*ports: int) -> Callable[[], bool]:
        return lambda: serving(haproxy) == list(ports)

    with Consul(work) as consul, Chaos(work, consul.host, consul.port) as chaos:
        put(consul, "web", 3)
        with Naive(work, chaos.url, haproxy.socket_path, "web"):
            wait_until(shows(8000, 8001, 8002), 20, "the first servers")
            consul.remove("n-web", "web-1")
            wait_until(shows(8000, 8002), 20, "one less")
            consul.put("web", "web-0", node="n-web", address="127.0.0.9", port=8000, status="critical")
            consul.put("web", "web-5", node="n-web", address="127.0.0.9", port=8005)
            wait_until(shows(8002, 8005), 20, "the sound ones")

            chaos.refuse()
            time.sleep(1)

            assert serving(haproxy) == [8002, 8005]

            chaos.rewrite(body="[]")
            wait_until(shows(), 20, "nothing at all")
            chaos.pass_through()
            chaos.reset_all()
            wait_until(shows(8002, 8005), 20, "the servers again")


# The suite


def test_the_fault_suite_runs_when_it_is_named_and_its_quick_part_always(work: Path) -> None:
    suite = work / "tests" / "faults"
    suite.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "faults" / "conftest.py", suite)
    (work / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers =\n    faults: x\n    quick: x\n")
    (suite / "test_it.py").write_text(
        "import pytest\n\ndef test_long(): pass\n\n@pytest.mark.quick\ndef test_quick(): pass\n"
    )
    (work / "tests" / "test_other.py").write_text("def test_other(): pass\n")

    def run(*arguments: str) -> tuple[str, ...]:
        command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rp", *arguments)
        said = subprocess.run(command, cwd=work, capture_output=True, text=True, check=True, timeout=110).stdout
        return tuple(sorted(line.rpartition("_")[2] for line in said.splitlines() if line.startswith("PASSED")))

    assert run() == run("tests", "-n2") == ("other", "quick")
    assert run("tests/faults", "-n2") == run("-m", "faults") == ("long", "quick")
    assert run("tests/faults/test_it.py::test_long") == ("long",)

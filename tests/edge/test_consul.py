"""Our transport under python-consul2: TCP, TLS and unix sockets, timeouts that end, errors that say what to do."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import attrs
import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul import read as reader
from hapsync.consul.client import ConsulClient, bytes_for
from hapsync.consul.endpoint import Endpoints, read_token
from hapsync.consul.health import parse_reading
from hapsync.consul.query import Query
from hapsync.consul.read_once import read_catalog
from hapsync.consul.watch import Watches
from hapsync.errors import CatalogError, TooLarge
from hapsync.model.catalog import Doubt, Instance, Reading
from hapsync.model.server import Address, CheckStatus
from tests.edge.fake_consul import entries
from tests.harness.chaos import HEALTH, Chaos
from tests.harness.consul import Consul
from tests.harness.ports import free_port, free_ports
from tests.harness.processes import Process, wait_until
from tests.harness.tools import consul_path, unused_consul_ports

HURRIED_SECONDS = 0.5
"""For those whose answer does not come in time; whatever comes has all the time that a busy machine needs."""


@contextmanager
def nonsense(
    answer: Callable[[http.server.BaseHTTPRequestHandler], None], timeout_seconds: float = 20.0
) -> Iterator[ConsulConfig]:
    """An HTTP server in Consul's place; it passes `test_the_fake_gives_what_consul_gives` like the real one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield ConsulConfig(address=f"http://127.0.0.1:{server.server_port}", timeout_seconds=timeout_seconds)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(
    status: int, body: bytes, length: int | None = None
) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("X-Consul-Index", "7")
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = length is not None

    return answer


def check_contract(config: ConsulConfig) -> None:
    with ConsulClient(config) as agent:
        answer = agent.read_health("nosuch", Query("default"))

    assert (answer.code, parse_reading("nosuch", answer.body).instances) == (200, ())
    assert int(answer.headers["x-consul-index"]) >= 1


def test_the_fake_gives_what_consul_gives(shared_consul: Consul) -> None:
    check_contract(ConsulConfig(address=shared_consul.url))
    with nonsense(reply(200, b"[]")) as config:
        check_contract(config)


def test_the_environment_changes_nothing(shared_consul: Consul, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "a:b:c:d")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    check_contract(ConsulConfig(address=shared_consul.url))

    assert os.environ["CONSUL_HTTP_SSL"] == "true"


def test_a_token_goes_in_the_header_and_nowhere_else(tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        seen.append((handler.path, handler.headers["X-Consul-Token"]))
        reply(200, b"[]")(handler)

    token_file = tmp_path / "token"
    token_file.write_text("s3cret\n")
    with nonsense(answer) as config, ConsulClient(attrs.evolve(config, token_file=str(token_file))) as agent:
        agent.read_health("web", Query("stale"))

    assert seen == [("/v1/health/service/web?stale=", "s3cret")]


def test_a_unix_socket_is_spoken_to_as_well(work: Path) -> None:
    path = work / "consul.sock"
    with Consul(work, config={"addresses": {"http": f"127.0.0.1 unix://{path}"}}) as consul:
        consul.put("web", "w1", node="n1", address="10.0.0.1", port=80)
        config = ConsulConfig(address=f"unix://{path}")

        with ConsulClient(config) as agent:
            answer = agent.read_health("web", Query("cached"))

    assert [one.instance_id for one in parse_reading("web", answer.body).instances] == ["w1"]
    assert config.is_local


def test_tls_is_verified_and_a_client_certificate_shown(work: Path) -> None:
    for command in (["ca", "create"], ["cert", "create", "-server"], ["cert", "create", "-client"]):
        subprocess.run([consul_path(), "tls", *command], cwd=work, check=True, capture_output=True)
    port, plain, serf, server = free_ports(4)
    settings = {
        "ports": {
            "http": plain,
            "https": port,
            "serf_lan": serf,
            "server": server,
            **unused_consul_ports("dns", "serf_wan"),
        },
        "ca_file": str(work / "consul-agent-ca.pem"),
        "cert_file": str(work / "dc1-server-consul-0.pem"),
        "key_file": str(work / "dc1-server-consul-0-key.pem"),
        "verify_incoming_https": True,
    }
    (work / "tls.json").write_text(json.dumps(settings))
    process = Process(
        [consul_path(), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", f"-config-file={work}/tls.json"],
        work / "consul.log",
    )
    try:
        config = ConsulConfig(
            address=f"https://localhost:{port}",
            ca_file=str(work / "consul-agent-ca.pem"),
            cert_file=str(work / "dc1-client-consul-0.pem"),
            key_file=str(work / "dc1-client-consul-0-key.pem"),
        )

        def has_leader() -> bool:
            with ConsulClient(config) as agent:
                return bool(agent.read_leader())

        wait_until(has_leader, 20, "a leader over TLS", process=process)
        check_contract(config)
        with pytest.raises(CatalogError, match="ertificate"):
            check_contract(ConsulConfig(address=config.address, ca_file=config.ca_file))
        with pytest.raises(CatalogError, match=r"not signed by any CA in consul\.ca_file"):
            check_contract(ConsulConfig(address=config.address))
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply(500, b"No cluster leader"), "answered 500: No cluster leader"),
        (reply(403, b"ACL not found"), "service_prefix"),
        (reply(429, b"Your IP is issuing too many"), "http_max_conns_per_client"),
        (reply(200, b"[{", length=500), "broke off"),
        (lambda handler: handler.wfile.write(b"\x00\x01garbage\r\n\r\n"), "nonsense"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "closed the connection"),
        (lambda _handler: time.sleep(1.5), "gave no answer in time"),
    ],
)
def test_whatever_is_not_a_whole_answer_is_an_error_that_says_so(
    answer: Callable[[http.server.BaseHTTPRequestHandler], None], said: str
) -> None:
    timeout_seconds = HURRIED_SECONDS if "in time" in said else 20.0
    with (
        nonsense(answer, timeout_seconds) as config,
        ConsulClient(config) as agent,
        pytest.raises(CatalogError, match=said),
    ):
        agent.read_health("web", Query("cached"))


def test_nobody_listening_is_said_so() -> None:
    config = ConsulConfig(address=f"http://127.0.0.1:{free_port()}")

    with ConsulClient(config) as agent, pytest.raises(CatalogError, match="refuses the connection"):
        agent.read_health("web", Query("cached"))


def test_a_host_name_that_can_be_none_is_said_so() -> None:
    config = ConsulConfig(address=f"http://{'a' * 70}.example")

    with ConsulClient(config) as agent, pytest.raises(CatalogError, match="is no host name"):
        agent.read_health("web", Query("cached"))


def test_a_blocking_query_may_be_held_longer_than_the_timeout_of_a_plain_one(shared_consul: Consul) -> None:
    shared_consul.put("held", "h1", node="n1", address="10.0.0.1", port=80)
    with ConsulClient(ConsulConfig(address=shared_consul.url, timeout_seconds=1.5)) as agent:
        index = int(agent.read_health("held", Query("default")).headers["x-consul-index"])
        begin = time.monotonic()

        answer = agent.read_health("held", Query("default", index=index, wait_seconds=3))

    assert answer.code == 200
    assert time.monotonic() - begin > 2.9


def test_a_blocked_query_ends_at_once_when_it_is_aborted(shared_consul: Consul) -> None:
    shared_consul.put("aborted", "a1", node="n1", address="10.0.0.1", port=80)
    with ConsulClient(ConsulConfig(address=shared_consul.url)) as agent:
        index = int(agent.read_health("aborted", Query("default")).headers["x-consul-index"])
        timer = threading.Timer(0.2, agent.abort)
        timer.start()
        begin = time.monotonic()

        with pytest.raises(CatalogError):
            agent.read_health("aborted", Query("default", index=index, wait_seconds=60))

    assert time.monotonic() - begin < 10


def test_a_sweep_reads_all_services_and_says_which_it_could_not() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        bad = "/bad" in handler.path
        reply(500 if bad else 200, b"[]")(handler)

    with nonsense(answer) as config:
        catalog, errors = read_catalog(config, ("a", "bad", "c"))

    assert (sorted(catalog.readings), sorted(errors)) == (["a", "c"], ["bad"])


def test_a_service_name_cannot_change_the_question() -> None:
    seen: list[str] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        seen.append(handler.path)
        reply(200, b"[]")(handler)

    with nonsense(answer) as config, ConsulClient(config) as agent:
        agent.read_health("a/b?stale c%", Query("default"))

    assert seen == ["/v1/health/service/a%2Fb%3Fstale%20c%25"]


def test_an_answer_that_drips_is_given_up_after_the_timeout() -> None:
    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        reply(200, b"[", length=1000)(handler)
        for _ in range(40):
            time.sleep(0.1)
            try:
                handler.wfile.write(b" ")
            except OSError:
                return

    with nonsense(drip, HURRIED_SECONDS) as config, ConsulClient(config) as agent:
        begin = time.monotonic()
        with pytest.raises(CatalogError, match="gave no answer in time"):
            agent.read_health("web", Query("stale"))

    assert time.monotonic() - begin < 3


DRIPS = {
    "a status line": b"HTTP/1.1 200 O",
    "a header": b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nX-",
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 ",
    "the size of a chunk": b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    "a chunk": b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n",
    "what follows the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-",
    "a body without a size": b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nConnection: close\r\n\r\n",
}


def dripping(
    begin: bytes, seconds: float, given_up: list[bool] | None = None
) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """Answer `begin` at once and then a byte every 50 ms, for `seconds` or until the client hangs up (`given_up`)."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(begin)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
            try:
                handler.wfile.write(b"1")
            except OSError:
                if given_up is not None:
                    given_up.append(True)
                return

    return answer


@pytest.mark.parametrize("what", DRIPS)
def test_an_answer_has_one_deadline_whatever_part_of_it_drips(what: str) -> None:
    given_up: list[bool] = []
    with nonsense(dripping(DRIPS[what], 5, given_up), HURRIED_SECONDS) as config, ConsulClient(config) as agent:
        with pytest.raises(CatalogError, match="gave no answer in time"):
            agent.read_health("web", Query("stale"))
        wait_until(lambda: given_up, 10, "the agent to see that nobody reads on")


def test_a_blocking_query_whose_answer_has_begun_has_no_more_time_than_any_other() -> None:
    with (
        nonsense(dripping(DRIPS["a header"], 5), HURRIED_SECONDS) as config,
        ConsulClient(config) as agent,
        pytest.raises(CatalogError, match="gave no answer in time"),
    ):
        agent.read_health("web", Query("stale", index=7, wait_seconds=300))


def test_a_consul_that_drips_is_given_up_for_the_fallback() -> None:
    known = Reading("web", (Instance("", "", Address("10.0.0.9", 9), CheckStatus.PASSING),), doubt=Doubt.FALLBACK)
    with nonsense(dripping(DRIPS["a header"], 60), HURRIED_SECONDS) as config:
        watches = Watches(config, lambda _service: None, {"web": known})
        watches.follow(["web"])
        try:
            wait_until(lambda: watches.catalog().readings.get("web") == known, 20, "the fallback to be used")
        finally:
            watches.stop()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_large_answer_comes_whole_and_the_connection_serves_again(is_chunked: bool) -> None:  # noqa: FBT001
    body = b"[" + b" " * 5_000_000 + b"]"

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        if not is_chunked:
            reply(200, body)(handler)
            return
        handler.send_response(200)
        handler.send_header("X-Consul-Index", "7")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for at in range(0, len(body), 700_000):
            chunk = body[at : at + 700_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        handler.wfile.write(b"0\r\n\r\n")

    with nonsense(answer) as config, ConsulClient(attrs.evolve(config, timeout_seconds=10)) as agent:
        for _ in range(3):
            assert agent.read_health("web", Query("stale")).body == body
            assert agent.is_open


@pytest.mark.parametrize(("wait_seconds", "asked"), [(0.0, ["/web", "/api", "/api"]), (5.0, ["/web", "/api"])])
def test_a_kept_connection_that_breaks_is_tried_once_more_but_never_under_a_blocking_query(
    wait_seconds: float, asked: list[str]
) -> None:
    seen: list[str] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        seen.append("/" + handler.path.partition("?")[0].rsplit("/", 1)[1])
        if seen[1:] == ["/api"]:
            handler.close_connection = True
        else:
            reply(200, b"[]")(handler)

    with nonsense(answer) as config, ConsulClient(config) as agent:
        agent.read_health("web", Query("stale"))
        if wait_seconds:
            with pytest.raises(CatalogError, match="closed the connection"):
                agent.read_health("api", Query("stale", index=7, wait_seconds=wait_seconds))
        else:
            agent.read_health("api", Query("stale"))

    assert seen == asked


def test_an_agent_that_keeps_no_connection_is_asked_on_a_new_one_each_time() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("X-Consul-Index", "7")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"[]")

    with nonsense(answer) as config, ConsulClient(config) as agent:
        for _ in range(3):
            assert agent.read_health("web", Query("stale")).body == b"[]"
            assert not agent.is_open


def test_a_canary_is_asked_for_in_the_same_datacenter_with_the_same_token() -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        seen.append((handler.path, handler.headers["X-Consul-Token"]))
        reply(200, b"[]")(handler)

    with nonsense(answer) as config:
        read_catalog(attrs.evolve(config, token="s3cret", datacenter="dc7"), ("web",))

    assert seen == [
        ("/v1/health/service/web?stale=&dc=dc7", "s3cret"),
        ("/v1/health/service/consul?stale=&dc=dc7", "s3cret"),
    ]


@pytest.mark.parametrize("text", ["", "\n", "\ns3cret\n", "  \n"])
def test_a_token_file_without_a_token_is_an_error_and_never_no_token(tmp_path: Path, text: str) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(text)

    with pytest.raises(CatalogError, match="no token"):
        read_token(ConsulConfig(token_file=str(token_file)))


def test_a_renewed_certificate_is_used_without_a_restart(work: Path) -> None:
    def make(name: str) -> None:
        subprocess.run(
            [consul_path(), "tls", "ca", "create", "-domain", name], cwd=work, check=True, capture_output=True
        )
        command = ("tls", "cert", "create", "-client", "-domain", name, "-ca", f"{name}-agent-ca.pem")
        subprocess.run(
            [consul_path(), *command, "-key", f"{name}-agent-ca-key.pem"], cwd=work, check=True, capture_output=True
        )

    make("one")
    make("two")
    for file in ("cert.pem", "key.pem"):
        (work / file).write_bytes((work / f"dc1-client-one-0{'-key' if 'key' in file else ''}.pem").read_bytes())
    config = ConsulConfig(
        address="https://localhost:1", cert_file=str(work / "cert.pem"), key_file=str(work / "key.pem")
    )
    where = Endpoints(config)
    first = where.current()
    assert where.current() == first

    (work / "cert.pem").write_bytes((work / "dc1-client-two-0.pem").read_bytes())
    with pytest.raises(CatalogError, match="cert_file"):
        where.current()
    (work / "key.pem").write_bytes((work / "dc1-client-two-0-key.pem").read_bytes())

    assert where.current() != first
    with pytest.raises(CatalogError, match=r"key_file /.*/nosuch: No such file"):
        Endpoints(attrs.evolve(config, key_file=str(work / "nosuch")))


@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_answer_is_read_as_far_as_max_servers_can_need_and_no_further(is_chunked: bool) -> None:  # noqa: FBT001
    size = bytes_for(10) + 1
    sent: list[int] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("X-Consul-Index", "7")
        handler.send_header(*("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(size)))
        handler.end_headers()
        piece = b" " * 2**16
        try:
            for _ in range(0, size * 4, len(piece)):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
                sent.append(len(piece))
        except OSError:
            handler.close_connection = True

    with (
        nonsense(answer) as config,
        ConsulClient(attrs.evolve(config, timeout_seconds=30)) as agent,
        pytest.raises(TooLarge, match="more than its max_servers can need"),
    ):
        agent.read_health("web", Query("stale"), max_servers=10)

    assert sum(sent) < size * 3


def test_a_service_with_far_too_many_instances_is_said_so_and_read_seldom_and_another_is_followed(work: Path) -> None:
    with Consul(work) as consul:
        consul.put("web", "w0", node="n1", address="10.0.0.1", port=1)
        for number in range(240):  # as large as thousands of usual ones
            service = {"Service": "big", "ID": f"b{number}", "Port": 1, "Tags": ["t" * 40_000]}
            node = {"Node": "n1", "Address": "10.0.0.1", "Service": service}
            consul.request("PUT", "/v1/catalog/register", node)
        with Chaos(work, consul.host, consul.port) as chaos:
            watches = Watches(ConsulConfig(address=chaos.url), lambda _service: None)
            watches.follow(["big", "web"], {"big": 1, "web": 1})
            try:
                wait_until(lambda: watches.states()["big"].error, 30, "the large answer to be refused")
                for port in range(2, 22):
                    consul.put("web", "w0", node="n1", address="10.0.0.1", port=port)
                    wait_until(
                        lambda port=port: watches.catalog().readings["web"].instances[0].address.port == port,  # type: ignore[misc]
                        30,
                        "a change of the other",
                    )
                error = watches.states()["big"].error
                asked = chaos.seen().asked
            finally:
                watches.stop()

    assert error is not None
    assert "larger than 8 MB" in error
    assert asked[f"{HEALTH}big"] <= 3
    assert asked[f"{HEALTH}web"] >= 20


@pytest.mark.parametrize("max_servers", [1, 4000])
def test_a_service_rests_after_a_large_answer_and_after_one_that_is_too_large(
    monkeypatch: pytest.MonkeyPatch, max_servers: int
) -> None:
    monkeypatch.setattr(reader, "LONGEST_REST_SECONDS", 3.0)
    monkeypatch.setattr(reader, "REST_FACTOR", 1e9)
    (entry,) = json.loads(entries(1))
    entry["Service"]["Tags"] = ["t" * bytes_for(1)]
    read_at: list[float] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        if "/big" not in handler.path:
            time.sleep(60)  # so that the watch of the servers has nothing to tell, and no service is read for that
            return
        read_at.append(time.monotonic())
        body = json.dumps([{**entry, "Read": len(read_at)}]).encode()
        handler.send_response(200)
        handler.send_header("X-Consul-Index", str(len(read_at)))
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(body)

    with nonsense(answer) as config:
        watches = Watches(attrs.evolve(config, canary="", timeout_seconds=30), lambda _service: None)
        watches.follow(["big"], {"big": max_servers})
        try:
            wait_until(lambda: len(read_at) >= 4, 60, "some reads")
        finally:
            watches.stop()

    rests = [after - before for before, after in pairwise(read_at)]
    assert sum(rest > 2.5 for rest in rests) >= 2

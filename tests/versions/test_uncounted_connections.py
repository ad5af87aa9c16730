"""Connections to servers that an HAProxy before 3.0 does not count: no client gets an instance that left by them."""

import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from hapsync.haproxy.capabilities import COUNTS_ALL, version_of
from tests.demo.fleet import HOST, Fleet, Member
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.processes import wait_until

OPTIONS = f'{NO_GUARD}\nscaling = "slots"'
CHECKS = "check inter 500ms"
REUSE = "    balance roundrobin\n"


class Negotiating(http.server.BaseHTTPRequestHandler):
    """Asks for `Negotiate` first, as a server with Kerberos does, and says which server it is."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = str(self.connection.getsockname()[1]).encode()
        is_known = "Authorization" in self.headers or self.path == "/healthcheck"
        self.send_response(200 if is_known else 401)
        if not is_known:
            self.send_header("WWW-Authenticate", "Negotiate")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        """Serve; a client that resets its connection is no error."""
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@contextmanager
def negotiating_server() -> Iterator[int]:
    """Serve on the port that is returned."""
    with http.server.ThreadingHTTPServer((HOST, 0), Negotiating) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(5)


class Client:
    """One that keeps its connection, as a browser does, and opens another where it is closed."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=10)

    def close(self) -> None:
        self._connection.close()

    def get(self, *, is_known: bool = True) -> int:
        """Return the port of the server that answered; 0 where it was HAProxy itself."""
        headers = {"Authorization": "Negotiate abc"} if is_known else {}
        for _ in range(2):
            try:
                self._connection.request("GET", "/", headers=headers)
                answer = self._connection.getresponse()
                body = answer.read()
            except (http.client.HTTPException, OSError):
                self._connection.close()
                continue
            return int(body) if answer.status in (200, 401) else 0
        return 0


@pytest.mark.parametrize("reuse", ["http-reuse safe", "http-reuse never"])
def test_a_client_with_a_connection_of_its_own_to_an_instance_that_left_gets_those_that_are_there(reuse: str) -> None:
    with ExitStack() as stack:
        stage = stack.enter_context(Stage({"web": 2}, backend_options=OPTIONS, server_options=CHECKS, agent=False))
        fleet = stack.enter_context(Fleet(stage))
        ports = [stack.enter_context(negotiating_server()) for _ in range(3)]
        client = stack.enter_context(closing(Client(stage.frontend_port)))
        template = stage.work / "haproxy.cfg.j2"
        text = template.read_text(encoding="utf-8")
        template.write_text(text.replace(REUSE, f"{REUSE}    {reuse}\n"), encoding="utf-8")
        for number, port in enumerate(ports[:2]):
            fleet.put(Member(f"web-{number}", "node-a", port))
        assert stage.hapsync("apply").returncode == 0
        stage.start_agent()
        wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "all to be in sync")
        reloads = stage.reloads()
        client.get(is_known=reuse == "http-reuse never")
        left = client.get()
        [stayed] = {*ports[:2]} - {left}

        stage.consul.remove("node-a", f"web-{ports.index(left)}")
        stage.wait_equal()
        fleet.put(Member("web-2", "node-a", ports[2]))
        stage.wait_equal(timeout_seconds=20)
        wait_until(lambda: ports[2] in {client.get() for _ in range(4)}, 15, "the newcomer to answer")
        answered = [client.get() for _ in range(40)]
        counts_all = version_of(stage.haproxy.info()["Version"]) >= COUNTS_ALL

        assert set(answered) == {stayed, ports[2]}
        assert stage.reloads() - reloads == (0 if counts_all else 1)


def test_a_slot_that_no_client_has_a_connection_to_is_used_again_without_a_reload() -> None:
    with Stage({"web": 2}, backend_options=OPTIONS) as stage, Fleet(stage) as fleet:
        members = [fleet.add(), fleet.add()]
        stage.wait_equal()
        for _ in range(3):
            fleet.remove(members.pop(0).name)
            stage.wait_equal()
            members.append(fleet.add())
            stage.wait_equal(timeout_seconds=20)

        assert stage.reloads() == 0
        assert "count all of its connections" not in stage.hapsync("check").stdout

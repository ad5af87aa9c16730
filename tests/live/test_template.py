"""What the shipped template does for clients, in a real HAProxy; its waits of seconds are made short."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.demo.stage import SHIPPED, adapted_template
from tests.harness.haproxy import HAProxy
from tests.harness.ports import free_ports
from tests.harness.processes import short_folder, wait_until

SHORT_MILLISECONDS = 2000
QUIET_SECONDS = 6.0
"""Several times the wait after which HAProxy would cut a connection that is no tunnel."""
# Key and answer are the example of RFC 6455, section 1.3; without a key HAProxy refuses the request.
ASKED = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@contextmanager
def a_websocket(work: Path) -> Iterator[tuple[HAProxy, socket.socket, socket.socket]]:
    """HAProxy with the shipped template, and the two ends of a WebSocket through it: the client's, the server's."""
    frontend, statistics = free_ports(2)
    haproxy = HAProxy(work / "haproxy.cfg", work)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        shipped = (SHIPPED / "haproxy.cfg.j2").read_text(encoding="utf-8")
        text = adapted_template(
            shipped, admin_socket=haproxy.socket_path, frontend_port=frontend, statistics_port=statistics
        )
        text, count = re.subn(r"(timeout [a-z-]+) 30s\n", rf"\1 {SHORT_MILLISECONDS}ms\n", text)
        assert count >= 2  # of clients and servers
        haproxy.config.write_text(
            text.replace('{{ servers("web") }}', f"server srv1 127.0.0.1:{listener.getsockname()[1]}")
        )
        with haproxy, socket.create_connection(("127.0.0.1", frontend), timeout=20) as client:
            client.sendall(ASKED)
            server, _ = listener.accept()
            with server:
                server.settimeout(20)
                assert server.recv(65536).startswith(b"GET / ")
                server.sendall(SWITCHED)
                assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
                yield haproxy, client, server


@pytest.fixture
def work() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def test_a_websocket_outlives_a_silence_that_is_longer_than_a_response_may_take(work: Path) -> None:
    with a_websocket(work) as (_, client, server):
        time.sleep(QUIET_SECONDS)
        server.sendall(b"to the client")
        assert client.recv(65536) == b"to the client"
        client.sendall(b"to the server")
        assert server.recv(65536) == b"to the server"


def test_a_websocket_whose_client_has_left_is_ended_also_where_the_server_does_not_close_it(work: Path) -> None:
    with a_websocket(work) as (haproxy, client, _):
        client.close()
        wait_until(lambda: haproxy.stat("public")["FRONTEND"]["scur"] == "0", 20, "HAProxy to end it")

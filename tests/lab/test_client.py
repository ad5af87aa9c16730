"""The clients account for every request, by what became of it."""

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from tests.harness.ports import free_port
from tests.lab import client as module
from tests.lab.client import KINDS, Sent, Traffic, _Clients

HOST = "127.0.0.1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nme:80"
Answer = Callable[[asyncio.StreamWriter], None]


def sends(data: bytes, *, then_closes: bool = False, then_resets: bool = False) -> Answer:
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if then_resets:
            # Without lingering a close is a reset.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif then_closes:
            writer.close()

    return answer


def sent_to(answer: Answer | None, traffic: Traffic) -> Sent:
    """What clients account for in 0.3 s, whose server does `answer` to each request; None: there is no server."""

    async def main() -> Sent:
        port = free_port()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (line := await reader.readline()) and answer is not None:
                if line == b"\r\n":
                    answer(writer)
            writer.close()

        server = None if answer is None else await asyncio.start_server(serve, HOST, port, backlog=1024)
        clients = _Clients(host=HOST, port=port, traffic=traffic, rate=500)
        clients.start()
        await asyncio.sleep(0.3)
        sent = await clients.stop()
        if server is not None:
            server.close()
        return sent

    return asyncio.run(main())


@pytest.mark.parametrize("traffic", ["new", "kept"])
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("answered", sends(OK)),
        ("refused", None),
        ("reset", sends(b"", then_resets=True)),
        ("cut", sends(b"", then_closes=True)),
        ("cut", sends(OK[:-1], then_closes=True)),
        ("timeout", sends(OK[:-1])),
        ("5xx", sends(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")),
        ("other", sends(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")),
        ("other", sends(b"no HTTP at all\r\n\r\n")),
    ],
)
def test_every_request_is_of_the_kind_of_what_became_of_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, answer: Answer | None, traffic: Traffic
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.3)
    sent = sent_to(answer, traffic)

    assert sent.begun == len(sent.requests) > 0
    assert sent.kinds() == {**dict.fromkeys(KINDS, 0), kind: sent.begun}
    assert {request.origin for request in sent.requests} == {"me:80" if kind == "answered" else ""}


def test_a_connection_that_is_closed_between_two_requests_costs_none_but_is_counted() -> None:
    sent = sent_to(sends(OK, then_closes=True), "kept")

    assert sent.begun > 32
    assert sent.kinds()["answered"] == sent.begun
    assert sent.closed_idle > 0


def test_a_kept_connection_is_used_again_and_another_is_not() -> None:
    connections = set()

    def answer(writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        writer.write(OK)

    kept = sent_to(answer, "kept")
    assert len(connections) == 32 < kept.begun
    connections.clear()
    new = sent_to(answer, "new")
    assert len(connections) == new.begun

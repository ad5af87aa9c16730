"""The lab's servers: what leaves in good order lets what is under way end, and what dies does not."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.control import Helper, HelperError
from tests.harness.origins import Origins
from tests.harness.ports import free_port
from tests.lab.serving import HOST, kinds, target
from tests.lab.traffic.dialogues import Tcp
from tests.lab.traffic.http1 import Kept, New, Pipelined
from tests.lab.traffic.senders import Senders
from tests.lab.traffic.sent import Sent
from tests.lab.traffic.transfers import MOST_STEPS, STEP_BYTES, STEP_SECONDS, Downloads, Uploads
from tests.lab.traffic.websocket import WebSocket

ALL: tuple[type[Senders], ...] = (New, Kept, Pipelined, Downloads, Uploads, WebSocket, Tcp)


class LabOrigins(Origins):
    def __init__(self, work: Path) -> None:
        self._helper = Helper("tests.lab.origins", work)


@pytest.fixture
def origins(work: Path) -> Iterator[LabOrigins]:
    with LabOrigins(work) as started:
        yield started


def sent_while(origins: LabOrigins, work: Path, act: str, *, then_seconds: float) -> dict[type[Senders], Sent]:
    """All traffic (no TLS: that is HAProxy's) to one origin, which does `act` after half a second."""
    port = free_port()
    name = origins.open(HOST, port)

    async def main() -> dict[type[Senders], Sent]:
        senders = [kind(target(work, port)) for kind in ALL]
        for one in senders:
            one.start()
        await asyncio.sleep(0.5)
        getattr(origins, act)(HOST, port)
        await asyncio.sleep(then_seconds)
        return {type(one): await one.stop() for one in senders}

    sent = asyncio.run(main())
    assert {request.origin for one in sent.values() for request in one.requests} == {name, ""}
    assert origins.counts()[name] > 0
    return sent


def test_an_origin_that_leaves_lets_what_is_under_way_end_and_asks_those_to_go_who_would_stay(
    origins: LabOrigins, work: Path
) -> None:
    sent = sent_while(origins, work, "close", then_seconds=MOST_STEPS * STEP_SECONDS)

    for kind, one in sent.items():
        # After it has left, the connections of all are refused; until then all is answered, but for a request that
        # crosses the end of its idle connection, and a connection that nobody had accepted yet.
        crossed = [request for request in one.requests if request.kind not in {"answered", "refused"}]
        assert len(crossed) <= (0 if kind in {Downloads, Uploads, WebSocket} else 4), (kind, kinds(one))
        answered = [request for request in one.requests if request.kind == "answered"]
        assert answered, kind
        if kind in {Downloads, Uploads}:
            assert max(request.seconds for request in answered) > 2, "none was under way"
            assert all(request.bytes == request.of_bytes for request in answered)
    assert sent[WebSocket].closed_idle > 0
    assert sent[Tcp].closed_idle > 0


def test_an_origin_that_dies_resets_what_is_under_way(origins: LabOrigins, work: Path) -> None:
    sent = sent_while(origins, work, "abort", then_seconds=0.5)

    for kind in (Downloads, Uploads, WebSocket, Tcp):
        assert sent[kind].kinds()["reset"] > 0, kind
    assert sent[WebSocket].closed_idle == 0


def test_what_is_asked_for_once_a_download_is_there_does_not_wait(origins: LabOrigins) -> None:
    port = free_port()
    origins.open(HOST, port)
    with socket.create_connection((HOST, port), timeout=5) as connection, connection.makefile("rb") as answers:
        connection.sendall(b"GET /download?bytes=%d HTTP/1.1\r\n\r\n" % (2 * STEP_BYTES))
        while answers.readline() != b"\r\n":
            pass
        assert len(answers.read(2 * STEP_BYTES)) == 2 * STEP_BYTES
        begun = time.monotonic()
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
        seconds = time.monotonic() - begun

    assert seconds < 0.8 * STEP_SECONDS


def test_one_that_is_not_there_cannot_leave(origins: LabOrigins) -> None:
    with pytest.raises(HelperError, match="KeyError"):
        origins.close(HOST, 1)

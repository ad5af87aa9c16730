"""Each message on a long connection is accounted for, and so is the next where the connection broke between two."""

import asyncio
import random
from collections.abc import Callable

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, Request, TextMessage

from tests.lab.serving import Serve, kinds, only, reset, sent_by
from tests.lab.traffic.dialogues import FAREWELL, Talking, Tcp
from tests.lab.traffic.websocket import WebSocket

Say = Callable[[str], None]
Takes = Callable[[asyncio.StreamWriter, Say, str, int], None]
"""What becomes of the message of that number: of its writer, what says something to it, and its text."""


class LongTcp(Tcp):
    async def client(self, number: int, chance: random.Random) -> None:
        await super().client(2 * number + 1, chance)


class ShortTcp(Tcp):
    async def client(self, number: int, chance: random.Random) -> None:
        await super().client(2 * number, chance)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lab.traffic.dialogues.EVERY_SECONDS", 0.01)


def echoes(writer: asyncio.StreamWriter, say: Say, text: str, number: int) -> None:  # noqa: ARG001
    say(f"me:80 {text}")


def closes(writer: asyncio.StreamWriter, say: Say, text: str, number: int) -> None:  # noqa: ARG001
    writer.close()


def resets(writer: asyncio.StreamWriter, say: Say, text: str, number: int) -> None:  # noqa: ARG001
    reset(writer)


def is_silent(writer: asyncio.StreamWriter, say: Say, text: str, number: int) -> None:
    """It says nothing."""


def lies(writer: asyncio.StreamWriter, say: Say, text: str, number: int) -> None:  # noqa: ARG001
    say("me:80 something else")


def echoes_then(does: Takes) -> Takes:
    """Answers the first, and only then `does` something."""

    def takes(writer: asyncio.StreamWriter, say: Say, text: str, number: int) -> None:
        echoes(writer, say, text, number)
        if number == 1:
            does(writer, say, text, number)

    return takes


def asks_to_leave(writer: asyncio.StreamWriter, say: Say, text: str, number: int) -> None:  # noqa: ARG001
    say(FAREWELL)


def ends(writer: asyncio.StreamWriter, say: Say, text: str, number: int) -> None:  # noqa: ARG001
    writer.write(b"\x88\x02\x03\xe9")  # a WebSocket's Close, with the status "going away"


def serving(traffic: type[Talking], takes: Takes) -> Serve:
    async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while not writer.is_closing():
            line = await reader.readuntil(b"\n")
            number += 1
            takes(writer, lambda said: writer.write(f"{said}\n".encode()), line.decode()[5:-1], number)

    async def websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = WSConnection(ConnectionType.SERVER)
        number = 0
        while data := await reader.read(1000):
            protocol.receive_data(data)
            for event in protocol.events():
                match event:
                    case Request():
                        writer.write(protocol.send(AcceptConnection(extra_headers=[(b"X-Origin", b"me:80")])))
                    case TextMessage():
                        number += 1
                        takes(writer, lambda said: writer.write(protocol.send(TextMessage(said))), event.data, number)
                    case CloseConnection():
                        writer.write(protocol.send(event.response()))
                        return
                    case _:
                        pass

    return websocket if traffic is WebSocket else lines


@pytest.mark.parametrize("traffic", [WebSocket, LongTcp, ShortTcp])
@pytest.mark.parametrize(
    ("kind", "takes"),
    [
        ("answered", echoes),
        ("reset", resets),
        ("cut", closes),
        ("timeout", is_silent),
        ("other", lies),
    ],
)
def test_every_message_is_of_the_kind_of_what_became_of_it(kind: str, takes: Takes, traffic: type[Talking]) -> None:
    sent = sent_by(traffic, serving(traffic, takes))

    if traffic is WebSocket:
        # Its handshakes are requests, and are answered whatever becomes of the messages.
        assert set(kinds(sent)) == {"answered", kind}
    else:
        assert only(sent, kind)
    assert sent.closed_idle == 0


@pytest.mark.parametrize("traffic", [WebSocket, LongTcp, ShortTcp])
def test_what_nobody_listens_to_is_refused(traffic: type[Talking]) -> None:
    assert only(sent_by(traffic, None), "refused")


@pytest.mark.parametrize("traffic", [WebSocket, LongTcp])
@pytest.mark.parametrize(("kind", "does"), [("cut", closes), ("reset", resets)])
def test_a_connection_that_breaks_between_two_messages_costs_the_next(
    kind: str, does: Takes, traffic: type[Talking]
) -> None:
    sent = sent_by(traffic, serving(traffic, echoes_then(does)))

    # Of each connection: its beginning, its one message (over lines these are one), and what was lost with it.
    found = kinds(sent)
    assert set(found) == {"answered", kind}
    each = found["answered"] / (2 if traffic is WebSocket else 1)
    assert found[kind] == pytest.approx(each, abs=4)


@pytest.mark.parametrize(
    ("traffic", "does"), [(WebSocket, asks_to_leave), (WebSocket, ends), (LongTcp, asks_to_leave)]
)
def test_a_server_that_asks_to_leave_costs_nothing_and_is_left(traffic: type[Talking], does: Takes) -> None:
    sent = sent_by(traffic, serving(traffic, echoes_then(does)))

    assert only(sent, "answered")
    assert sent.closed_idle > 4
    assert sent.longest_seconds < 0.1


@pytest.mark.parametrize("traffic", [WebSocket, LongTcp])
def test_a_connection_that_nobody_ends_is_kept_and_its_messages_know_when_it_was_made(traffic: type[Talking]) -> None:
    sent = sent_by(traffic, serving(traffic, echoes))

    assert sent.longest_seconds > 0.1
    made = {request.connected for request in sent.requests if request.connected is not None}
    assert len(made) == 4
    assert {request.origin for request in sent.requests} == {"me:80"}


def test_half_of_the_clients_of_lines_make_a_connection_for_each() -> None:
    sent = sent_by(Tcp, serving(Tcp, echoes))

    made = [request.connected for request in sent.requests if request.connected is not None]
    assert len(set(made)) == 2 < len(made)
    # The first line of a connection is one that was made for it.
    assert sum(request.connected is None for request in sent.requests) > 4


@pytest.mark.parametrize(("status", "kind"), [(503, "5xx"), (404, "other")])
def test_a_handshake_that_is_rejected_is_of_the_kind_of_its_status(status: int, kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = WSConnection(ConnectionType.SERVER)
        protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        writer.write(protocol.send(RejectConnection(status_code=status, headers=[(b"Content-Length", b"0")])))
        await reader.read()

    assert only(sent_by(WebSocket, serve), kind)

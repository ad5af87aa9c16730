"""Clients that send short requests account for every one, by what became of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.lab.serving import Serve, kinds, only, reset, sent_by
from tests.lab.traffic.http1 import Asking, Kept, New, Pipelined, Tls
from tests.lab.traffic.sent import Sent

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Origin: me:80\r\n\r\nme:80"
OLD = OK.replace(b"HTTP/1.1", b"HTTP/1.0")
LAST = OK.replace(b"X-Origin", b"Connection: close\r\nX-Origin")
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nX-Origin: me:80\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nX-Origin: me:80\r\nContent-Length: 0\r\n\r\n"


def answers(data: bytes, then: Callable[[asyncio.StreamWriter], None] | None = None, after: int = 1) -> Serve:
    """Each request with `data`; and `then` something else, `after` so many of them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while not writer.is_closing():
            await reader.readuntil(b"\r\n\r\n")
            count += 1
            writer.write(data)
            if then is not None and count == after:
                then(writer)

    return serve


def closes(writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("traffic", [New, Kept, Pipelined, Tls])
@pytest.mark.parametrize(
    ("kind", "serve"),
    [
        ("answered", answers(OK)),
        ("refused", None),
        ("reset", answers(b"", reset)),
        ("cut", answers(b"", closes)),
        ("cut", answers(OK[:-1], closes)),
        ("timeout", answers(OK[:-1])),
        ("5xx", answers(BUSY)),
        ("other", answers(NOT_FOUND)),
        ("other", answers(OK.replace(b"Origin: me", b"Origin: you"))),
        ("other", answers(b"no HTTP at all\r\n\r\n")),
    ],
)
def test_every_request_is_of_the_kind_of_what_became_of_it(
    kind: str, serve: Serve | None, traffic: type[Asking]
) -> None:
    sent = sent_by(traffic, serve, protocol="http/1.1" if traffic is Tls else None)

    if traffic is Pipelined and kind == "5xx":
        # Each is followed by three that the server says it has not taken up.
        assert kinds(sent) == {"5xx": sent.begun // 4, "unprocessed": sent.begun // 4 * 3}
    elif traffic is Pipelined and serve is not None and kind in {"cut", "timeout"}:
        # The next response begins where the end of this one should be.
        assert set(kinds(sent)) <= {kind, "other"}
    else:
        assert only(sent, kind)
    assert {request.origin for request in sent.requests} == {"me:80" if kind == "answered" else ""}


def test_a_connection_that_is_closed_between_two_requests_costs_none_but_is_counted() -> None:
    sent = sent_by(Kept, answers(OK, closes))

    assert only(sent, "answered")
    assert sent.begun > 4
    assert sent.closed_idle > 0


def connections_of(traffic: type[Asking], answer: bytes) -> tuple[int, Sent]:
    """How many connections were made, and what was sent on them."""
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        await answers(answer)(reader, writer)

    sent = sent_by(traffic, serve)
    return len(connections), sent


def test_a_kept_connection_is_used_again() -> None:
    connections, sent = connections_of(Kept, OK)

    assert connections == 4 < sent.begun
    assert 0.1 < sent.longest_seconds < 5


@pytest.mark.parametrize(("traffic", "answer"), [(New, OK), (Kept, LAST), (Kept, OLD), (Kept, NOT_FOUND)])
def test_a_connection_that_is_not_to_be_kept_or_failed_is_not_used_again(
    traffic: type[Asking], answer: bytes
) -> None:
    connections, sent = connections_of(traffic, answer)

    assert connections == sent.begun > 4
    assert sent.longest_seconds < 0.1


def test_the_longest_connection_may_have_been_the_first() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > 4:
            await answers(LAST)(reader, writer)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await answers(OK)(reader, writer)

    sent = sent_by(Kept, serve, seconds=0.2)
    assert connections > 8
    assert sent.longest_seconds > 0.09


def test_of_four_at_once_those_that_were_not_answered_before_the_connection_was_closed_are_cut() -> None:
    sent = sent_by(Pipelined, answers(OK, closes, after=2))

    assert kinds(sent) == {"answered": sent.begun // 2, "cut": sent.begun // 2}


@pytest.mark.parametrize("answer", [LAST, OLD])
def test_what_is_behind_a_response_that_says_close_was_not_processed(answer: bytes) -> None:
    sent = sent_by(Pipelined, answers(answer, closes))

    assert kinds(sent) == {"answered": sent.begun // 4, "unprocessed": sent.begun // 4 * 3}


def test_a_tls_connection_that_is_closed_during_its_handshake_is_reset_and_one_that_is_none_is_another() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await reader.read()

    assert only(sent_by(Tls, plain), "other")

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    assert only(sent_by(Tls, closing), "reset")

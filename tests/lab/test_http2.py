"""Each HTTP/2 stream is accounted for, also those that the server said it has not processed."""

import asyncio
from collections.abc import Callable

import pytest
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived

from tests.lab.serving import Serve, kinds, only, reset, sent_by
from tests.lab.traffic.http2 import DEPTH, Http2

Takes = Callable[[asyncio.StreamWriter, H2Connection, int], None]
"""What becomes of a stream."""


def serving(takes: Takes) -> Serve:
    """Each stream of a connection is taken by `takes`, once the first four are all there."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = H2Connection(H2Configuration(client_side=False))
        protocol.initiate_connection()
        streams: list[int] = []
        while data := await reader.read(65536):
            # After it has sent a GOAWAY itself, h2 takes and sends nothing more.
            protocol.state_machine.state = ConnectionState.SERVER_OPEN
            streams += [e.stream_id for e in protocol.receive_data(data) if isinstance(e, RequestReceived)]
            if len(streams) == DEPTH:
                for stream in streams:
                    takes(writer, protocol, stream)
                streams = []
            writer.write(protocol.data_to_send())

    return serve


def answers(status: int = 200, body: bytes = b"me:80\n") -> Takes:
    def takes(writer: asyncio.StreamWriter, protocol: H2Connection, stream: int) -> None:  # noqa: ARG001
        protocol.send_headers(stream, [(":status", str(status)), ("x-origin", "me:80")])
        protocol.send_data(stream, body, end_stream=True)

    return takes


def closes(writer: asyncio.StreamWriter, protocol: H2Connection, stream: int) -> None:  # noqa: ARG001
    writer.close()


def resets(writer: asyncio.StreamWriter, protocol: H2Connection, stream: int) -> None:  # noqa: ARG001
    reset(writer)


def is_silent(writer: asyncio.StreamWriter, protocol: H2Connection, stream: int) -> None:
    """It says nothing."""


def ends_streams(code: ErrorCodes) -> Takes:
    def takes(writer: asyncio.StreamWriter, protocol: H2Connection, stream: int) -> None:  # noqa: ARG001
        protocol.reset_stream(stream, code)

    return takes


def leaves_after(last: int) -> Takes:
    """Says, before it answers the streams up to the `last`, that it takes none above."""

    def takes(writer: asyncio.StreamWriter, protocol: H2Connection, stream: int) -> None:
        if stream == 1:
            protocol.close_connection(last_stream_id=last)
            protocol.state_machine.state = ConnectionState.SERVER_OPEN
        if stream <= last:
            answers()(writer, protocol, stream)

    return takes


@pytest.mark.parametrize(
    ("kind", "takes"),
    [
        ("answered", answers()),
        ("unprocessed", ends_streams(ErrorCodes.REFUSED_STREAM)),
        ("reset", ends_streams(ErrorCodes.INTERNAL_ERROR)),
        ("reset", resets),
        ("cut", closes),
        ("timeout", is_silent),
        ("5xx", answers(503)),
        ("other", answers(404)),
        ("other", answers(body=b"you:80\n")),
    ],
)
def test_every_stream_is_of_the_kind_of_what_became_of_it(kind: str, takes: Takes) -> None:
    sent = sent_by(Http2, serving(takes), protocol="h2")

    assert only(sent, kind)
    assert {request.origin for request in sent.requests} == {"me:80" if kind == "answered" else ""}


def test_streams_above_the_last_that_a_goaway_names_were_not_processed_and_the_others_are_answered() -> None:
    sent = sent_by(Http2, serving(leaves_after(3)), protocol="h2")

    assert kinds(sent) == {"answered": sent.begun // 2, "unprocessed": sent.begun // 2}


def test_a_goaway_that_names_no_stream_below_costs_none_and_the_next_are_sent_on_another_connection() -> None:
    sent = sent_by(Http2, serving(leaves_after(2**31 - 1)), protocol="h2")

    assert only(sent, "answered")
    assert sent.begun > 4 * DEPTH
    assert sent.longest_seconds < 0.1


def test_a_connection_is_used_again_until_something_went_wrong() -> None:
    assert sent_by(Http2, serving(answers()), protocol="h2").longest_seconds > 0.1
    assert sent_by(Http2, serving(answers(404)), protocol="h2").longest_seconds < 0.1


def test_a_connection_that_is_closed_between_two_times_costs_none_but_is_counted() -> None:
    def takes(writer: asyncio.StreamWriter, protocol: H2Connection, stream: int) -> None:
        answers()(writer, protocol, stream)
        if stream == 2 * DEPTH - 1:
            writer.write(protocol.data_to_send())
            writer.close()

    sent = sent_by(Http2, serving(takes), protocol="h2")

    assert only(sent, "answered")
    assert sent.closed_idle > 0


def test_a_server_that_speaks_another_protocol_or_is_not_there_is_found_out() -> None:
    assert only(sent_by(Http2, serving(answers()), protocol="http/1.1"), "other")
    assert only(sent_by(Http2, None), "refused")

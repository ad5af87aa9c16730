"""Long downloads and uploads are accounted for, with how far they came."""

import asyncio
from collections.abc import Callable

import pytest

from tests.lab.account import Account
from tests.lab.serving import Serve, kinds, only, reset, sent_by
from tests.lab.test_client import BUSY
from tests.lab.traffic import transfers
from tests.lab.traffic.sent import Sent
from tests.lab.traffic.transfers import Downloads, Uploads


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LEAST_STEPS", 4), ("MOST_STEPS", 4), ("STEP_SECONDS", 0.01)):
        monkeypatch.setattr(transfers, name, value)


def account(sent: Sent) -> Account:
    return Account.of(sent, lambda _name, _when: False)


def halfway(then: Callable[[asyncio.StreamWriter], None] | None) -> Serve:
    """Sends, or takes, half of the body, and `then` does something; or nothing more at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            half = int(head.partition(b"bytes=")[2].split()[0]) // 2
            writer.write(b"HTTP/1.1 200 OK\r\nX-Origin: me:80\r\nContent-Length: %d\r\n\r\n" % (2 * half))
            writer.write(b"." * half)
        else:
            half = int(head.partition(b"Content-Length: ")[2].split()[0]) // 2
            await reader.readexactly(half)
        await asyncio.sleep(0.05)
        if then is not None:
            then(writer)
        else:
            await reader.read()

    return serve


def whole(told: Callable[[int], int] = lambda length: length) -> Serve:
    """Sends, or takes, the whole; `told` is what is said of how long it is."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            body = b"." * told(int(head.partition(b"bytes=")[2].split()[0]))
        else:
            length = int(head.partition(b"Content-Length: ")[2].split()[0])
            await reader.readexactly(length)
            body = b"%d\n" % told(length)
        writer.write(b"HTTP/1.1 200 OK\r\nX-Origin: me:80\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        await reader.read()

    return serve


async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(BUSY)
    await reader.read()


@pytest.mark.parametrize("traffic", [Downloads, Uploads])
@pytest.mark.parametrize(
    ("kind", "serve"),
    [
        ("answered", whole()),
        ("refused", None),
        ("reset", halfway(reset)),
        ("cut", halfway(lambda writer: writer.close())),
        ("timeout", halfway(None)),
        ("5xx", busy),
        ("other", whole(lambda length: length - 1)),
    ],
)
def test_every_transfer_is_of_the_kind_of_what_became_of_it(
    kind: str, serve: Serve | None, traffic: type[Downloads | Uploads]
) -> None:
    sent = sent_by(traffic, serve, seconds=0.45)

    found = dict(kinds(sent))
    # At the end some are under way: those that have not failed until then.
    ended = found.pop("ended", 0)
    assert set(found) == {kind}
    assert ended <= 4
    one = account(sent)
    assert one.failed == (0 if kind == "answered" else found[kind])
    if kind == "answered":
        assert one.bytes >= sum(request.of_bytes for request in sent.requests if request.kind == "answered") > 0
        assert one.lost_at_fraction is None
    elif traffic is Downloads and kind in {"reset", "cut", "timeout"}:
        assert one.lost_at_fraction == 0.5
    elif traffic is Downloads:
        assert one.lost_at_fraction == 0
    else:
        assert one.lost_at_fraction is not None  # what was sent may not have come
        assert one.lost_at_fraction < 1 or kind != "5xx"  # which is an answer before the end


def test_what_is_under_way_at_the_end_is_ended_by_the_client_and_no_failure() -> None:
    sent = sent_by(Downloads, halfway(None), seconds=0.2)

    assert only(sent, "ended")
    one = account(sent)
    assert (one.failed, one.failures, one.lost_at_fraction) == (0, {}, None)
    assert one.bytes == sum(request.of_bytes for request in sent.requests) // 2

"""For the tests of the traffic: what clients account for whose server does what a test says."""

import asyncio
import socket
import ssl
import struct
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tests.harness.ports import free_port
from tests.lab.certificate import CERTIFICATE, make_certificate
from tests.lab.traffic.senders import Senders, Target
from tests.lab.traffic.sent import KINDS, Sent

HOST = "127.0.0.1"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What becomes of one connection; it is closed afterwards, if it is not yet."""


def target(folder: Path, port: int) -> Target:
    """Where one server listens for all kinds of traffic; its certificate is made in `folder`."""
    return Target(HOST, port, port, port, str(make_certificate(folder, HOST)))


def sent_by(
    kind: type[Senders],
    serve: Serve | None,
    *,
    protocol: str | None = None,
    seconds: float = 0.15,
    rate_fraction: float = 1.0,
) -> Sent:
    """What clients account for in so long, and until they have ended; None: there is no server.

    They are few, fast, and wait for 0.3 s at most; with `protocol`, in ALPN's words, the server speaks TLS.
    """
    fast = type(kind.__name__, (kind,), {"clients": 4, "pause_seconds": 0.01, "timeout_seconds": 0.3})

    is_over = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(OSError, EOFError):
            if is_over.is_set():
                return
            assert serve is not None
            await serve(reader, writer)
        writer.close()

    async def main() -> Sent:
        with tempfile.TemporaryDirectory() as folder:
            where = target(Path(folder), free_port())
            context = None
            if protocol is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(Path(folder) / CERTIFICATE)
                context.set_alpn_protocols([protocol])
            senders = fast(where, rate_fraction)
        server = None
        if serve is not None:
            server = await asyncio.start_server(handle, HOST, where.port, backlog=1024, ssl=context)
        senders.start()
        await asyncio.sleep(seconds)
        sent: Sent = await senders.stop()
        is_over.set()
        await asyncio.sleep(0.05)  # until connections are taken that were made at the last moment
        if server is not None:
            server.close()
            for writer in writers:
                writer.transport.abort()
        await asyncio.sleep(0.05)  # until nothing is open any more
        return sent

    return asyncio.run(main())


def only(sent: Sent, kind: str) -> bool:
    """Whether there are requests, all are accounted for, and all are of that kind."""
    return sent.begun == len(sent.requests) > 0 and kinds(sent) == {kind: sent.begun}


def kinds(sent: Sent) -> Mapping[str, int]:
    assert sent.begun == len(sent.requests)
    assert list(sent.kinds()) == list(KINDS)
    return {kind: count for kind, count in sent.kinds().items() if count}


def reset(writer: asyncio.StreamWriter) -> None:
    # Without lingering a close is a reset.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

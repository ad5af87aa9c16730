"""What wrk tells becomes an account, without what it does not know."""

import asyncio
import tempfile
from pathlib import Path

import pytest

from tests.harness.ports import free_port
from tests.lab.account import Account
from tests.lab.serving import HOST, Serve, target
from tests.lab.test_client import BUSY, OK, answers, closes
from tests.lab.traffic.wrk import Wrk


def account(serve: Serve, *, is_gone_after: bool = False) -> Account:
    """Of 0.4 s; the server stops listening in the middle of it, or not."""

    async def main() -> Account:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (OSError, EOFError):
                pass
            finally:
                writer.close()

        port = free_port()
        server = await asyncio.start_server(handle, HOST, port, backlog=1024)
        with tempfile.TemporaryDirectory() as folder:
            wrk = Wrk(target(Path(folder), port))
        await wrk.start()
        await asyncio.sleep(1.0)
        if is_gone_after:
            server.close()
        await asyncio.sleep(0.1)
        told = await wrk.stop()
        server.close()
        await asyncio.sleep(0.1)  # until nothing is open any more
        return Account.summed(told)

    return asyncio.run(main())


def test_requests_are_counted_with_how_long_they_took() -> None:
    one = account(answers(OK))

    assert one.requests == one.kinds["answered"] > 100
    assert 0 < one.p50_ms <= one.p99_ms <= one.p999_ms
    assert (one.failed, one.late, one.longest_seconds) == (0, 0, 0)


def test_an_answer_with_another_status_and_a_connection_that_is_closed_too_early_are_failures() -> None:
    busy = account(answers(BUSY))
    assert busy.failures == {"5xx": busy.requests}
    assert set(account(answers(OK[:-1], closes)).failures) == {"cut"}


def test_connections_that_are_refused_are_failures() -> None:
    assert account(answers(OK, closes), is_gone_after=True).failures["refused"] > 0


def test_a_wrk_that_found_nobody_at_its_start_tells_nothing() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            wrk = Wrk(target(Path(folder), free_port()))
        await wrk.start()
        await asyncio.sleep(2.0)
        with pytest.raises(OSError, match="wrk ended with 1: unable to connect to"):
            await wrk.stop()

    asyncio.run(main())

"""Real HTTP servers for HAProxy to balance: many addresses and ports, in one process of their own."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.control import Helper
from tests.harness.origin import Connection, Request, origin_name, serve_origins

DRIP_MS = 50


class Origins:
    """HTTP/1.1 servers that keep connections and answer every GET with 200 and their own name.

    A path that ends with /slow?ms=N is answered after N milliseconds, /drip?ms=N at once with a body that takes N
    milliseconds, a byte each 50, after which its connection is closed; /healthcheck is answered with 200 or 503, as
    `set_health` has it. Those that are opened after `certificate` is set speak TLS only, and after `is_behind_proxy`
    they need a line of the PROXY protocol first.
    """

    certificate: Path | None = None
    is_behind_proxy = False

    def __init__(self, work: Path) -> None:
        """Start the process that will hold the origins, logging to `work`."""
        self._helper = Helper("tests.harness.origins", work)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._helper.process.pid

    def open(self, host: str, port: int) -> str:
        """Start an origin and return its name; `HelperError` when its port is taken."""
        certificate = str(self.certificate or "")
        self._helper.ask("open", host=host, port=port, certificate=certificate, is_behind_proxy=self.is_behind_proxy)
        return origin_name(host, port)

    def close(self, host: str, port: int) -> None:
        """Stop listening, close idle connections, and close the others after the request they are at.

        Returns at once; `HelperError` when there is no such origin.
        """
        self._helper.ask("close", host=host, port=port)

    def abort(self, host: str, port: int) -> None:
        """Stop listening and reset all connections; `HelperError` when there is no such origin."""
        self._helper.ask("abort", host=host, port=port)

    def set_health(self, host: str, port: int, ok: bool) -> None:  # noqa: FBT001  # reads well at the call
        """Choose what /healthcheck answers; `HelperError` when there is no such origin."""
        self._helper.ask("set_health", host=host, port=port, ok=ok)

    def counts(self) -> dict[str, int]:
        """Requests so far by origin name, without those for /healthcheck; closed origins stay in."""
        counts: dict[str, int] = self._helper.ask("counts")["counts"]
        return counts

    def stop(self) -> None:
        """End them all, connections included; harmless when repeated."""
        self._helper.stop()


class _Connection(Connection):
    def answer(self, request: Request) -> None:
        milliseconds = int(request.query.removeprefix("ms=")) if request.query.startswith("ms=") else 0
        if request.path.endswith("/drip"):
            count = milliseconds // DRIP_MS
            self.is_last = True
            self.head("200 OK", count)
            self.drip(count)
        elif request.path.endswith("/slow"):
            asyncio.get_running_loop().call_later(milliseconds / 1000, self.respond, "200 OK", request.method)
        else:
            self.respond("200 OK", request.method)

    def drip(self, count: int) -> None:
        """Send a byte, and the `count` - 1 others later."""
        if self.transport.is_closing():
            return
        if count == 0:
            self.done()
            return
        self.transport.write(b".")
        asyncio.get_running_loop().call_later(DRIP_MS / 1000, self.drip, count - 1)


if __name__ == "__main__":
    serve_origins(_Connection)

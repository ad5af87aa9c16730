"""Proxies that misbehave on demand: between hapsync and Consul, and between hapsync and HAProxy's admin socket.

Each runs in a process of its own. It is in one mode at a time, changed while it runs; each method named after a fault
sets its mode, and `pass_through` ends it. Where `times` can be given, the mode passes everything after so many.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import frozen

from tests.harness.control import Helper
from tests.harness.ports import free_port

HEALTH = "/v1/health/service/"
"""What the paths of all reads of instances begin with; HEALTH + NAME is one service's, and its canary's too."""


@frozen
class Seen:
    """What came to a proxy since it started."""

    accepted: int  # connections
    open: int  # connections now, without those that are half open
    asked: Mapping[str, int]  # HTTP requests by path, without the query
    told: tuple[str, ...]  # commands to HAProxy, without `prompt`


class _Proxied:
    """What both proxies share."""

    def __init__(self, work: Path, kind: str, listen: tuple[object, ...], target: tuple[object, ...]) -> None:
        self._start = (work, kind, json.dumps(listen), json.dumps(target))
        self._helper: Helper | None = None

    def __enter__(self) -> Self:
        work, *arguments = self._start
        self._helper = Helper("tests.harness.proxy", work, *arguments)
        try:
            self.pass_through()
        except BaseException:
            self._helper.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._helper is not None:
            self._helper.stop()

    def pass_through(self) -> None:
        """Hand on every byte. Connections that are half open stay so; those that stall go on."""
        self._set("pass")

    def refuse(self) -> None:
        """Listen no more and reset what there is, like a program that was killed: "connection refused"."""
        self._set("refuse")

    def reset_new(self) -> None:
        """Reset each new connection at once; those there are go on."""
        self._set("reset_new")

    def half_open(self) -> None:
        """Take new connections and what is sent on them, and never answer; nothing comes on those there are.

        None of them is ever closed or comes back to life, as when a firewall has forgotten them.
        """
        self._set("half_open")

    def stall(self) -> None:
        """Let everything stand still, connections included, and lose nothing, as if the target were stopped."""
        self._set("stall")

    def full(self) -> None:
        """Accept no more, with the kernel's queue full.

        To connect then hangs, and fails with `EAGAIN` where a unix socket does not block.
        """
        self._set("full")

    def reset_all(self) -> None:
        """Reset all connections there are, half open ones too; the mode stays as it is."""
        self._asked("reset_all")

    def seen(self) -> Seen:
        """What came here so far, whatever became of it."""
        answer = self._asked("counts")
        return Seen(**{**answer, "told": tuple(answer["told"])})

    def _set(self, name: str, **how: object) -> None:
        self._asked("set", name=name, **how)

    def _asked(self, command: str, **arguments: object) -> dict[str, Any]:
        assert self._helper is not None, "the proxy was not started"
        return self._helper.ask(command, **arguments)


class Chaos(_Proxied):
    """A proxy for HTTP, before one Consul agent; it keeps connections, and blocking queries block.

    Faults of answers strike when the answer comes: a query that was blocked before is struck too.
    """

    def __init__(self, work: Path, host: str, port: int, *, listen_path: Path | None = None) -> None:
        """Prepare a proxy for `host`:`port`, on a free port of loopback, or on a unix socket at `listen_path`."""
        self.host, self.port = "127.0.0.1", 0 if listen_path else free_port()
        self._path = listen_path
        listen = (str(listen_path),) if listen_path else (self.host, self.port)
        super().__init__(work, "http", listen, (host, port))

    @property
    def url(self) -> str:
        """As `[consul] address` has it."""
        return f"unix://{self._path}" if self._path else f"http://{self.host}:{self.port}"

    def cut_after(
        self, size_bytes: int, *, is_reset: bool = False, only: str = "/", times: int | None = None
    ) -> None:
        """Send so many bytes of an answer, its head included, then close, or reset."""
        self._set("cut_after", size=size_bytes, is_reset=is_reset, only=only, times=times)

    def slow(self, bytes_per_second: float, *, only: str = "/") -> None:
        """Send answers no faster than this."""
        self._set("slow", rate=bytes_per_second, only=only)

    def answer(self, raw: bytes, *, only: str = "/", times: int | None = None) -> None:
        """Answer requests whose path begins with `only` with exactly `raw`, which the target never sees.

        The connection is closed after it, unless `raw` has a Content-Length that is right. `http_answer` makes one.
        """
        self._set("answer", raw=raw.decode("latin-1"), only=only, times=times)

    def rewrite(
        self,
        *,
        headers: Mapping[str, str | None] | None = None,
        body: str | None = None,
        keep: int | None = None,
        status: int | None = None,
        only: str = HEALTH,
        times: int | None = None,
    ) -> None:
        """Change the target's own answers to requests whose path begins with `only`.

        `headers` are put in place of those there are, None takes one away; `body` replaces the body; of a list,
        `keep` keeps only so many entries, the first ones.
        """
        self._set(
            "rewrite",
            headers=dict(headers or {}),
            body=body,
            keep=keep,
            status=status,
            only=only,
            times=times,
        )


class SocketChaos(_Proxied):
    """A proxy for HAProxy's Runtime API, from one unix socket to another.

    In prompt mode it hands on one command at a time and waits for its reply, so pipelines are slower through it.
    `half_open` is how a worker looks that takes connections and hangs.
    """

    def __init__(self, work: Path, path: Path, target: Path) -> None:
        """Prepare a proxy that listens at `path`, before the admin socket at `target`."""
        self.path = path
        super().__init__(work, "runtime", (str(path),), (str(target),))

    def reply_with(self, text: str, *, command: str, times: int | None = None) -> None:
        """Reply `text` to commands that begin with `command`; HAProxy never sees them."""
        self._set("reply_with", raw=text, only=command, times=times)

    def drop_after_command(self, count: int, *, command: str = "", times: int | None = None) -> None:
        """Close a connection after HAProxy has carried out so many commands on it, before the last one's reply.

        Commands that do not begin with `command` are not counted.
        """
        self._set("drop_after_command", count=count, only=command, times=times)


def http_answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer, for `Chaos.answer`, such as 429 with the words Consul has for it."""
    body = text.encode()
    fields = {"Content-Type": "text/plain; charset=utf-8", **(headers or {}), "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body

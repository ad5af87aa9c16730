"""A Consul that lies on demand, for answers that a real one cannot be made to give when a test needs them."""

import http.server
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

LONGEST_SECONDS = 0.5
"""No blocking query is held longer here, whatever was asked for."""
SERVERS_SECONDS = 10.0


@attrs.frozen
class Read:
    """One read as it came in; `index` is 0 where none was given."""

    service: str
    consistency: str
    index: int
    token: str | None
    at: float
    wait: str = ""


@attrs.define
class View:
    """What reads of one consistency get to see."""

    index: int = 10
    numbers: tuple[int, ...] = ()
    status: int = 200
    headers: dict[str, str] = attrs.field(factory=dict)
    delay_seconds: float = 0.0
    body: bytes | None = None


class FakeConsul:
    """Views of one service by consistency (`cached`, `stale`, `consistent`), and the canary, by consistency too."""

    def __init__(self) -> None:
        self.url = ""
        self.reads: list[Read] = []
        self.servers = View(index=7)
        """What the watch of Consul's servers gets to see; its reads are not in `reads`."""
        self.views = {"cached": View(headers={"X-Cache": "HIT", "Age": "0"}), "stale": View(), "consistent": View()}
        self.canary = {"stale": View(numbers=(1,)), "consistent": View(numbers=(1,))}
        self.servers_reads = 0
        self.is_streaming = False
        """Reads with `cached` or with an index are answered out of one stream, which is the view of `cached`."""
        self.is_closed = False
        self._restored = 0
        self._changed = threading.Condition()

    def show(self, *numbers: int, at: int | None = None, only: str | None = None, **fields: Any) -> None:
        """Have the views, or only one, hold instances `numbers` at index `at` (else the next one)."""
        with self._changed:
            for name, view in self.views.items():
                if only in {None, name}:
                    view.numbers = numbers
                    view.index = view.index + 1 if at is None else at
                    for field, value in fields.items():
                        setattr(view, field, value)
            self._changed.notify_all()

    def answer(self, path: str, token: str | None) -> tuple[int, Mapping[str, str], bytes]:
        parts = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        if parts.path.startswith("/v1/catalog/service/"):
            return self._answer_servers(int(query.get("index", 0)))
        service = urllib.parse.unquote(parts.path.rsplit("/", 1)[1])
        consistency = next((name for name in ("cached", "stale", "consistent") if name in query), "default")
        index = int(query.get("index", 0))
        with self._changed:
            self.reads.append(Read(service, consistency, index, token, time.monotonic(), query.get("wait", "")))
            views = self.canary if service == "consul" else self.views
            is_in_stream = self.is_streaming and service != "consul" and (consistency == "cached" or index > 0)
            view = views["cached" if is_in_stream else consistency]
            if index:
                self._changed.wait_for(lambda: view.index > index or view.status != 200, LONGEST_SECONDS)
            copied = attrs.evolve(view, headers=dict(view.headers))
        if is_in_stream:
            copied.headers |= {"X-Consul-Query-Backend": "streaming", "X-Consul-KnownLeader": "false"}
            if consistency != "cached":
                copied.headers.pop("X-Cache", None)
        time.sleep(copied.delay_seconds)
        headers = {"X-Consul-Index": str(copied.index), **copied.headers}
        return copied.status, headers, entries(*copied.numbers) if copied.body is None else copied.body

    def restore(self) -> None:
        """Have the blocking query about the servers end as it does when a snapshot is restored."""
        with self._changed:
            self._restored += 1
            self._changed.notify_all()

    def change_servers(self, **fields: Any) -> None:
        """Have the list of servers be another, as `View` names its fields."""
        with self._changed:
            self.servers = attrs.evolve(self.servers, **fields)
            self._changed.notify_all()

    def _answer_servers(self, index: int) -> tuple[int, Mapping[str, str], bytes]:
        with self._changed:
            self.servers_reads += 1
            restored = self._restored
            if index:
                self._changed.wait_for(
                    lambda: (
                        (self.servers.index, self.servers.status) != (index, 200)
                        or self._restored > restored
                        or self.is_closed
                    ),
                    SERVERS_SECONDS,
                )
            view = self.servers
            return view.status, {"X-Consul-Index": str(view.index), **view.headers}, b"[]"

    def close(self) -> None:
        """End what still blocks."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    def of(self, consistency: str, service: str = "web") -> list[Read]:
        return [read for read in list(self.reads) if (read.consistency, read.service) == (consistency, service)]


def entries(*numbers: int) -> bytes:
    """The JSON of passing instances w1, w2, ... at 10.0.0.1:1, 10.0.0.1:2, ..."""
    return json.dumps(
        [
            {
                "Node": {"Node": f"n{number}", "Address": "10.0.0.1"},
                "Service": {"ID": f"w{number}", "Address": "10.0.0.1", "Port": number},
                "Checks": [],
            }
            for number in numbers
        ]
    ).encode()


@contextmanager
def fake_consul(*numbers: int) -> Iterator[FakeConsul]:
    """Serve a `FakeConsul` whose views all hold instances `numbers`."""
    fake = FakeConsul()
    fake.show(*numbers)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = fake.answer(self.path, self.headers["X-Consul-Token"])
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the watch hung up

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        fake.close()
        server.shutdown()
        server.server_close()
        thread.join()

"""What most teams run beside HAProxy: a loop that sets the slots to exactly what Consul's last answer says.

None of hapsync's code. The fault suite runs it beside hapsync, to show that a fault does harm where nobody doubts.
It keeps what it has while Consul gives no answer with status 200, and believes every such answer.

`python -m tests.faults.naive CONSUL_URL HAPROXY_SOCKET SERVICE BACKEND [QUERY]` follows until it is ended.
"""

import http.client
import json
import socket
import sys
import time
import urllib.parse
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.processes import Process, wait_until
from tests.harness.tools import ROOT

WAIT_SECONDS = 60
RETRY_SECONDS = 0.5
_STARTED = "following"


class Naive:
    """The program, from the start of a `with` block to its end."""

    def __init__(
        self, work: Path, consul_url: str, haproxy_socket: Path, service: str, *, backend: str = "", query: str = ""
    ) -> None:
        """Prepare to follow `service` in `backend`, of the same name unless given, logging to `work`.

        `query` is added to its reads, for example "stale", "cached" or "token=SECRET".
        """
        self._command = (
            *(sys.executable, "-m", "tests.faults.naive", consul_url, str(haproxy_socket)),
            *(service, backend or service, query),
        )
        self.log = work / f"naive-{service}.log"

    def __enter__(self) -> Self:
        self.process = Process(self._command, self.log, folder=ROOT)
        try:
            wait_until(lambda: _STARTED in self.log.read_text(), 10, "the naive follower", process=self.process)
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()


def main() -> None:
    url, path, service, backend, *query = sys.argv[1:]
    parts = urllib.parse.urlsplit(url)
    more = "".join(f"&{part}" for part in query if part)
    index = "0"
    print(_STARTED, flush=True)
    while True:
        consul = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=WAIT_SECONDS + 10)
        try:
            while True:
                index, body = read(
                    consul, f"/v1/health/service/{service}?passing{more}&index={index}&wait={WAIT_SECONDS}s"
                )
                follow(path, backend, addresses(body))
        except (OSError, http.client.HTTPException, ValueError) as error:
            print(error, flush=True)
            index = "0"
            time.sleep(RETRY_SECONDS)
        finally:
            consul.close()


def read(consul: http.client.HTTPConnection, path: str) -> tuple[str, bytes]:
    """The index and the body; `OSError` when the status is not 200."""
    consul.request("GET", path)
    response = consul.getresponse()
    body = response.read()
    if response.status != http.client.OK:
        raise OSError(f"{response.status} {body[:80]!r}")
    return response.headers["X-Consul-Index"], body


def addresses(body: bytes) -> list[tuple[str, str]]:
    return [
        (entry["Service"]["Address"] or entry["Node"]["Address"], str(entry["Service"]["Port"]))
        for entry in json.loads(body)
    ]


def follow(path: str, backend: str, wanted: list[tuple[str, str]]) -> None:
    """Have the backend's slots serve `wanted`, and nothing else."""
    _, _, table = ask(path, [f"show servers state {backend}"]).partition("# ")
    header, *rows = (line.split(" ") for line in table.splitlines() if line)
    slots = [dict(zip(header, row, strict=False)) for row in rows]
    has = {(slot["srv_addr"], slot["srv_port"]): slot["srv_name"] for slot in slots}
    free = [slot["srv_name"] for slot in slots if (slot["srv_addr"], slot["srv_port"]) not in wanted]
    commands = []
    for host, port in wanted:
        name = has.get((host, port))
        if name is None and free:
            name = free.pop(0)
            commands.append(f"set server {backend}/{name} addr {host} port {port}")
        if name is not None:
            commands.append(f"set server {backend}/{name} state ready")
    commands += [f"set server {backend}/{name} state maint" for name in free]
    ask(path, commands)
    print(f"{len(wanted)} wanted", flush=True)


def ask(path: str, commands: list[str]) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(";".join(commands).encode() + b"\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


if __name__ == "__main__":
    main()

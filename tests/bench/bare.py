"""The barest ways to speak to Consul and HAProxy: what the floors and the judge are made of."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence

END = b"\n> "


class Prompt:
    """A connection to HAProxy that stays open; every reply on it ends with `END`."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.ask(b"prompt\n")

    def ask(self, lines: bytes, count: int = 1) -> bytes:
        """Send `count` commands, few enough for HAProxy's buffer, and return the replies as they came."""
        self.socket.sendall(lines)
        return self._replies(count)

    def pour(self, lines: bytes, count: int) -> bytes:
        """Send any number of commands, reading while they are sent, since HAProxy stops when nobody reads."""
        writer = threading.Thread(target=self.socket.sendall, args=(lines,))
        writer.start()
        replies = self._replies(count)
        writer.join()
        return replies

    def close(self) -> None:
        self.socket.close()

    def _replies(self, count: int) -> bytes:
        received = bytearray()
        ends = 0
        while ends < count:
            chunk = self.socket.recv(1 << 18)
            if not chunk:
                raise ConnectionResetError("HAProxy closed the connection")
            seen = max(0, len(received) - len(END) + 1)
            received += chunk
            ends += received.count(END, seen)
        return bytes(received)


def dump(path: str, commands: bytes) -> bytes:
    """Return all that HAProxy has to say to one line of commands, on a connection of its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendall(commands)
        return b"".join(iter(lambda: connection.recv(1 << 18), b""))


def get(connection: http.client.HTTPConnection, path: str) -> tuple[str, bytes]:
    """Return the index and the body that Consul answers."""
    connection.request("GET", path)
    response = connection.getresponse()
    return response.headers["X-Consul-Index"], response.read()


def addresses(body: bytes) -> Iterator[tuple[str, int]]:
    """The address and port of each instance in an answer of `/v1/health/service/NAME`."""
    for entry in json.loads(body):
        service = entry["Service"]
        yield service["Address"], service["Port"]


def ready_lines(server: str, address: tuple[str, int]) -> Sequence[str]:
    """The three commands that bring a free slot into service."""
    host, port = address
    return (
        f"set server {server} addr {host} port {port}\n",
        f"set server {server} weight 1\n",
        f"set server {server} state ready\n",
    )

"""A client whose response takes its time, for what has to outlive something."""

import socket
import threading
import time
from contextlib import suppress

from tests.harness.origins import DRIP_MS


class Download:
    """A response of `count` bytes that takes its time; `received` is what came of its body so far."""

    def __init__(self, port: int, seconds: float) -> None:
        self.count = int(seconds * 1000) // DRIP_MS
        self.received = 0
        self.ended_at: float | None = None
        self._connection = socket.create_connection(("127.0.0.1", port))
        self._connection.sendall(f"GET /drip?ms={int(seconds * 1000)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @property
    def is_whole(self) -> bool:
        return self.received == self.count

    @property
    def is_cut(self) -> bool:
        return self.ended_at is not None and not self.is_whole

    def wait(self) -> None:
        self._thread.join()

    def close(self) -> None:
        with suppress(OSError):  # a plain close would leave the reading thread in its call
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _read(self) -> None:
        received = b""
        while not self.is_whole:
            try:
                chunk = self._connection.recv(65536)
            except OSError:
                chunk = b""
            if not chunk:
                break
            received += chunk
            head, end, body = received.partition(b"\r\n\r\n")
            self.received = len(body) if end and head.startswith(b"HTTP/1.1 200") else 0
        self.ended_at = time.monotonic()

"""The agents that `agent-check` asks, in this process: one speaks for all servers."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HOST = "127.0.0.1"


class Agents:
    """One agent for all servers; `says` is what it answers, `asked` how often it did."""

    def __init__(self) -> None:
        self.says = "up 50%"
        self.asked = 0


@contextmanager
def agents() -> Iterator[tuple[Agents, int]]:
    """Serve agents on the port that is returned."""
    told = Agents()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            told.asked += 1
            with suppress(OSError):
                self.request.sendall(f"{told.says}\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield told, int(server.server_address[1])
        server.shutdown()
        thread.join(5)

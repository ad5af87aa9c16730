"""A unix socket that speaks the Runtime API's prompt mode and misbehaves where the real HAProxy cannot be made to.

`test_socket.py` runs the same contract against it and against the real one.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

INFO = b"Name: HAProxy\nVersion: 2.6.12\nPid: 4711\nUptime_sec: 5\nStopping: 0\n"
COLUMNS = (
    b"be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    b"srv_time_since_last_change srv_check_result srv_check_state srv_port"
)
STATE = b"1\n# " + COLUMNS + b"\n2 app 1 srv1 127.0.0.1 0 5 1 1 7 0 0 9000\n"
Send = Callable[[socket.socket, bytes], None]


def whole(connection: socket.socket, reply: bytes) -> None:
    connection.sendall(reply)


def byte_by_byte(connection: socket.socket, reply: bytes) -> None:
    for place in range(len(reply)):
        connection.sendall(reply[place : place + 1])


def reply_to(command: bytes) -> bytes:
    match command.split():
        case [b"prompt"]:
            return b""
        case [b"show", b"info"]:
            return INFO
        case [b"show", b"servers", b"state", b"app"]:
            return STATE
        case [b"show", b"servers", b"state", _]:
            return b"Can't find backend.\n"
        case [b"set", b"server", b"app/srv1", b"weight", b"x"]:
            return b"Empty weight string empty or preceded by garbage"
        case [b"set", b"server", *_]:
            return b""
        case _:
            return b"Unknown command\n"


@contextmanager
def fake_haproxy(
    path: Path, *, send: Send = whole, answer: Callable[[bytes], bytes | None] = reply_to
) -> Iterator[None]:
    """Serve on `path`; `answer` may return None to hang up, and `send` decides how the bytes go out."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    open_connections: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            open_connections.append(connection)
            with connection, connection.makefile("rb") as lines:
                try:
                    for line in lines:
                        reply = answer(line.rstrip(b"\n"))
                        if reply is None:
                            break
                        send(connection, reply + b"\n> ")
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in open_connections:
            with connection:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        thread.join(5)

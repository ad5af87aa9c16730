"""A server that answers whatever HAProxy may speak to it, and notes what it saw of each connection."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import trustme
from attrs import define, frozen

NAME = "server.test"
"""What the server's certificate is for."""
_PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_PATIENCE_SECONDS = 20


@frozen
class Certificates:
    """Files in a folder: the authority, the server's and a client's certificate with their keys."""

    authority: Path
    server: Path
    client: Path


def make_certificates(folder: Path) -> Certificates:
    """Write an authority and two certificates into `folder`."""
    signer = trustme.CA()
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "client.pem")
    signer.cert_pem.write_to_path(str(made.authority))
    signer.issue_cert(NAME, "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(made.server))
    signer.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(str(made.client))
    return made


@define
class Sight:
    """One connection: its PROXY line, its TLS, and what was asked over it; empty where there was none."""

    proxy: str = ""
    tls: str = ""
    asked: list[str] | None = None

    def __str__(self) -> str:
        asked = sorted(set(self.asked or ["nothing"]))
        return ", ".join(part for part in (self.proxy, self.tls, *asked) if part)


class Listener:
    """Listens on a port of loopback until the end; `sights` are the connections that were made."""

    def __init__(self, port: int, certificates: Certificates) -> None:
        self.port = port
        self.sights: list[Sight] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.server)
        self._context.load_verify_locations(certificates.authority)
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        self._context.sni_callback = self._note_name
        self._names: dict[int, str] = {}
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def seen(self, *, check: bool) -> tuple[str, ...]:
        """What was seen of checks, or else of requests, each once. A request says so."""
        kinds = {str(one) for one in list(self.sights) if one.asked is not None and _is_request(one) is not check}
        return tuple(sorted(kinds))

    def connections(self) -> int:
        """How many connections requests came over."""
        return sum(_is_request(one) for one in list(self.sights))

    def _note_name(self, tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self._names[id(tls)] = name or ""

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        sight = Sight()
        self.sights.append(sight)
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            with connection:
                sight.proxy = _read_proxy(connection)
                if connection.recv(1, socket.MSG_PEEK) != b"\x16":
                    _talk(connection, sight)
                    return
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    name = self._names.pop(id(tls), "")
                    who = " client certificate" if tls.getpeercert() else ""
                    alpn = tls.selected_alpn_protocol()
                    sight.tls = f"{tls.version()} name={name or '-'} alpn={alpn or '-'}{who}"
                    _talk(tls, sight)
        except ssl.SSLError as error:
            sight.asked = sight.asked or [f"TLS refused: {error.reason}"]
        except OSError:  # cut by HAProxy, as at the end of a check
            return


def _is_request(sight: Sight) -> bool:
    return sight.asked is not None and any("/request" in one for one in sight.asked)


def _read_proxy(connection: socket.socket) -> str:
    start = connection.recv(12, socket.MSG_PEEK)
    if start.startswith(b"PROXY "):
        _read_to(connection, b"\r\n")
        return "PROXY v1"
    if start != _PROXY_V2:
        return ""
    head = _exactly(connection, 16)
    command, length = head[12] & 0x0F, struct.unpack("!H", head[14:16])[0]
    body = _exactly(connection, length)
    place, kinds = {0: 0, 1: 12, 2: 36}.get(head[13] >> 4, 0), []
    while place + 3 <= len(body):
        kinds.append(f"{body[place]:02x}")
        place += 3 + struct.unpack("!H", body[place + 1 : place + 3])[0]
    return f"PROXY v2 {'local' if command == 0 else 'proxy'} {' '.join(sorted(kinds))}".strip()


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data


def _read_to(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += _exactly(connection, 1)
    return data


def _talk(connection: socket.socket, sight: Sight) -> None:
    """Answer requests of HTTP/1 or HTTP/2 until the other side closes, and note them."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more:
            sight.asked = sight.asked or ["nothing" if not data else "data"]
            return
        data += more
        if data == b"PRI * HTTP/2.0\r\n\r\n":
            _exactly(connection, 6)
            _talk_h2(connection, sight)
            return
        if data.endswith(b"\r\n\r\n"):
            line = data.split(b"\r\n")[0].decode("latin-1")
            sight.asked = [*(sight.asked or []), line]
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            data = b""


def _talk_h2(connection: socket.socket, sight: Sight) -> None:
    connection.sendall(_frame(4, 0, 0, b""))
    for kind, flags, stream, body in _frames(connection):
        if kind == 4 and not flags & 1:
            connection.sendall(_frame(4, 1, 0, b""))
        elif kind == 1:
            path = "/request" if b"request" in body else "/check"
            sight.asked = [*(sight.asked or []), f"{path} HTTP/2"]
            connection.sendall(_frame(1, 5, stream, b"\x88"))  # :status 200, and that is all
        elif kind == 6 and not flags & 1:
            connection.sendall(_frame(6, 1, 0, body))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack("!I", len(body))[1:] + bytes((kind, flags)) + struct.pack("!I", stream) + body


def _frames(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    while True:
        head = connection.recv(9)
        if not head:
            return
        head += _exactly(connection, 9 - len(head)) if len(head) < 9 else b""
        length = struct.unpack("!I", b"\0" + head[:3])[0]
        stream = struct.unpack("!I", head[5:9])[0] & 0x7FFFFFFF
        yield head[3], head[4], stream, _exactly(connection, length)


class AgentListener:
    """An agent that says `up`, and what it was sent first, as `heard`."""

    def __init__(self, port: int) -> None:
        self.heard: set[str] = set()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    self.heard.add(connection.recv(64).decode("latin-1"))
                connection.sendall(b"up ready\n")

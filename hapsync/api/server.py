"""The agent's own socket: a command sends a request, and gets a reply, one line of JSON each.

The socket's mode lets root, the agent's user and its group ask. The kernel names the user. One thread serves all
clients and does nothing else, so neither a slow nor a hostile client disturbs the agent.
"""

import contextlib
import enum
import logging
import os
import queue
import re
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from hapsync.api.client import must_fit, user_name
from hapsync.api.messages import MAX_REQUEST_BYTES, BadRequest, Reply, Request, reply_to_json, request_from_json
from hapsync.system.sockdiag import peer_of

log = logging.getLogger(__name__)

MAX_CLIENTS = 16
CLIENT_SECONDS = 5.0
"""The longest time for a client to send its request, and to take its reply."""
ANSWER_SECONDS = 600.0
"""The longest time for the agent's reply: a reload may take a while, but no client is kept for ever."""

_MODE = 0o660
_QUEUE = 128
"""The most connections that wait to be accepted: more than are served, for the others get a refusal in words."""
_REST_SECONDS = 0.25
"""The pause after a failure of the machine (no descriptor left, say), instead of a busy loop."""
_CHECK_SECONDS = 2.0
"""The pause between two checks that the socket still has its name: an operator may have cleared the folder."""
_TEMPORARY = re.compile(r"\.[0-9]+\.hs")


class Pending:
    """A request that waits for its reply."""

    def __init__(
        self, request: Request, answer: Callable[[Reply], None], is_waiting: Callable[[], bool] = lambda: True
    ) -> None:
        """Take the request with its `who`, the function for the reply, and a test whether the client waits."""
        self.request = request
        self._answer: Callable[[Reply], None] | None = answer
        self._is_waiting = is_waiting

    @property
    def who(self) -> str:
        """The asking user: printable ASCII, at most 64 characters."""
        return self.request.who

    @property
    def is_wanted(self) -> bool:
        """Whether the client still waits: its connection is open, by the kernel's word, and its deadline not over.

        Any thread may ask, and does not wait. A request that is not wanted must not be begun.
        """
        deadline = self.request.deadline
        return (deadline is None or time.monotonic() < deadline) and self._is_waiting()

    def respond(self, reply: Reply) -> None:
        """Reply, from any thread, at once. The first reply counts, and a reply for a client that left is dropped."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(reply)


class _State(enum.Enum):
    """The state of a connection, as its events of poll(2); a lost client always shows, too."""

    READING = select.POLLIN
    WAITING = 0
    WRITING = select.POLLOUT


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.uid = peer_of(connection)[1]
        self.state = _State.READING
        self.deadline = time.monotonic() + CLIENT_SECONDS
        self.received = bytearray()
        self.unsent = b""
        self._lock = threading.Lock()

    @property
    def is_waiting(self) -> bool:
        """Whether the client waits for the agent's reply, and its end of the connection is open; from any thread.

        poll(2) gives POLLHUP for a unix socket once its peer has closed it. A peer that only ended its own side (as
        `nc -N` does) still reads.
        """
        with self._lock:  # otherwise the descriptor could be another file's by now
            if self.state is not _State.WAITING or self.socket.fileno() < 0:
                return False
            poll = select.poll()
            poll.register(self.socket, 0)
            return not poll.poll(0)

    def close(self) -> None:
        with self._lock:
            self.socket.close()

    def wait_for_agent(self) -> None:
        self.state, self.deadline = _State.WAITING, time.monotonic() + ANSWER_SECONDS

    def write(self, reply: Reply) -> None:
        """Make the thread send `reply`, then close the connection."""
        self.unsent = reply_to_json(reply).encode("ascii") + b"\n"
        self.state, self.deadline = _State.WRITING, time.monotonic() + CLIENT_SECONDS

    def send(self) -> bool:
        """Send as much as the socket takes; return whether nothing is left. Raises OSError when the client left."""
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        return not self.unsent


class Requests:
    """The socket and its thread; `close` ends both."""

    def __init__(self, path: str, on_request: Callable[[Pending], None]) -> None:
        """Listen at `path`; `on_request` gets each request in the socket's own thread and should return at once.

        A file at `path` is replaced: the caller holds the lock, so the agent it belonged to is dead.

        Raises ConfigError when the path is too long for a socket, OSError when it cannot be made.
        """
        self._path = path
        self._on_request = on_request
        self._answers: queue.SimpleQueue[tuple[_Client, Reply]] = queue.SimpleQueue()
        self._clients: list[_Client] = []
        self._accept_at = 0.0
        self._check_at = time.monotonic() + _CHECK_SECONDS
        self._is_closing = False
        self._listener = _listen(path)
        self._made = _identity(path)
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, tell waiting clients that the agent stops, and remove the socket."""
        if self._is_closing:
            return
        if _identity(self._path) == self._made:
            with contextlib.suppress(OSError):
                Path(self._path).unlink()
        self._is_closing = True
        self._wake()
        self._thread.join(CLIENT_SECONDS)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: the thread is awake; closed: no client waits any more
            self._waker.send(b"\0")

    def _run(self) -> None:
        while not self._is_closing:
            try:
                self._serve_once()
            except Exception:
                log.exception("a defect of hapsync, please report it; commands may have to be given again")
                time.sleep(_REST_SECONDS)
        with contextlib.suppress(Exception):
            self._take_answers()
        for client in list(self._clients):
            with contextlib.suppress(Exception):
                if client.state is not _State.WRITING:
                    client.write(Reply.cannot_tell("the agent is stopping; ask again when it runs"))
                client.send()
            self._drop(client)
        for end in (self._listener, self._woken, self._waker):
            end.close()

    def _serve_once(self) -> None:
        """Wait for an event, and do the work due."""
        now = time.monotonic()
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if now >= self._accept_at:
            poll.register(self._listener, select.POLLIN)
        for client in self._clients:
            poll.register(client.socket, client.state.value)
        due = [self._check_at, *(client.deadline for client in self._clients)]
        due += [self._accept_at] if now < self._accept_at else []
        happened = dict(poll.poll(max(0.0, min(due) - now) * 1000 + 1))
        if self._woken.fileno() in happened:
            self._woken.recv(4096)
        for client in list(self._clients):
            event = happened.get(client.socket.fileno(), 0)
            self._serve_safely(client, event)
        self._take_answers()
        if self._listener.fileno() in happened:
            self._accept()
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + _CHECK_SECONDS
            self._listen_again()

    def _listen_again(self) -> None:
        """Make the socket again where no file has its name any more."""
        if os.path.lexists(self._path):
            return
        try:
            listener = _listen(self._path)
        except OSError:
            return  # the folder is not there yet
        self._listener.close()
        self._listener, self._made = listener, _identity(self._path)
        log.warning("socket %s was removed; made again", self._path)

    def _take_answers(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                client, reply = self._answers.get_nowait()
                if client in self._clients and client.state is _State.WAITING:
                    client.write(reply)

    def _accept(self) -> None:
        for _ in range(_QUEUE):
            try:
                connection = self._listener.accept()[0]
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            except OSError as error:
                log.warning("a command was not heard: %s", error)
                self._accept_at = time.monotonic() + _REST_SECONDS
                return
            self._greet(connection)

    def _greet(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        client = _Client(connection)
        if len(self._clients) < MAX_CLIENTS:
            self._clients.append(client)
            return
        client.write(Reply.cannot_tell(f"the agent serves {MAX_CLIENTS} commands already; try again in a moment"))
        with contextlib.suppress(OSError):
            client.send()
        connection.close()

    def _serve_safely(self, client: _Client, event: int) -> None:
        try:
            self._serve(client, event)
        except OSError:
            self._drop(client)  # the client left
        except Exception:
            log.exception("a defect of hapsync, please report it; a command of uid %s is dropped", client.uid)
            self._drop(client)

    def _serve(self, client: _Client, event: int) -> None:
        if time.monotonic() >= client.deadline:  # checked first: a client may send a byte now and then for ever
            match client.state:
                case _State.READING:
                    client.write(Reply.wrong(f"no request within {CLIENT_SECONDS:g} s"))
                case _State.WAITING:
                    client.write(Reply.cannot_tell("the agent has not answered; see its log"))
                case _State.WRITING:
                    self._drop(client)
        elif event:
            match client.state:
                case _State.READING:
                    self._read(client)
                case _State.WAITING:
                    self._drop(client)  # the client left
                case _State.WRITING:
                    if client.send():
                        self._drop(client)

    def _read(self, client: _Client) -> None:
        chunk = client.socket.recv(MAX_REQUEST_BYTES)
        if not chunk:
            self._drop(client)
            return
        client.received += chunk
        line, end, _ = client.received.partition(b"\n")
        if len(line) > MAX_REQUEST_BYTES:
            client.write(Reply.wrong(f"a request has at most {MAX_REQUEST_BYTES} bytes"))
        elif end:
            self._hand_over(client, line.decode("utf-8", "replace"))

    def _hand_over(self, client: _Client, line: str) -> None:
        request = request_from_json(line)
        if isinstance(request, BadRequest):
            client.write(Reply.wrong(f"not understood: {request.why}"))
            return
        request = attrs.evolve(request, who=user_name(client.uid, request.who))
        client.wait_for_agent()

        def answer(reply: Reply) -> None:
            self._answers.put((client, reply))
            self._wake()

        try:
            self._on_request(Pending(request, answer, lambda: client.is_waiting))
        except Exception:
            log.exception("a defect of hapsync, please report it; not done: %s", request)
            client.write(Reply.cannot_tell("a defect of hapsync, please report it; the agent's log has more"))

    def _drop(self, client: _Client) -> None:
        with contextlib.suppress(ValueError):
            self._clients.remove(client)
        client.close()


def _listen(path: str) -> socket.socket:
    # No client can connect before the name exists, and the name never exists with another mode.
    folder = Path(path).parent
    temporary = folder / f".{os.getpid()}.hs"
    for one in (path, str(temporary)):
        must_fit(one)
    _remove_leftovers(folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), _MODE)  # Linux makes the file with the socket's own mode, less the umask
        listener.bind(str(temporary))
        try:
            temporary.chmod(_MODE)
            listener.listen(_QUEUE)
            listener.setblocking(False)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_leftovers(folder: Path) -> None:
    """Remove sockets of an agent that was killed before it gave them their name."""
    for found in folder.iterdir():
        if _TEMPORARY.fullmatch(found.name) and found.is_socket():
            found.unlink(missing_ok=True)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None

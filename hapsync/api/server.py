"""The agent's own socket: a command sends a request, and gets a reply, one line of JSON each.

The socket's mode lets root, the agent's user and its group ask. The kernel names the user. Each client has a thread
of its own, and few are served at once, so neither a slow nor a hostile client disturbs the agent.
"""

import contextlib
import logging
import os
import queue
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from hapsync.api.client import must_fit, read_line, seconds_until, user_name
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
_GLANCE_SECONDS = 0.2
"""The pause between two looks at whether a client still waits for the agent's reply."""
_CHECK_SECONDS = 2.0
"""The longest pause between checks that the socket still has its name: an operator may have cleared the folder."""
_TEMPORARY = ".hapsync.new"
"""The name of the socket until it listens: no longer than its own name, which must fit into sun_path, too."""
_STOPPING = Reply.cannot_tell("the agent is stopping; ask again when it runs")
_BUSY = Reply.cannot_tell(f"the agent serves {MAX_CLIENTS} commands already; try again in a moment")


@attrs.frozen(eq=False)
class Pending:
    """A request, with the asking user as its `who`, that waits for its reply.

    `respond` may be called from any thread, at once. The first reply counts, and a reply for a client that left is
    dropped.
    """

    request: Request
    respond: Callable[[Reply], None]
    _is_waiting: Callable[[], bool]

    @property
    def is_wanted(self) -> bool:
        """Whether the client still waits: its connection is open, by the kernel's word, and its deadline not over.

        Any thread may ask, and does not wait. A request that is not wanted must not be begun.
        """
        deadline = self.request.deadline
        return (deadline is None or time.monotonic() < deadline) and self._is_waiting()


class _Client(threading.Thread):
    """One connection, and the thread that serves it: from the client's request to its reply, then the end."""

    def __init__(self, connection: socket.socket, on_request: Callable[[Pending], None]) -> None:
        super().__init__(name="request", daemon=True)
        self._socket = connection
        self._uid = peer_of(connection)[1]
        self._on_request = on_request
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._is_answered = False
        self._lock = threading.Lock()

    def run(self) -> None:
        try:
            self.send(self._reply(), CLIENT_SECONDS)
        except OSError:
            pass  # the client left
        except Exception:
            log.exception("a defect of hapsync, please report it; a command of uid %s is dropped", self._uid)
        finally:
            self.close()

    def send(self, reply: Reply, timeout_seconds: float) -> None:
        """Send `reply`. Raises OSError when the client left, or does not take it in time."""
        self._is_answered = True
        self._socket.settimeout(timeout_seconds)
        self._socket.sendall(reply_to_json(reply).encode("ascii") + b"\n")

    def stop(self) -> None:
        """End the wait for the request, or for the agent's reply."""
        self._replies.put(_STOPPING)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        with self._lock:
            self._socket.close()

    def _reply(self) -> Reply:
        """Return the reply to the client's request. Raises OSError when the client left without one."""
        deadline = time.monotonic() + CLIENT_SECONDS
        try:
            received = read_line(self._socket, MAX_REQUEST_BYTES, lambda: seconds_until(deadline))
        except TimeoutError:
            return Reply.wrong(f"no request within {CLIENT_SECONDS:g} s")
        line, end, _ = received.partition(b"\n")
        if len(line) > MAX_REQUEST_BYTES:
            return Reply.wrong(f"a request has at most {MAX_REQUEST_BYTES} bytes")
        if not end:
            try:
                return self._replies.get_nowait()  # the agent stops
            except queue.Empty:
                raise ConnectionResetError from None
        request = request_from_json(line.decode("utf-8", "replace"))
        if isinstance(request, BadRequest):
            return Reply.wrong(f"not understood: {request.why}")
        request = attrs.evolve(request, who=user_name(self._uid, request.who))
        try:
            self._on_request(Pending(request, self._replies.put, self._is_waiting))
        except Exception:
            log.exception("a defect of hapsync, please report it; not done: %s", request)
            return Reply.cannot_tell("a defect of hapsync, please report it; the agent's log has more")
        deadline = time.monotonic() + ANSWER_SECONDS
        while self._is_waiting() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                return self._replies.get(timeout=_GLANCE_SECONDS)
        return Reply.cannot_tell("the agent has not answered; see its log")

    def _is_waiting(self) -> bool:
        """Whether the client waits for the agent's reply, and its end of the connection is open; from any thread.

        poll(2) gives POLLHUP for a unix socket once its peer has closed it. A peer that only ended its own side (as
        `nc -N` does) still reads.
        """
        with self._lock:  # otherwise the descriptor could be another file's by now
            if self._is_answered or self._socket.fileno() < 0:
                return False
            poll = select.poll()
            poll.register(self._socket, 0)
            return not poll.poll(0)


class Requests:
    """The socket and the thread that listens; `close` ends both."""

    def __init__(self, path: str, on_request: Callable[[Pending], None]) -> None:
        """Listen at `path`; `on_request` gets each request in a thread of its client, and should return at once.

        A file at `path` is replaced: the caller holds the lock, so the agent it belonged to is dead.

        Raises ConfigError when the path is too long for a socket, OSError when it cannot be made.
        """
        self._path = path
        self._on_request = on_request
        self._clients: list[_Client] = []
        self._is_closing = False
        self._listener = _listen(path)
        self._made = _identity(path)
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, tell waiting clients that the agent stops, and remove the socket."""
        self._is_closing = True
        self._waker.close()
        self._thread.join(CLIENT_SECONDS)

    def _run(self) -> None:
        while not self._is_closing:
            try:
                self._listen_again()
                self._wait()
                while self._accept():
                    pass
            except Exception:
                log.exception("a defect of hapsync, please report it; commands may have to be given again")
                time.sleep(_REST_SECONDS)
        if _identity(self._path) == self._made:
            with contextlib.suppress(OSError):
                Path(self._path).unlink()
        while self._accept():
            pass
        for end in (self._listener, self._woken):
            end.close()
        for client in self._clients:
            client.stop()
        deadline = time.monotonic() + _REST_SECONDS
        for client in self._clients:
            client.join(max(0.0, deadline - time.monotonic()))

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

    def _wait(self) -> None:
        """Wait for the next client or the end, `_CHECK_SECONDS` at most."""
        poll = select.poll()
        for end in (self._listener, self._woken):  # not every kernel wakes accept(2) by a shutdown
            poll.register(end, select.POLLIN)
        poll.poll(_CHECK_SECONDS * 1000)

    def _accept(self) -> bool:
        """Begin to serve the next client; return whether one was there."""
        try:
            client = _Client(self._listener.accept()[0], self._on_request)
        except BlockingIOError:
            return False
        except OSError as error:
            return self._rest(error)
        self._clients = [one for one in self._clients if one.is_alive()]
        try:
            if self._is_closing:
                client.send(_STOPPING, 0.0)
            elif len(self._clients) >= MAX_CLIENTS:
                client.send(_BUSY, 0.0)
            else:
                client.start()
                self._clients.append(client)
                return True
        except RuntimeError as error:  # no thread is left
            self._rest(error)
        except OSError:
            pass  # the client left
        client.close()
        return True

    def _rest(self, error: Exception) -> bool:
        log.warning("a command was not heard: %s", error)
        time.sleep(_REST_SECONDS)
        return False


def _listen(path: str) -> socket.socket:
    # No client can connect before the name exists, and the name never exists with another mode.
    must_fit(path)
    temporary = Path(path).with_name(_TEMPORARY)
    temporary.unlink(missing_ok=True)  # of an agent that was killed before it gave its socket the name
    with contextlib.ExitStack() as undo:
        listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        os.fchmod(listener.fileno(), _MODE)  # Linux makes the file with the socket's own mode, less the umask
        listener.bind(str(temporary))
        undo.callback(temporary.unlink, missing_ok=True)
        temporary.chmod(_MODE)
        listener.listen(_QUEUE)
        listener.setblocking(False)
        temporary.replace(path)
        undo.pop_all()
    return listener


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None

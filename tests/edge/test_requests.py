"""The agent's socket, real: who may ask, what a bad client gets, and that none of them disturbs the others."""

import contextlib
import itertools
import json
import os
import pwd
import queue
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from hapsync.api import client as ask, server as edge
from hapsync.api.client import MAX_WHO, SOCKET_FILE, ask_agent, user_name
from hapsync.api.messages import MAX_REQUEST_BYTES, Apply, FreezeAll, OverrideServer, Reply, Thaw
from hapsync.api.server import MAX_CLIENTS, Pending, Requests
from hapsync.errors import AgentError, ConfigError
from hapsync.model.server import AdminState
from tests.harness.processes import wait_until

HOLD = OverrideServer("web", "srv1", AdminState.DRAIN, 60, "kernel é")
ASK = """\
import os, sys
from hapsync.api.client import ask_agent
from hapsync.api.messages import Thaw
os.setgid(65534); os.setuid(65534)
try:
    print(ask_agent(sys.argv[1], Thaw(), 5).lines[0])
except Exception as error:
    print(type(error).__name__, error)
"""


class Agent:
    """A socket whose worker answers what `answer` makes of a request, or keeps it in `kept` where that is None."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.path = folder / SOCKET_FILE
        self.answer: Callable[[Pending], Reply | None] = lambda pending: Reply.done(repr(pending.request))
        self.kept: queue.SimpleQueue[Pending] = queue.SimpleQueue()
        self.requests = Requests(str(self.path), self._take)

    def _take(self, pending: Pending) -> None:
        reply = self.answer(pending)
        if reply is None:
            self.kept.put(pending)
        else:
            pending.respond(reply)

    def keep_all(self) -> None:
        self.answer = lambda _: None

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(20)
        try:
            client.connect(str(self.path))
        except OSError:
            client.close()
            raise
        return client

    def say(self, raw: bytes) -> Reply:
        """Send bytes as they are and return the reply to them."""
        with self.connect() as client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(raw)
            return heard(client)


def heard(client: socket.socket) -> Reply:
    with client.makefile("rb") as lines:
        tree = json.loads(lines.readline())
    return Reply(tree["is_ok"], tree["exit_code"], tuple(tree["lines"]))


@pytest.fixture
def agent(work: Path) -> Iterator[Agent]:
    made = Agent(work)
    yield made
    made.requests.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "CLIENT_SECONDS", 1.0)


def works(agent: Agent) -> bool:
    agent.answer = lambda _: Reply.done("well")
    return ask_agent(agent.folder, Thaw(), 10) == Reply.done("well")


# -- asking and being answered ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_", [Apply(force=True), HOLD, FreezeAll(), Thaw()], ids=lambda one: type(one).__name__
)
def test_a_request_reaches_the_worker_and_its_answer_the_person(
    agent: Agent, request_: Apply | OverrideServer | FreezeAll | Thaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    agent.keep_all()
    replies: list[Reply | None] = []
    asking = threading.Thread(target=lambda: replies.append(ask_agent(agent.folder, request_, 20)))
    asking.start()
    pending = agent.kept.get(timeout=10)
    pending.respond(Reply.not_done("one", "twö\n\x1b"))
    pending.respond(Reply.done("only the first answer counts"))
    asking.join()

    assert pending.request == attrs.evolve(request_, who=pending.request.who, deadline=pending.request.deadline)
    assert pending.request.who == user_name(os.getuid(), "")
    assert replies == [Reply.not_done("one", "twö\n\x1b")]


def test_a_socket_that_somebody_removed_is_made_again_with_its_folder(agent: Agent, work: Path) -> None:
    agent.path.unlink()
    wait_until(agent.path.exists, 10, "the socket to be made again")

    assert works(agent)

    moved = work.with_name(f"{work.name}-moved")
    work.rename(moved)
    time.sleep(2 * edge._CHECK_SECONDS + 0.5)
    work.mkdir()
    wait_until(agent.path.exists, 10, "the socket to be made in the new folder")

    assert works(agent)
    moved_files = list(moved.iterdir())
    for one in moved_files:
        one.unlink()
    moved.rmdir()


def test_a_long_answer_arrives_whole_though_the_reader_is_slow(agent: Agent) -> None:
    long = Reply.done(*("x" * 1000 for _ in range(3000)))
    agent.answer = lambda _: long
    with agent.connect() as client:
        client.sendall(b'{"ask": "thaw"}\n')
        time.sleep(0.3)
        assert heard(client) == long


def test_where_no_agent_listens_there_is_no_reply(work: Path) -> None:
    assert ask_agent(str(work), Thaw(), 5) is None
    assert ask_agent(str(work / "nowhere"), Thaw(), 5) is None
    (work / "a file").write_text("")
    assert ask_agent(str(work / "a file"), Thaw(), 5) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(work / SOCKET_FILE))
    assert ask_agent(str(work), Thaw(), 5) is None


def test_an_agent_that_does_not_answer_in_time_is_an_error_that_says_so(agent: Agent) -> None:
    agent.keep_all()

    with pytest.raises(AgentError, match=r"no answer within 0\.3 s; it is withdrawn"):
        ask_agent(agent.folder, Thaw(), 0.3)


def test_a_person_who_waits_is_told_once_which_agent_does_not_answer(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "SILENCE_SECONDS", 0.05)
    agent.keep_all()
    said: list[str] = []

    with pytest.raises(AgentError, match=f"agent pid {os.getpid()} at "):
        ask_agent(agent.folder, Thaw(), 2.0, said.append)

    assert len(said) == 1
    assert said[0].startswith(f"agent pid {os.getpid()} at {agent.path} has not answered for 0.05 s: ")


def test_a_request_is_wanted_while_its_client_is_there_and_its_time_is_not_over(agent: Agent) -> None:
    agent.keep_all()
    with agent.connect() as client:
        client.sendall(b'{"ask": "thaw"}\n')
        pending = agent.kept.get(timeout=10)
        client.shutdown(socket.SHUT_WR)
        assert pending.is_wanted  # it says no more, and still reads
    assert not pending.is_wanted

    with agent.connect() as client:
        client.sendall(b'{"ask": "thaw", "deadline": 0.001}\n')
        assert not agent.kept.get(timeout=10).is_wanted


def test_a_request_is_no_longer_wanted_once_its_client_was_told_that_there_is_no_answer(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "ANSWER_SECONDS", 0.2)
    agent.keep_all()

    with agent.connect() as client:
        client.sendall(b'{"ask": "thaw"}\n')
        pending = agent.kept.get(timeout=10)
        heard(client)
        assert not pending.is_wanted


def test_an_agent_that_ends_before_it_answers_is_an_error(work: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(work / SOCKET_FILE))
        listener.listen()

        def dying() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(b'{"is_ok": tr')
            connection.close()

        threading.Thread(target=dying).start()
        with pytest.raises(AgentError, match="ended before it had answered"):
            ask_agent(str(work), Thaw(), 10)


def test_an_agent_whose_queue_is_full_is_asked_until_there_is_room(work: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(work / SOCKET_FILE))
        listener.listen(0)
        first = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        first.connect(str(work / SOCKET_FILE))

        with pytest.raises(AgentError, match="no answer within"):
            ask_agent(str(work), Thaw(), 0.3)


def test_a_path_too_long_for_a_socket_says_which_key_to_change(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()

    with pytest.raises(ConfigError, match=r"agent\.runtime_dir"):
        Requests(str(folder / SOCKET_FILE), lambda _: None)
    with pytest.raises(ConfigError, match="107 bytes"):
        ask_agent(str(folder), Thaw(), 1)


# -- who asks -----------------------------------------------------------------------------------------------------


def test_the_kernel_says_who_asks_and_a_claim_stands_beside_it(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.answer = lambda pending: Reply.done(pending.request.who)
    monkeypatch.setenv("SUDO_USER", "alice")
    name = user_name(os.getuid(), "")

    said = ask_agent(agent.folder, Thaw(who="mallory"), 10)

    assert said == Reply.done(f"alice (through sudo as {name})")


@pytest.mark.parametrize("claimed", ["a b", "x\n", "root (through sudo as root)", "\x1b[31m", "a" * 33])
def test_a_claim_that_is_no_name_is_not_sent(agent: Agent, monkeypatch: pytest.MonkeyPatch, claimed: str) -> None:
    agent.answer = lambda pending: Reply.done(pending.request.who)
    monkeypatch.setenv("SUDO_USER", claimed)

    assert ask_agent(agent.folder, Thaw(), 10) == Reply.done(user_name(os.getuid(), ""))


def test_a_user_without_a_name_is_a_number_and_no_name_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_name(4242424, "") == "uid 4242424"
    assert user_name(0, "root") == "root"
    assert user_name(None, "") == "somebody"
    long = user_name(4242424, "a" * 32)
    assert len(long) <= MAX_WHO
    assert long.endswith(" (through sudo as uid 4242424)")

    odd = type("Entry", (), {"pw_name": "DOM\\é\x1b" * 9})
    monkeypatch.setattr(pwd, "getpwuid", lambda _: odd)
    assert user_name(5, "a" * 32).isascii()
    assert user_name(5, "a" * 32).isprintable()
    assert len(user_name(5, "a" * 32)) <= MAX_WHO


def test_another_user_may_not_ask_unless_the_group_lets_him(work: Path) -> None:
    """Needs root, as the harness does."""
    agent = Agent(work)
    try:
        work.chmod(0o755)
        agent.answer = lambda pending: Reply.done(pending.request.who)
        refused = subprocess.run([sys.executable, "-c", ASK, work], capture_output=True, text=True, check=True)
        os.chown(agent.path, -1, 65534)
        allowed = subprocess.run([sys.executable, "-c", ASK, work], capture_output=True, text=True, check=True)
    finally:
        agent.requests.close()

    assert "AgentError" in refused.stdout
    assert "may not be asked by this user" in refused.stdout
    assert allowed.stdout.strip() == user_name(65534, "")


# -- the socket ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_socket_is_for_owner_and_group_whatever_the_umask(work: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        requests = Requests(str(work / SOCKET_FILE), lambda _: None)
    finally:
        os.umask(before)
    mode = stat.S_IMODE((work / SOCKET_FILE).stat().st_mode)
    requests.close()

    assert oct(mode) == "0o660"


def test_the_socket_never_was_more_open_than_it_is(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            seen.append(stat.S_IMODE(Path(str(address)).stat().st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        Requests(str(work / SOCKET_FILE), lambda _: None).close()
    finally:
        os.umask(before)

    assert [oct(mode) for mode in seen] == ["0o660"]


def test_the_socket_of_a_dead_agent_is_replaced_and_its_leftovers_are_removed(work: Path) -> None:
    for name in (SOCKET_FILE, edge._TEMPORARY):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(work / name))
    (work / ".5.new").write_text("not ours")
    agent = Agent(work)

    assert works(agent)
    assert {path.name for path in work.iterdir()} == {SOCKET_FILE, ".5.new"}
    agent.requests.close()
    assert not agent.path.exists()


def test_closing_leaves_another_agents_socket_alone(work: Path) -> None:
    old = Agent(work)
    new = Agent(work)
    old.requests.close()
    old.requests.close()

    assert works(new)
    new.requests.close()


def test_a_folder_that_is_not_there_is_an_error_and_leaves_nothing_running(work: Path) -> None:
    before = threading.active_count()

    with pytest.raises(FileNotFoundError):
        Requests(str(work / "no" / SOCKET_FILE), lambda _: None)

    assert threading.active_count() == before


# -- bad clients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\n", "not JSON"),
        (b"GET / HTTP/1.1\r\n\r\n", "not JSON"),
        (b"\xff\xfe\x00\n", "not JSON"),
        (b"[" * 60_000 + b"\n", "not JSON"),
        (b'"thaw"\n', "not a JSON object"),
        (b'{"ask": "shell"}\n', "must be one of"),
        (b'{"ask": "hold", "backend": "web"}\n', "server: is missing"),
        (b"x" * (MAX_REQUEST_BYTES + 1) + b"\n", "at most 65536 bytes"),
        (b"x" * (4 * MAX_REQUEST_BYTES), "at most 65536 bytes"),
    ],
    ids=lambda raw: str(raw[:20]),
)
def test_what_is_no_request_is_answered_with_what_is_wrong(agent: Agent, raw: bytes, said: str) -> None:
    agent.answer = lambda _: Reply.done("must not get here")
    reply = agent.say(raw)

    assert (reply.exit_code, said in reply.lines[0]) == (64, True), reply
    assert works(agent)


def test_a_request_may_come_in_pieces_and_only_its_first_line_counts(agent: Agent) -> None:
    asked: list[Pending] = []

    def answer(pending: Pending) -> Reply:
        asked.append(pending)
        return Reply.done("done")

    agent.answer = answer
    with agent.connect() as client:
        for piece in (b'{"as', b'k": "th', b'aw"}', b'\n{"ask": "apply"}\n'):
            client.sendall(piece)
            time.sleep(0.05)
        assert heard(client) == Reply.done("done")
    assert [type(one.request) for one in asked] == [Thaw]


@pytest.mark.usefixtures("hurried")
def test_a_silent_client_is_told_and_let_go(agent: Agent) -> None:
    with agent.connect() as client:
        reply = heard(client)
        assert client.recv(1) == b""

    assert (reply.exit_code, "no request within" in reply.lines[0]) == (64, True)
    assert works(agent)


@pytest.mark.usefixtures("hurried")
def test_a_client_that_sends_a_byte_now_and_then_is_let_go_too(agent: Agent) -> None:
    with agent.connect() as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(1000):
            client.sendall(b" ")
            time.sleep(0.005)
        pytest.fail("it was listened to for 5 s")
    assert works(agent)


@pytest.mark.usefixtures("hurried")
def test_a_client_that_takes_no_answer_is_let_go(agent: Agent) -> None:
    agent.answer = lambda _: Reply.done("x" * 4_000_000)
    with agent.connect() as client:
        client.sendall(b'{"ask": "thaw"}\n')
        wait_until(lambda: not any(one.is_alive() for one in agent.requests._clients), 10, "the client to be dropped")
    assert works(agent)


def test_a_worker_that_never_answers_keeps_no_client_for_ever(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "ANSWER_SECONDS", 0.2)
    agent.keep_all()

    reply = ask_agent(agent.folder, Thaw(), 10)

    assert reply == Reply.cannot_tell("the agent has not answered; see its log")


def test_an_answer_to_a_client_that_left_is_dropped(agent: Agent) -> None:
    agent.keep_all()
    with agent.connect() as client:
        client.sendall(b'{"ask": "thaw"}\n')
        pending = agent.kept.get(timeout=10)
    wait_until(lambda: not any(one.is_alive() for one in agent.requests._clients), 10, "the client to be dropped")
    pending.respond(Reply.done("too late"))

    assert works(agent)


def test_a_client_that_says_no_more_still_gets_its_answer(agent: Agent) -> None:
    agent.keep_all()
    with agent.connect() as client:
        client.sendall(b'{"ask": "thaw"}\n')
        client.shutdown(socket.SHUT_WR)
        pending = agent.kept.get(timeout=10)
        time.sleep(0.1)
        pending.respond(Reply.done("here"))
        assert heard(client) == Reply.done("here")


def test_more_clients_than_are_served_at_once_are_told_to_come_again(agent: Agent) -> None:
    agent.keep_all()
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(agent.connect()) for _ in range(MAX_CLIENTS)]
        for client in waiting:
            client.sendall(b'{"ask": "thaw"}\n')
        deferred = [agent.kept.get(timeout=10) for _ in waiting]
        assert agent.say(b'{"ask": "thaw"}\n') == Reply.cannot_tell(
            f"the agent serves {MAX_CLIENTS} commands already; try again in a moment"
        )
        for number, pending in enumerate(deferred):
            pending.respond(Reply.done(str(number)))
        assert sorted(heard(client).lines[0] for client in waiting) == sorted(map(str, range(MAX_CLIENTS)))
    assert works(agent)


def test_a_defect_of_the_worker_is_told_and_ends_nothing(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Pending) -> Reply:
        raise RuntimeError("a defect")

    agent.answer = broken
    reply = ask_agent(agent.folder, Thaw(), 10)

    assert reply is not None
    assert (reply.exit_code, "a defect of hapsync" in reply.lines[0]) == (1, True)
    assert "a defect" in caplog.text
    assert works(agent)


def test_a_defect_of_the_socket_itself_does_not_end_its_thread(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("not thought of")

    with monkeypatch.context() as patched:
        patched.setattr(edge, "request_from_json", broken)
        with agent.connect() as client:
            client.sendall(b'{"ask": "thaw"}\n')
            assert client.recv(1) == b""
    with monkeypatch.context() as patched:
        patched.setattr(agent.requests, "_listen_again", lambda: broken(""))
        wait_until(lambda: ask_and_forget(agent) or caplog.text.count("not thought of") > 1, 10, "the defect")

    assert works(agent)


def ask_and_forget(agent: Agent) -> bool:
    with contextlib.suppress(AgentError):
        ask_agent(agent.folder, Thaw(), 0.05)
    return False


def test_when_no_descriptor_is_left_the_thread_rests_and_goes_on(
    agent: Agent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    listener = agent.requests._listener

    class Full:
        def fileno(self) -> int:
            return listener.fileno()

        def accept(self) -> None:
            calls.append(time.monotonic())
            raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(agent.requests, "_listener", Full())
        with agent.connect():
            wait_until(lambda: len(calls) >= 3, 10, "three tries")

    assert min(later - earlier for earlier, later in itertools.pairwise(calls)) > 0.2
    assert "Too many open files" in caplog.text
    assert works(agent)


def test_hundreds_of_odd_clients_at_once_leave_the_agent_well(agent: Agent) -> None:
    agent.answer = lambda pending: Reply.done(pending.request.who)
    pieces = [b"", b"\n", b"\0" * 100, b'{"ask": "thaw"}\n', b"[" * 70_000, b'{"ask"', b"\xff\n" * 9]

    def trouble(number: int) -> None:
        for turn in range(40):
            with contextlib.suppress(OSError), agent.connect() as client:
                client.sendall(pieces[(number + turn) % len(pieces)])

    threads = [threading.Thread(target=trouble, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Some may still wait to be heard, and for a moment more than are served at once.
    wait_until(lambda: works(agent), 10, "the agent to answer a good one")


def test_whoever_waits_when_the_agent_stops_is_told(agent: Agent) -> None:
    agent.keep_all()
    with agent.connect() as asked, agent.connect() as silent:
        asked.sendall(b'{"ask": "thaw"}\n')
        pending = agent.kept.get(timeout=10)
        agent.requests.close()
        pending.respond(Reply.done("too late"))
        told = [heard(asked), heard(silent)]

    assert {reply.exit_code for reply in told} == {1}
    assert all("the agent is stopping" in reply.lines[0] for reply in told)
    assert ask_agent(agent.folder, Thaw(), 5) is None


def test_closing_waits_for_no_client_and_for_no_check_of_the_name(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "_CHECK_SECONDS", 600.0)
    requests = Requests(str(work / SOCKET_FILE), lambda _: None)
    requests.close()

    assert not requests._thread.is_alive()


def test_an_answer_given_just_before_the_end_still_arrives(agent: Agent) -> None:
    agent.keep_all()
    with agent.connect() as client:
        client.sendall(b'{"ask": "thaw"}\n')
        agent.kept.get(timeout=10).respond(Reply.done("just in time"))
        agent.requests.close()
        assert heard(client) == Reply.done("just in time")

"""The conversation with HAProxy: the same contract for the real one and for the fake that injects faults."""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hapsync.errors import RuntimeAPIError
from hapsync.haproxy.commands import SHOW_INFO, SHOW_STAT_SERVERS, Command, show_servers_state
from hapsync.haproxy.show import parse_info
from hapsync.haproxy.socket import open_session
from hapsync.model.server import NO_LOAD, Address, AdminState, FirstCheck
from tests.edge.fake_haproxy import STATE, Send, byte_by_byte, fake_haproxy, reply_to, whole
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.ports import free_port
from tests.harness.processes import wait_until


@contextlib.contextmanager
def real_haproxy(work: Path) -> Iterator[Path]:
    config = work / "haproxy.cfg"
    lines = ["server srv1 127.0.0.1:9000 weight 1 disabled"]
    config.write_text(minimal_config(work / "admin.sock", free_port(), {"app": lines}))
    with HAProxy(config, work):
        yield work / "admin.sock"


@contextlib.contextmanager
def whole_fake(work: Path) -> Iterator[Path]:
    with fake_haproxy(work / "fake.sock"):
        yield work / "fake.sock"


@contextlib.contextmanager
def slow_fake(work: Path) -> Iterator[Path]:
    with fake_haproxy(work / "fake.sock", send=byte_by_byte):
        yield work / "fake.sock"


@pytest.fixture(params=[real_haproxy, whole_fake, slow_fake])
def socket_path(request: pytest.FixtureRequest, work: Path) -> Iterator[str]:
    with request.param(work) as path:
        yield str(path)


def test_each_reply_belongs_to_its_command_silent_wordy_and_unterminated_ones_alike(socket_path: str) -> None:
    commands = [
        Command("set server app/srv1 weight 1"),
        Command("set server app/srv1 weight x"),
        Command("nonsense"),
        Command("set server app/srv1 weight 1"),
        Command("show servers state nosuch"),
    ]

    with open_session(socket_path, 5) as session:
        replies = [reply.strip() for reply in session.ask(commands)]

    assert [reply[:15] for reply in replies] == ["", "Empty weight st", "Unknown command", "", "Can't find back"]


def test_many_more_commands_than_any_buffer_holds_are_all_answered_in_order(socket_path: str) -> None:
    commands = [Command(f"set server app/srv1 weight {number % 3 or 'x'}") for number in range(2000)]

    with open_session(socket_path, 20) as session:
        replies = session.ask(commands)

    refused = [number for number, reply in enumerate(replies) if reply.strip()]
    assert len(replies) == 2000
    assert set(refused) == (set(range(0, 2000, 3)) if len(refused) == 667 else set())


def test_one_backend_is_read_and_an_unknown_one_is_said_not_to_exist(socket_path: str) -> None:
    with open_session(socket_path, 5) as session:
        observed = session.read_servers(("app", "nosuch"))

    [slot] = observed.backends["app"].slots
    assert (slot.name, slot.address, slot.admin) == ("srv1", Address("127.0.0.1", 9000), AdminState.MAINT)
    assert not observed.backends["nosuch"].exists


def test_who_answers_is_read(socket_path: str) -> None:
    with open_session(socket_path, 5) as session:
        process = session.read_process()

    assert process.pid > 0
    assert process.version.startswith("2.6")


def test_a_stopping_worker_is_no_one_to_speak_to(work: Path) -> None:
    def stopping(command: bytes) -> bytes:
        return reply_to(command).replace(b"Stopping: 0", b"Stopping: 1")

    with (
        fake_haproxy(work / "fake.sock", answer=stopping),
        open_session(str(work / "fake.sock"), 5) as session,
        pytest.raises(RuntimeAPIError, match="4711, which is stopping"),
    ):
        session.read_process()


def test_a_worker_that_hangs_up_in_the_middle_is_an_error_and_not_a_short_answer(work: Path) -> None:
    def dying(command: bytes) -> bytes | None:
        return None if command.endswith(b"3") else reply_to(command)

    with (
        fake_haproxy(work / "fake.sock", answer=dying),
        open_session(str(work / "fake.sock"), 5) as session,
        pytest.raises(RuntimeAPIError),
    ):
        session.ask([Command(f"set server app/srv1 weight {number}") for number in range(5)])


def test_a_worker_that_hangs_is_an_error_once_the_timeout_is_over(work: Path) -> None:
    def hanging(command: bytes) -> bytes:
        if b"info" in command:
            time.sleep(1)
        return reply_to(command)

    with (
        fake_haproxy(work / "fake.sock", answer=hanging),
        open_session(str(work / "fake.sock"), 0.2) as session,
        pytest.raises(RuntimeAPIError, match="no answer in time"),
    ):
        session.read_process()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _path: None, "does not exist"),
        (lambda path: path.write_text(""), "refuses the connection"),
    ],
)
def test_a_socket_that_is_not_there_says_what_to_look_at(work: Path, make: object, said: str) -> None:
    path = work / "admin.sock"
    make(path)  # type: ignore[operator]

    with pytest.raises(RuntimeAPIError, match=said), open_session(str(path), 1):
        pass


def test_a_path_too_long_for_a_unix_socket_is_said_so() -> None:
    with pytest.raises(RuntimeAPIError, match="107 bytes"), open_session("/tmp/" + "x" * 120, 1):
        pass


def test_a_full_socket_is_said_to_be_full(work: Path) -> None:
    with real_haproxy(work) as path, contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(open_session(str(path), 5)).read_process()

        with pytest.raises(RuntimeAPIError), open_session(str(path), 0.3) as session:
            session.read_process()


def test_a_frontend_of_the_same_name_does_not_hide_a_backends_loads(work: Path) -> None:
    config = work / "haproxy.cfg"
    text = minimal_config(work / "admin.sock", free_port(), {"app": ["server srv1 127.0.0.1:9000 disabled"]})
    config.write_text(text + f"\nfrontend app\n    bind 127.0.0.1:{free_port()}\n    default_backend app\n")
    with HAProxy(config, work), open_session(str(work / "admin.sock"), 5) as session:
        observed = session.read_servers(("app",))
        stat = session.read_stats(list(observed.backends.values()))

    assert stat.loads == {("app", "srv1"): NO_LOAD}
    assert stat.first_checks == {("app", "srv1"): FirstCheck.PASSED}


QUOTED = '# pxname,svname,last_chk,type,\napp,srv1,"bad""\n> \n\n> 1\n# be_id\n> ",2,\n\n'
"""As HAProxy 2.6.12 writes what a server answered to its check."""


@pytest.mark.parametrize("send", [whole, byte_by_byte])
def test_a_delimiter_between_the_quotes_of_show_stat_ends_no_reply(work: Path, send: Send) -> None:
    def answer(command: bytes) -> bytes:
        return QUOTED.encode() if command.startswith(b"show stat ") else reply_to(command)

    with (
        fake_haproxy(work / "fake.sock", send=send, answer=answer),
        open_session(str(work / "fake.sock"), 5) as session,
    ):
        replies = session.ask((SHOW_STAT_SERVERS, SHOW_INFO, SHOW_STAT_SERVERS, SHOW_INFO))

    assert replies[0] == replies[2] == QUOTED
    assert [parse_info(reply).pid for reply in (replies[1], replies[3])] == [4711, 4711]


FORGED = STATE.replace(b" 9000\n", b" 9000 db.example\n> .example\n")
"""As HAProxy would write a name that an SRV record gave, if DNS gave it this one."""


def forging(command: bytes) -> bytes:
    return FORGED if command == b"show servers state app" else reply_to(command)


def test_a_delimiter_in_a_name_from_dns_is_refused_and_no_later_reply_is_believed(work: Path) -> None:
    with fake_haproxy(work / "fake.sock", answer=forging), open_session(str(work / "fake.sock"), 5) as session:
        assert session.read_process().pid == 4711
        with pytest.raises(RuntimeAPIError, match=r"more was answered than was asked for.*example"):
            session.read_servers(("app",))
        with pytest.raises(RuntimeAPIError, match="more was answered than was asked for"):
            session.read_process()


def test_a_reply_that_comes_after_a_delimiter_in_a_name_from_dns_is_not_taken_for_the_next_one(work: Path) -> None:
    may_go_on = threading.Event()

    def late(connection: socket.socket, reply: bytes) -> None:
        if reply.startswith(b"Name: "):
            may_go_on.wait(20)
        connection.sendall(reply)

    with (
        fake_haproxy(work / "fake.sock", answer=forging, send=late),
        open_session(str(work / "fake.sock"), 20) as session,
    ):
        session.ask((show_servers_state("app"), SHOW_INFO))
        may_go_on.set()
        wait_until(lambda: select.select([session._socket], (), (), 0)[0], 10, "the last reply")
        with pytest.raises(RuntimeAPIError, match="more was answered than was asked for"):
            session.ask((SHOW_INFO,))


def test_what_one_backends_line_spoils_in_the_dump_of_all_is_read_again_alone(work: Path) -> None:
    names = ("app", *(f"other{number}" for number in range(9)))
    [_, columns, line, _] = STATE.split(b"\n")
    broken = b"4 other1 1 srv1 127.0.0.1\n" + line.replace(b" 1 srv1", b" 1 srv9\n" + line)

    def answer(command: bytes) -> bytes:
        match command.split():
            case [b"show", b"servers", b"state"]:
                return b"1\n" + columns + b"\n" + line + b"\n" + broken + b"\n"
            case [b"show", b"servers", b"state", b"other1"]:
                return b"1\n" + columns + b"\n4 other1 1 srv1 127.0.0.1\n"
            case _:
                return reply_to(command)

    with fake_haproxy(work / "fake.sock", answer=answer), open_session(str(work / "fake.sock"), 5) as session:
        _, observed = session.read_all(names)

    assert list(observed.unread) == ["other1"]
    assert [slot.name for slot in observed.backends["app"].slots] == ["srv1"]
    assert len(observed.backends) == 9


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, in this process, for as long as the block runs."""
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def lost_at(path: Path, timeout_seconds: float = 0.5) -> RuntimeAPIError:
    with pytest.raises(RuntimeAPIError) as caught, open_session(str(path), timeout_seconds) as session:
        session.read_process()
    return caught.value


def test_only_a_socket_that_does_not_exist_or_refuses_means_that_haproxy_is_down(work: Path) -> None:
    work.chmod(0o755)
    path = work / "some.sock"
    assert lost_at(path).is_down
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(path))
        assert lost_at(path).is_down
        listener.listen(0)
        assert not lost_at(path).is_down  # it hangs
        path.chmod(0o600)
        with as_nobody():
            forbidden = lost_at(path)
        assert "may not be opened" in str(forbidden)
        assert not forbidden.is_down
        for _ in range(3):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(str(path))
        full = lost_at(path)
        assert "is full" in str(full)
        assert not full.is_down

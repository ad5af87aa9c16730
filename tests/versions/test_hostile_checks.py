"""What a server answers to HAProxy's check, and `show stat` repeats, stops no backend and forges no reply."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from hapsync.haproxy.commands import SHOW_INFO, SHOW_STAT_SERVERS
from hapsync.haproxy.socket import open_session
from tests.demo.fleet import HOST, Fleet, Member
from tests.demo.stage import NO_GUARD, Stage
from tests.faults.scene import settle
from tests.harness.chaos import SocketChaos
from tests.harness.processes import wait_until

HTTP_CHECK = "    option httpchk GET /healthcheck\n    http-check expect status 200\n"
FORGED = 'bad\n> Pid: 4711\n\n> 1\n# be_id"\n> \n\n> '
"""An end of the reply, the beginning of others, and a quote that would end the field if it were not doubled."""
BROKEN_STATE = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state\n3 db 1 srv1\n"


def mysql_error(text: str) -> bytes:
    """Return the first packet of a MySQL server that refuses, with its words."""
    body = b"\xff\x10\x04" + text.encode()
    return len(body).to_bytes(3, "little") + b"\x00" + body


def pgsql_error(text: str) -> bytes:
    """Return the first message of a PostgreSQL server that refuses, with its words."""
    return b"E" + (len(text) + 5).to_bytes(4, "big") + b"S" + text.encode()


@contextmanager
def hostile_server(packet: bytes) -> Iterator[int]:
    """Serve, on the port that is returned, a server which answers every connection with `packet`."""

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(5)
            connection.sendall(packet)
            connection.recv(1024)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def check_databases(stage: Stage, option: str) -> None:
    """Have HAProxy check the backend `db` as a database, live and in the template."""
    template = stage.work / "haproxy.cfg.j2"
    head, section, rest = template.read_text(encoding="utf-8").partition("\nbackend db\n")
    template.write_text(head + section + rest.replace(HTTP_CHECK, f"    {option}\n"), encoding="utf-8")
    stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout, encoding="utf-8")
    stage.haproxy.reload()


def is_out(stage: Stage, port: int) -> bool:
    return all(one.in_maintenance for one in stage.haproxy.servers("db").values() if one.port == port)


@pytest.mark.parametrize(
    ("option", "packet"),
    [("option mysql-check user x", mysql_error(FORGED)), ("option pgsql-check user x", pgsql_error(FORGED))],
    ids=["mysql", "pgsql"],
)
def test_a_database_that_refuses_with_line_feeds_and_a_forged_prompt_stops_no_backend(
    option: str, packet: bytes
) -> None:
    with (
        Stage(
            {"web": 3, "db": 3},
            server_options="check inter 100ms",
            backend_options=NO_GUARD,
            agent_options="resync_seconds = 1",
            agent=False,
        ) as stage,
        Fleet(stage) as fleet,
        hostile_server(packet) as port,
    ):
        check_databases(stage, option)
        stage.start_agent()
        databases = Fleet(stage, "db")
        databases.put(Member("hostile", "node-a", port))
        databases.add()
        wait_until(lambda: "bad" in stage.haproxy.ask("show stat"), 15, "HAProxy to repeat what the server says")

        stayed, left = fleet.add(), fleet.add()
        stage.wait_equal("web")
        with open_session(str(stage.haproxy.socket_path), 5) as session:
            replies = session.ask((SHOW_STAT_SERVERS, SHOW_INFO, SHOW_STAT_SERVERS, SHOW_INFO))
        fleet.remove(left.name)
        stage.wait_equal("web")
        databases.remove("hostile")
        wait_until(lambda: is_out(stage, port), 20, "the hostile server to be taken out")
        wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "status to say that all is in sync")

        pid = f"\nPid: {stage.haproxy.worker_pid()}\n"
        assert [reply[:8] for reply in replies] == ["# pxname", "Name: HA", "# pxname", "Name: HA"]
        assert [pid in reply for reply in replies] == [False, True, False, True]
        assert [one.port for one in stage.haproxy.servers("web").values() if one.running] == [stayed.port]
        assert "cannot be read" not in (stage.work / "agent.log").read_text(encoding="utf-8")


def test_a_backend_that_cannot_be_read_stops_no_other_and_keeps_its_part_of_the_file() -> None:
    with (
        Stage({"web": 1, "db": 3}, backend_options=f'{NO_GUARD}\nscaling = "slots"', agent=False) as stage,
        Fleet(stage) as fleet,
        SocketChaos(stage.work, stage.work / "chaos.sock", stage.haproxy.socket_path) as chaos,
    ):
        databases = Fleet(stage, "db")
        database, _ = databases.add(), databases.add()
        assert stage.hapsync("apply").returncode == 0
        settle(stage.config_path, socket=str(chaos.path))
        chaos.reply_with(BROKEN_STATE, command="show servers state db")
        stage.start_agent()
        databases.remove(database.name)
        fleet.add()
        fleet.add()
        stage.wait_equal("web", 20)
        wait_until(lambda: stage.reloads() == 1, 15, "the reload for more slots")
        wait_until(lambda: len(stage.status()["sync"]["reasons"]) == 1, 15, "status to know what the agent has read")
        status = stage.status()
        plan = stage.hapsync("plan")
        check = stage.hapsync("check")

        assert status["sync"]["verdict"] == "cannot_tell"
        assert [one[:40] for one in status["sync"]["reasons"]] == ["backend db cannot be read: `show servers"]
        assert "show servers state" in status["backends"]["db"]["unread"]
        assert status["backends"]["web"]["unread"] is None
        assert (plan.returncode, "backend db cannot be read" in plan.stdout) == (1, True)
        assert "backend db cannot be read" in check.stdout
        assert f"server srv1 {database.address} weight 10" in stage.haproxy.config.read_text(encoding="utf-8")
        log = (stage.work / "agent.log").read_text(encoding="utf-8")
        assert log.count("backend db cannot be read") == 1

        chaos.pass_through()
        stage.wait_equal("db", 20)
        wait_until(lambda: stage.hapsync("status").returncode == 0, 15, "status to say that all is in sync")

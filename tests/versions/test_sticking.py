"""Stick tables that outlive a reload lead no client of a slot's last instance to its next one."""

import re
import threading
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException

from tests.demo.fleet import Fleet
from tests.demo.stage import NO_GUARD, Stage
from tests.faults.scene import settle
from tests.harness.chaos import SocketChaos
from tests.harness.haproxy import HAProxy
from tests.harness.ports import free_port
from tests.harness.processes import wait_until

ENTRIES = 90_000
TABLE = "mates/t1"


def test_a_reload_that_brings_the_table_along_leads_no_client_of_a_busy_slots_last_instance_to_the_next() -> None:
    options = f'scaling = "slots"\n{NO_GUARD}'
    with Stage({"web": 3}, backend_options=options, agent=False) as stage, Fleet(stage, linger_seconds=60) as fleet:
        share_a_table(stage)
        members = [fleet.add() for _ in range(3)]
        assert stage.hapsync("apply").returncode == 0
        # Up to 2.8 a worker teaches the next one only what it is sure to have learnt itself.
        wait_until(lambda: has_learnt(stage.haproxy), 20, "the worker to know that nobody teaches it")
        [gone] = [one for one in stage.haproxy.servers("web").values() if one.port == members[0].port]
        keep_busy(stage, gone.port)
        lines = [f"set table {TABLE} key /old-{number} data.server_id {gone.id}" for number in range(ENTRIES)]
        for place in range(0, ENTRIES, 50):
            stage.haproxy.ask(";".join(lines[place : place + 50]))
        fleet.remove(members[0].name)
        assert stage.hapsync("apply").returncode == 0

        new = {fleet.add().port for _ in range(3)}
        applied = stage.hapsync("apply")
        assert (applied.returncode, stage.reloads()) == (0, 2), applied
        wait_until(lambda: has_learnt(stage.haproxy), 20, "the new worker to have learnt the table")
        given = [one for one in stage.haproxy.servers("web").values() if one.port in new]

        assert gone.id in {one.id for one in given}, "the slot was not given away"
        assert [len(led_to(stage.haproxy, one.id)) for one in given] == [0, 0, 0]


def test_a_table_that_may_not_be_cleared_is_told_and_keeps_no_newcomer_out() -> None:
    options = f'scaling = "slots"\n{NO_GUARD}'
    with Stage({"web": 3}, backend_options=options, agent=False) as stage, Fleet(stage) as fleet:
        share_a_table(stage)
        with SocketChaos(stage.work, stage.work / "chaos.sock", stage.haproxy.socket_path) as chaos:
            settle(stage.config_path, socket=str(chaos.path))
            chaos.reply_with("Permission denied\n", command="clear table")
            fleet.add()
            applied = stage.hapsync("apply")

        assert applied.returncode == 0, applied
        assert f"refused clear table {TABLE} data.server_id eq 1: Permission denied" in applied.stdout
        assert "add     web/srv1" in applied.stdout
        assert stage.differences() == []


def share_a_table(stage: Stage) -> None:
    """Have the template's clients stick by a table that a reload hands to the new worker."""
    path = stage.work / "haproxy.cfg.j2"
    text = path.read_text().replace(
        "    balance roundrobin\n", f"    balance roundrobin\n    stick on path table {TABLE}\n"
    )
    peers = (
        f"\npeers mates\n    peer me 127.0.0.1:{free_port()}\n"
        f"    table t1 type string len 32 size 100k expire 1h store server_id\n"
    )
    path.write_text(text.replace("global\n", "global\n    localpeer me\n", 1) + peers)
    stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout)
    stage.haproxy.reload()


def has_learnt(haproxy: HAProxy) -> bool:
    flags = re.search(r"id=mates disabled=0 flags=0x([0-9a-f]+)", haproxy.ask("show peers"))
    return flags is not None and int(flags[1], 16) & 7 == 3


def keep_busy(stage: Stage, port: int) -> None:
    """Have a client wait for an answer of the server at `port` for longer than the test takes."""

    def wait(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", stage.frontend_port, timeout=60)
        with closing(connection), suppress(OSError, HTTPException):  # the stage ends before all of it has come
            connection.request("GET", f"/{number}/drip?ms=200000")
            connection.getresponse().read()

    def is_busy() -> bool:
        stats = stage.haproxy.stat("web").values()
        return any(one["addr"].endswith(f":{port}") and one["scur"] != "0" for one in stats)

    for number in range(3):  # in turn, one to each server
        threading.Thread(target=wait, args=(number,), daemon=True).start()
    wait_until(is_busy, 20, "the server to be busy")


def led_to(haproxy: HAProxy, number: int) -> set[str]:
    """The keys of the table's entries that lead to the server with this id."""
    return set(re.findall(r" key=(/old-\S+)", haproxy.ask(f"show table {TABLE} data.server_id eq {number}")))

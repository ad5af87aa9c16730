"""HAProxy is killed, hung, restarted, reloaded by others, full, rude: hapsync waits, says so, and mends it after."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import attrs
import pytest

from tests.demo.stage import Stage
from tests.faults.scene import Scene, say_figure, scene, settle
from tests.harness.chaos import SocketChaos
from tests.harness.processes import wait_until

DOWN = {
    "cannot connect: ECONNREFUSED",
    "cannot connect: ECONNRESET",
    "closed before a response",
    "ECONNRESET before a response",
}
"""What clients see of an HAProxy that is killed, whatever hapsync does."""


def wait_file(scene: Scene, *members_in: int) -> None:
    """Wait until the file names these ports."""
    wait_until(
        lambda: all(f":{port} " in scene.stage.haproxy.config.read_text() for port in members_in), 20, "the file"
    )


def change(scene: Scene) -> None:
    """Bring one instance and take another away."""
    oldest = next(iter(scene.fleet.members))
    scene.fleet.add()
    scene.fleet.remove(oldest)


# Killed, hung, restarted


@pytest.mark.parametrize("killed", ["the worker", "everything"])
def test_an_haproxy_that_is_killed_while_changes_go_on_starts_with_the_current_servers(killed: str) -> None:
    with scene(slots=10) as here:
        haproxy = here.stage.haproxy
        before = here.lost()
        assert before.failed == 0
        for _ in range(3):
            if killed == "the worker":
                pid = haproxy.worker_pid()
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not haproxy.process.running, 10, "the master to give up, as it does")
            haproxy.kill()
            change(here)
            here.wait_said("HAProxy's socket")
            assert here.stage.hapsync("status").returncode == 1
            wait_file(here, *(one.port for one in here.fleet.members.values()))
            haproxy.start()
            started_with = here.serving()
            change(here)

            assert {one.port for one in list(here.fleet.members.values())[:-1]} <= started_with
            time.sleep(0.5)
        forced = here.lost()
        assert set(forced.by_reason) <= DOWN
        change(here)
        here.ends(forced=forced)
        assert here.stage.reloads() == 0


@contextmanager
def an_old_file(here: Scene) -> Iterator[Path]:
    """The file as it was before two instances came and two went, whose servers are gone by now."""
    haproxy = here.stage.haproxy
    wait_file(here, *(one.port for one in here.fleet.members.values()))
    old = haproxy.config.read_text()
    change(here)
    change(here)
    here.wait_in_step()
    time.sleep(here.fleet._linger_seconds + 0.5)
    assert haproxy.config.read_text() != old
    kept = here.stage.work / "old.cfg"
    kept.write_text(old)
    yield kept


@pytest.mark.quick
def test_an_haproxy_that_starts_from_an_old_file_is_mended_before_a_request_is_lost() -> None:
    with scene() as here, an_old_file(here) as old:
        haproxy = here.stage.haproxy
        haproxy.kill()
        haproxy.config.write_text(old.read_text())
        begin = time.monotonic()
        haproxy.start()
        started = time.monotonic()
        forced = here.lost()
        here.stage.wait_equal()
        say_figure(
            f"HAProxy started from an old file: right {time.monotonic() - started:.2f} s after it answered, "
            f"down for {started - begin:.2f} s"
        )
        assert set(forced.by_reason) <= DOWN
        here.ends(forced=forced)
        text = haproxy.config.read_text()
        assert all(f":{one.port} " in text for one in here.fleet.members.values())


@pytest.mark.parametrize("file", ["the current file", "an old file"])
def test_a_reload_by_somebody_else_is_noticed_and_costs_nothing(file: str) -> None:
    with scene() as here, an_old_file(here) as old:
        members = list(here.fleet.members.values())
        here.fleet.put(attrs.evolve(members[0], maintenance=True))
        here.wait_in_step()
        haproxy = here.stage.haproxy
        if file == "an old file":
            haproxy.config.write_text(old.read_text())
        haproxy.reload()
        begin = time.monotonic()
        here.stage.wait_equal()
        say_figure(f"reload by somebody else into {file}: right {time.monotonic() - begin:.2f} s after it answered")

        assert here.stage.reloads() == 1
        here.wait_counted("workers_seen", 2)
        change(here)
        here.ends()
        assert here.stage.reloads() == 1


def test_a_worker_that_hangs_is_waited_for_and_gets_what_changed_meanwhile() -> None:
    with scene() as here:
        pid = here.stage.haproxy.worker_pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            change(here)
            begin = time.monotonic()
            here.wait_said("gave no answer in time")
            frozen = here.stage.hapsync("freeze", "--for", "90s", "--reason", "HAProxy hangs")
            thawed = here.stage.hapsync("thaw")
            time.sleep(max(0.0, 8 - (time.monotonic() - begin)))
        finally:
            os.kill(pid, signal.SIGCONT)
        begin = time.monotonic()
        here.stage.wait_equal()
        say_figure(f"worker stopped for 8 s: right {time.monotonic() - begin:.2f} s after it went on")
        time.sleep(0.5)

        assert (frozen.returncode, thawed.returncode) == (0, 0), (frozen, thawed)
        forced = here.lost()
        assert set(forced.by_reason) <= {"no response in 5 s"}
        here.ends(forced=forced)
        assert here.stage.haproxy.worker_pid() == pid


# Its socket


def hold_all_places(here: Scene) -> Callable[[], None]:
    """Take all connections that HAProxy has for its socket, and keep them busy, until what is returned is called."""
    deferred = ExitStack()
    for _ in range(12):
        connection = deferred.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(1)
        with suppress(BlockingIOError):  # the kernel's queue is full as well
            connection.connect(str(here.stage.haproxy.socket_path))
            connection.sendall(b"prompt\n")
    return deferred.close


def take_the_file_away(here: Scene) -> Callable[[], None]:
    path, aside = here.stage.haproxy.socket_path, here.stage.work / "aside.sock"
    path.rename(aside)

    def bring_back() -> None:
        aside.rename(path)

    return bring_back


def chaotic(set_mode: Callable[[SocketChaos], None]) -> Callable[[Scene], Callable[[], None]]:
    def begin(here: Scene) -> Callable[[], None]:
        set_mode(here.chaos)
        return here.chaos.pass_through

    return begin


STOPPING = "Name: HAProxy\nVersion: 2.6.12\nUptime_sec: 100\nPid: 1\nStopping: 1"
SOCKET_FAULTS: dict[str, tuple[Callable[[Scene], Callable[[], None]], str]] = {
    "its file is gone": (take_the_file_away, "does not exist"),
    "others hold all places": (hold_all_places, "HAProxy's socket"),
    "it refuses": (chaotic(SocketChaos.refuse), "refuses the connection"),
    "it is full": (chaotic(SocketChaos.full), "is full: HAProxy takes 10 connections at a time"),
    "it takes connections and hangs": (chaotic(SocketChaos.half_open), "gave no answer in time"),
    "it resets": (chaotic(SocketChaos.reset_new), "HAProxy's socket"),
    "a worker that is stopping answers": (
        chaotic(lambda chaos: chaos.reply_with(STOPPING, command="show info")),
        "which is stopping",
    ),
    "it answers nonsense": (
        chaotic(lambda chaos: chaos.reply_with("Something new and strange.", command="show")),
        "answered 'Something new and strange.",
    ),
    "it answers nothing": (chaotic(lambda chaos: chaos.reply_with("", command="show")), "answered ''"),
}


@pytest.mark.parametrize("fault", SOCKET_FAULTS)
def test_while_haproxys_socket_fails_traffic_goes_on_and_what_changed_is_done_after(fault: str) -> None:
    begin, said = SOCKET_FAULTS[fault]
    is_real = begin in (take_the_file_away, hold_all_places)
    with scene(through_chaos=not is_real) as here:
        told = len(here.chaos.seen().told)
        serving = here.serving()
        end = begin(here)
        change(here)
        here.wait_said(said)
        status = here.stage.hapsync("status")
        time.sleep(2)
        assert not any(one.startswith("set ") for one in here.chaos.seen().told[told:])
        end()
        began = time.monotonic()
        here.stage.wait_equal()
        say_figure(f"socket: {fault}: right {time.monotonic() - began:.2f} s after it was over")

        assert (status.returncode, "CANNOT TELL" in status.stdout) == (1, True), status
        assert here.serving() != serving
        here.ends()
        assert here.log().count(said) <= 4, here.log()


# Commands


REFUSED_SECONDS = 4


@pytest.mark.quick
def test_one_command_that_is_refused_keeps_nothing_else_from_being_done() -> None:
    words = "Something new and strange."
    with scene(slots=8, instances=4, through_chaos=True) as here:
        free = sorted(name for name, one in here.stage.haproxy.servers("web").items() if one.in_maintenance)
        here.chaos.reply_with(words, command=f"set server web/{free[0]} weight 10")
        told = len(here.chaos.seen().told)
        new = [here.fleet.add() for _ in range(3)]
        here.fleet.put(attrs.evolve(next(iter(here.fleet.members.values())), weights=(7, 3)))
        wait_until(lambda: len({one.port for one in new} & here.serving()) >= 2, 20, "the others to be there")
        here.wait_counted("refused", 1)
        time.sleep(REFUSED_SECONDS)
        tries = [
            one for one in here.chaos.seen().told[told:] if one.startswith(f"set server web/{free[0]} weight 10")
        ]
        status = here.stage.status()
        say_figure(f"a command refused for {REFUSED_SECONDS} s: tried {len(tries)} times")

        assert status["sync"]["verdict"] == "out_of_sync"
        assert any(words in one["what"] for one in status["agent"]["refusals"])
        assert here.log().count("refused set server") <= 2, here.log()
        assert 2 <= len(tries) <= 20
        here.chaos.pass_through()
        here.ends()


def test_a_connection_that_drops_after_any_number_of_commands_loses_nothing() -> None:
    with scene(slots=10, instances=4, through_chaos=True) as here:
        for count in range(1, 9):
            here.chaos.drop_after_command(count, command="set server", times=count)
            change(here)
            here.stage.wait_equal()
        here.chaos.pass_through()
        here.ends()
        assert here.log().count("closed by HAProxy before it had answered") >= 3


# The reload


def test_while_the_master_is_away_changes_go_on_and_the_reload_is_made_when_it_is_back() -> None:
    with scene(slots=4, instances=3) as here:
        master, aside = here.stage.haproxy.master_path, here.stage.work / "aside.sock"
        master.rename(aside)
        here.fleet.add_at_once(3)
        here.wait_counted("failed_reloads", 1)
        here.fleet.put(attrs.evolve(next(iter(here.fleet.members.values())), weights=(7, 3)))
        here.wait_weight(7)
        status = here.stage.status()
        aside.rename(master)

        assert status["sync"]["verdict"] == "out_of_sync"
        assert "no free slot" in "".join(status["sync"]["reasons"])
        assert "master socket" in str(status["agent"]["reloads"][-1]["error"])
        here.ends()
        assert here.stage.reloads() == 1


def hanging_check(stage: Stage) -> list[str]:
    """A check command that hangs, its children with it, while there is a file named `hang`."""
    script = stage.work / "check.sh"
    found = re.search(r'(?m)^check_command = \["([^"]+)"', stage.config_path.read_text())
    assert found is not None
    script.write_text(
        f'#!/bin/sh\nif [ -e {stage.work}/hang ]; then sleep 60; exit 1; fi\nexec {found[1]} -c -f "$1"\n'
    )
    return ["sh", str(script), "{config}"]


def test_while_the_check_hangs_changes_within_the_slots_go_on_and_people_are_answered() -> None:
    def prepare(stage: Stage) -> None:
        settle(stage.config_path, check_command=hanging_check(stage))

    with scene(slots=5, instances=4, prepare=prepare, check_timeout_seconds=12) as here:
        (here.stage.work / "hang").touch()
        here.fleet.add_at_once(3)  # one has a slot, two have none
        begin = time.monotonic()
        wait_until(lambda: len(here.serving()) == 5, 10, "the one that has a slot")
        for weight in range(20, 26):
            here.fleet.put(attrs.evolve(next(iter(here.fleet.members.values())), weights=(weight, 3)))
            here.wait_weight(weight)
        took = time.monotonic() - begin
        deferred = here.stage.hapsync("drain", f"web/{here.slot(next(iter(here.fleet.members.values())).port)}")
        released = here.stage.hapsync("release", f"web/{here.slot(next(iter(here.fleet.members.values())).port)}")
        frozen = here.stage.hapsync("freeze")
        thawed = here.stage.hapsync("thaw")
        say_figure(f"check command hangs: 7 changes within the slots took {took:.2f} s")
        assert [one.returncode for one in (deferred, released, frozen, thawed)] == [0, 0, 0, 0]
        here.wait_counted("failed_reloads", 1)
        assert "not done after 12 s, so it was ended" in str(here.stage.status()["agent"]["reloads"][-1]["error"])
        (here.stage.work / "hang").unlink()
        here.ends(timeout_seconds=20)
        assert here.stage.reloads() == 1


def test_a_reload_that_never_brings_a_worker_is_undone_and_not_made_again_and_again() -> None:
    with scene(slots=4, instances=4, master_socket=None, reload_command=["true"], reload_timeout_seconds=3) as here:
        before = here.stage.haproxy.config.read_text()
        pid = here.stage.haproxy.worker_pid()
        here.fleet.add()
        here.wait_counted("failed_reloads", 1)
        assert here.stage.haproxy.config.read_text() == before
        error = str(here.stage.status()["agent"]["reloads"][-1]["error"])
        assert "the old file is back" in error
        assert f"a worker other than {pid} to answer" in error
        here.fleet.put(attrs.evolve(next(iter(here.fleet.members.values())), weights=(7, 3)))
        here.wait_weight(7)
        time.sleep(6)
        assert here.counters()["failed_reloads"] <= 2
        assert here.stage.hapsync("status").returncode == 2
        settle(
            here.stage.config_path,
            reload_command=["sh", "-c", f"echo reload | {NETCAT} {here.stage.haproxy.master_path}"],
        )
        here.stage.agent.signal(signal.SIGHUP)
        here.ends(timeout_seconds=20)
        assert here.stage.reloads() == 1


NETCAT = (
    "python3 -c 'import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    "s.sendall(sys.stdin.buffer.read()); s.recv(1)'"
)

# Others' hands


def test_every_field_that_somebody_changes_is_mended_or_left_to_them() -> None:
    with scene(slots=8, instances=4) as here:
        haproxy = here.stage.haproxy
        gone = here.fleet.members["web-4"]
        old_slot = here.slot(gone.port)
        here.fleet.remove("web-4")
        here.wait_in_step()
        members = {one.port: here.slot(one.port) for one in here.fleet.members.values()}
        first, second, third = members
        elsewhere = here.fleet.start_server()  # alive, but not in Consul: what is sent there is not lost
        drift = here.counters()["drift"]

        def hand(*commands: str) -> None:
            for command in commands:
                haproxy.ask(f"set server web/{command}")

        hand(f"{members[first]} weight 3")
        here.wait_in_step()
        here.wait_counted("drift", drift + 1)

        hand(f"{old_slot} state ready", f"{old_slot} weight 10")
        here.wait_in_step()
        here.wait_counted("drift", drift + 2)
        assert haproxy.servers("web")[old_slot].in_maintenance

        hand(f"{members[second]} addr 127.0.0.1 port {elsewhere.port}")
        here.wait_in_step()
        here.wait_counted("drift", drift + 4)  # the one that should not be is removed, the one that should is added
        assert elsewhere.port not in here.serving()
        assert second in here.serving()

        hand(f"{members[third]} health down")
        here.wait_in_step()
        here.wait_counted("drift", drift + 4)  # HAProxy's own check, which brings it back

        hand("srv8 addr 127.0.0.1 port 9")
        time.sleep(2.5)  # as long as it takes until HAProxy is read whole, and nothing comes of it
        rows = {one["server"]: one for one in here.stage.status()["backends"]["web"]["servers"]}
        assert (rows["srv8"]["use"], rows["srv8"]["address"]) == ("overridden", "127.0.0.1:9")
        assert here.stage.hapsync("release", "web/srv8").returncode == 0
        here.wait_in_step()
        rows = {one["server"]: one for one in here.stage.status()["backends"]["web"]["servers"]}
        assert rows["srv8"]["use"] == "free"
        say_figure(f"changes by others' hands: 4 of 6 mended, {here.counters()['drift'] - drift} counted as drift")
        here.ends()

"""The lab's network: its machines reach each other and nothing else, and none of it outlives the lab."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.harness.processes import wait_until
from tests.harness.tools import ROOT
from tests.lab.network import Network, Space, open_network
from tests.lab.sweeper import FOLDER, inside, sweep

LISTEN = "import socket; s = socket.create_server((%r, 80)); s.accept()"
CONNECT = "import socket; print(socket.create_connection((%r, 80), timeout=2).getpeername()[0])"


def run(space: Space, code: str) -> str:
    ended = subprocess.run(
        space.command(sys.executable, "-c", code), capture_output=True, text=True, check=False, timeout=20
    )
    return ended.stdout.strip() or ended.stderr.strip().splitlines()[-1]


def listens(space: Space) -> bool:
    return " 0A " in run(space, "print(open('/proc/net/tcp').read())")  # state LISTEN


def left(network: Network) -> list[str]:
    """What is there still, of namespaces, processes and the folder."""
    names = [space.name for space in network.spaces]
    folders = [str(network.folder)] if network.folder.exists() else []
    return [name for name in names if (FOLDER / name).exists()] + [str(pid) for pid in inside(names)] + folders


def test_machines_reach_each_other_but_not_the_world_and_two_networks_do_not_meet() -> None:
    with open_network() as network, open_network() as other:
        server = network.servers.addresses[-1]
        with subprocess.Popen(network.servers.command(sys.executable, "-c", LISTEN % server)) as listener:
            wait_until(lambda: listens(network.servers), 10, "the server to listen")
            assert "Error" in run(other.balancer, CONNECT % server)
            assert run(network.balancer, CONNECT % server) == server
            listener.wait(10)
        assert "unreachable" in run(network.clients, CONNECT % "192.0.2.1")


def test_nothing_is_left_of_a_network_at_its_end_even_of_programs_that_run_in_it() -> None:
    with open_network() as network:
        with subprocess.Popen(network.clients.command("sleep", "600")) as sleeper:
            pass_on = f"setsid sh -c 'trap : TERM HUP; sleep 600' & echo $! > {network.folder}/pid"
            subprocess.run(network.servers.command("sh", "-c", pass_on), check=True)
            wait_until(lambda: len(inside([space.name for space in network.spaces])) >= 2, 5, "both to run")
            assert len(left(network)) >= 8
            sweep([network.clients.name], network.folder)
            assert sleeper.wait(5) == -signal.SIGKILL
        assert not (FOLDER / network.clients.name).exists()
        assert (FOLDER / network.servers.name).exists()

    assert left(network) == []


@contextmanager
def a_lab(told: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, list[str]]]:
    """A process that has a network, in which something runs; with the network's folder and its machines' names."""
    code = """
        import subprocess, sys, time
        from pathlib import Path
        from tests.lab.network import open_network
        with open_network() as network:
            told = [str(network.folder), *(space.name for space in network.spaces)]
            subprocess.Popen(network.servers.command("sleep", "600"))
            Path(sys.argv[1]).write_text("\\n".join(told))
            time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), told], cwd=ROOT) as lab:
        try:
            folder, *names = wait_until(lambda: told.read_text().split(), 20, "the network")
            wait_until(lambda: len(inside(names)) == 1, 5, "what runs in it")
            assert Path(folder).exists()
            yield lab, Path(folder), names
        finally:
            lab.kill()
    with suppress(OSError):
        sweep(names, Path(folder))


def is_gone(lab: subprocess.Popen[bytes], folder: Path) -> bool:
    return not list(FOLDER.glob(f"hslab-{lab.pid}-*")) and not folder.exists()


def test_what_a_lab_left_that_was_killed_with_its_sweeper_is_gone_at_the_next_start(tmp_path: Path) -> None:
    with a_lab(tmp_path / "told") as (lab, folder, names):
        os.kill(sweeper_of(folder), signal.SIGKILL)
        with open_network() as beside:
            assert not is_gone(lab, folder)  # it runs
            lab.kill()
            lab.wait(5)
            wait_until(lambda: not Path(f"/proc/{lab.pid}").exists(), 5, "it to end")
            assert not is_gone(lab, folder)
            with open_network():
                assert is_gone(lab, folder)
                assert inside(names) == set()
                assert left(beside)


def sweeper_of(folder: Path) -> int:
    [pid] = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if {b"tests.lab.sweeper", str(folder).encode()} <= set(path.read_bytes().split(b"\0"))
    ]
    return pid

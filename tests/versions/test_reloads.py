"""What a reload promises beside growing: kept connections, a gap to the next one, and a warning before it is due."""

import http.client
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import attrs

from hapsync.haproxy.master import read_processes
from tests.demo.fleet import Fleet
from tests.demo.stage import NO_GUARD, Stage
from tests.harness.processes import wait_until

SLOTS = 'scaling = "slots"'
CLIENTS = 12


@contextmanager
def kept_connections(stage: Stage, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Connections that had an answer each and were kept."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            one = http.client.HTTPConnection("127.0.0.1", stage.frontend_port, timeout=30)
            stack.callback(one.close)
            assert answer(one) == (200, None)
            connections.append(one)
        yield connections


def answer(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    """The status of a request over that connection, and what the answer says of the connection."""
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read()
    return response.status, response.getheader("Connection")


def workers(stage: Stage) -> tuple[int, ...]:
    return read_processes(str(stage.haproxy.master_path), 5).workers


def test_an_old_worker_answers_all_its_kept_connections_once_more_and_cuts_none_while_it_drains() -> None:
    with Stage({"web": 2}, backend_options=SLOTS) as stage, Fleet(stage) as fleet:
        fleet.add()
        leaving = fleet.add()
        stage.wait_equal()
        before = stage.haproxy.worker_pid()
        with kept_connections(stage, CLIENTS) as idle, kept_connections(stage, CLIENTS) as busy:
            sockets = [one.sock for one in idle]
            for one in busy:
                one.request("GET", "/slow?ms=15000")
            fleet.add_at_once(3)
            wait_until(lambda: stage.haproxy.worker_pid() not in (None, before), 20, "the new worker")
            fleet.remove(leaving.name)
            stage.wait_equal()

            assert before in wait_until(lambda: workers(stage), 10, "the master, which is deaf for a moment")
            assert [one.sock for one in idle] == sockets
            assert [answer(one) for one in idle] == [(200, "close")] * CLIENTS
            assert [one.sock for one in idle] == [None] * CLIENTS
            assert [answer(one) for one in idle] == [(200, None)] * CLIENTS  # by the new worker, on new connections
            assert [one.getresponse().status for one in busy] == [200] * CLIENTS
        assert stage.reloads() == 1
        wait_until(lambda: before not in workers(stage), 30, "the old worker to end")


def test_a_reload_waits_for_the_gap_after_another_and_the_first_for_none() -> None:
    gap_seconds = 12
    with Stage({"web": 1}, agent=False, backend_options=SLOTS) as stage, Fleet(stage) as fleet:
        settings = stage.config_path.read_text()
        stage.config_path.write_text(
            settings.replace("[haproxy]\n", f"[haproxy]\nreload_gap_seconds = {gap_seconds}\n")
        )
        fleet.add()
        stage.start_agent()
        stage.wait_equal()
        asked_at = time.time()
        fleet.add()
        stage.wait_equal()
        fleet.add_at_once(6)
        stage.wait_equal(timeout_seconds=20)
        wait_until(lambda: len(stage.status()["agent"]["reloads"]) == 2, 10, "both to be reported")

        first, second = stage.status()["agent"]["reloads"]
        assert first["at"] - asked_at < gap_seconds - 2
        assert gap_seconds <= second["at"] - first["at"] < 2 * gap_seconds
        assert second["at"] - second["seconds"] - first["at"] > gap_seconds - 1


def test_slots_that_run_out_are_warned_of_once_and_once_more_when_that_was_over() -> None:
    with Stage({"web": 5}, backend_options=f"{SLOTS}\n{NO_GUARD}", agent_options="resync_seconds = 1") as stage:
        log = stage.work / "agent.log"

        def said(words: str) -> int:
            return log.read_text().count(words)

        def passes() -> int:
            count: int = stage.status()["agent"]["counters"]["passes"]
            return count

        with Fleet(stage) as fleet:
            members = [fleet.add() for _ in range(3)]
            stage.wait_equal()
            assert said("slots of backend web run out") == 0
            fourth = fleet.add()
            stage.wait_equal()
            begun = passes()
            for weight in (20, 30, 40):
                fleet.put(attrs.evolve(members[0], weights=(weight, 3)))
                stage.wait_equal()
            wait_until(lambda: passes() >= begun + 6, 20, "more passes")
            assert said("slots of backend web run out") == 1
            assert said("slots backend web: enough are free again") == 0

            fleet.remove(fourth.name)
            wait_until(lambda: said("slots backend web: enough are free again"), 10, "the end of it")
            fleet.add()
            stage.wait_equal()
            wait_until(lambda: said("slots of backend web run out") == 2, 10, "the second warning")

        assert stage.reloads() == 0

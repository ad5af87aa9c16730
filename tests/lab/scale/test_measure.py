"""On a real cluster: what is played reaches the servers, and is measured there."""

import http.client
import os
import time
from pathlib import Path

import pytest

from tests.harness.ports import free_port
from tests.harness.tools import consul_path, consul_version
from tests.lab.scale.gauge import cpu_seconds, rss_bytes
from tests.lab.scale.measure import Plan, measure
from tests.lab.scale.players import Player, Tally, srv_answers, srv_query
from tests.lab.scale.strategies import STRATEGIES
from tests.lab.scale.streaming import NoStreamingError, consul_of

SMALL = Plan(counts=(1, 3), services=4, agents=2, seconds=1.0, changes_per_second=6.0)


def test_hapsync_holds_a_query_for_each_service_and_a_change_wakes_each_balancer() -> None:
    one, three = measure("hapsync", STRATEGIES["hapsync"], SMALL, "changes")

    # Each balancer holds one more, about Consul's servers, and Consul's leader one of its own besides.
    assert 4 <= one.blocked < 9
    assert 12 <= three.blocked < 19
    assert (one.changes, one.wakes, three.wakes) == (6, 6, 18)
    assert three.requests >= 18
    # An instance is more than a kilobyte, even in a client agent's encoding.
    assert three.sent_bytes > 18 * 20 * 500
    assert 2 < three.sent_bytes / one.sent_bytes < 4
    assert three.cpu_seconds > 0
    assert len(three.woken_seconds) == 6


def test_the_names_of_dns_are_asked_at_the_servers_and_a_poll_holds_nothing() -> None:
    [two] = measure("DNS", STRATEGIES["DNS"], Plan((2,), 4, 2, 2.0, 1.0), "rest")

    assert 12 <= two.answers <= 20
    # Agents that compare what they have with the catalog ask two questions each besides.
    assert two.answers - 4 <= two.requests <= two.answers + 12
    assert two.blocked < 4


def test_a_player_that_cannot_go_on_says_so() -> None:
    tally = Tally()

    def work() -> None:
        http.client.HTTPConnection("127.0.0.1", free_port()).request("GET", "/")

    player = Player([work], tally)
    deadline = time.monotonic() + 5
    while not tally.errors and time.monotonic() < deadline:
        time.sleep(0.01)
    player.stop()

    assert "ConnectionRefusedError" in tally.errors[0]


def test_a_query_of_dns_asks_for_srv_records_and_an_error_has_none() -> None:
    query = srv_query("_web._tcp.service.consul")

    assert b"\x04_web\x04_tcp\x07service\x06consul\x00\x00\x21\x00\x01" in query
    assert srv_answers(b"\0\0\x85\x80\0\x01\0\x14\0\0\0\0") == 20
    assert srv_answers(b"\0\0\x85\x83\0\x01\0\x14\0\0\0\0") == 0


def test_the_clock_of_a_process_is_its_cpu_time_and_its_memory_is_in_bytes() -> None:
    before = cpu_seconds(os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass

    assert cpu_seconds(os.getpid()) - before == pytest.approx(0.05, abs=0.04)
    assert 10_000_000 < rss_bytes(os.getpid()) < 4_000_000_000


def test_without_a_consul_that_streams_the_lab_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CONSUL", raising=False)
    monkeypatch.setenv("CONSUL_STREAMING", str(tmp_path / "none"))
    with pytest.raises(NoStreamingError, match="set CONSUL_STREAMING"), consul_of(is_streaming=True):
        pass
    program = tmp_path / "consul"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("CONSUL_STREAMING", str(program))
    with consul_of(is_streaming=True):
        assert os.environ["CONSUL"] == str(program)
    assert "CONSUL" not in os.environ


def test_the_consul_at_hand_says_its_version() -> None:
    assert consul_version(consul_path()) >= (1, 8)
    with pytest.raises(ValueError, match="no version of Consul"):
        consul_version("/bin/echo")
